#include "accel/soft/machine_environment.h"

#include <x86intrin.h>

namespace ostler::accel {
namespace {

class OutsideGuest {
 public:
  explicit OutsideGuest(mmu::SoftMmu& mmu) : participant_(mmu.participant()) { participant_.leave_running(); }
  ~OutsideGuest() { participant_.enter_running(); }
  OutsideGuest(const OutsideGuest&) = delete;
  OutsideGuest& operator=(const OutsideGuest&) = delete;

 private:
  mmu::Participant& participant_;
};

constexpr uint32_t kApicBase = 0x1b, kTscDeadline = 0x6e0, kX2ApicFirst = 0x800, kX2ApicLast = 0x8ff;

bool is_apic_msr(uint32_t index) {
  return index == kApicBase || index == kTscDeadline || (index >= kX2ApicFirst && index <= kX2ApicLast);
}

}  // namespace

uint32_t MachineEnvironment::port_read(uint16_t port, unsigned size) {
  const OutsideGuest outside(mmu_);
  return static_cast<uint32_t>(ports_.read({port}, size));
}

void MachineEnvironment::port_write(uint16_t port, unsigned size, uint32_t value) {
  const OutsideGuest outside(mmu_);
  ports_.write({port}, size, value);
}

uint64_t MachineEnvironment::tsc() {
  return __rdtsc() + state_.msr.tsc_offset;
}

void MachineEnvironment::tsc_changed() {
  const OutsideGuest outside(mmu_);
  context_.interrupts.tsc_changed();
  context_.paravirt.tsc_changed();
}

std::optional<uint64_t> MachineEnvironment::read_msr(uint32_t index) {
  const OutsideGuest outside(mmu_);
  return is_apic_msr(index) ? context_.interrupts.read_msr(index) : context_.paravirt.read_msr(index);
}

bool MachineEnvironment::write_msr(uint32_t index, uint64_t value) {
  const OutsideGuest outside(mmu_);
  return is_apic_msr(index) ? context_.interrupts.write_msr(index, value)
                            : context_.paravirt.write_msr(index, value);
}

uint64_t MachineEnvironment::hypercall(const x86::Hypercall& call) {
  const OutsideGuest outside(mmu_);
  return context_.paravirt.hypercall(call);
}

std::optional<uint8_t> MachineEnvironment::acknowledge_interrupt() {
  context_.paravirt.interrupted();
  return context_.interrupts.acknowledge();
}

}  // namespace ostler::accel
