// The machine around a vCPU as the interpreter sees it: ports, the local APIC, the paravirtual services and
// the time-stamp counter. All of it on the vCPU's thread, which does not count as running guest code while it
// is inside a device: devices take locks and may wait for running vCPUs (mmu/vcpu_group.h).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "accel/paravirt.h"
#include "bus/cpu_events.h"
#include "interp/environment.h"
#include "memory/address_space.h"
#include "mmu/soft_mmu.h"
#include "x86/cpu_model.h"

namespace ostler::accel {

class MachineEnvironment final : public interp::Environment {
 public:
  struct Context {
    memory::AddressSpace& ports;
    bus::CpuInterrupts& interrupts;
    Paravirt& paravirt;
    std::function<void()> fpu_error;  // FERR#: IRQ 13; may be empty
    x86::VcpuInfo info;
  };
  // Both outlive it.
  MachineEnvironment(x86::CpuState& state, mmu::SoftMmu& mmu, Context context)
      : state_(state), mmu_(mmu), context_(std::move(context)), ports_(context_.ports) {}

  uint32_t port_read(uint16_t port, unsigned size) override;
  void port_write(uint16_t port, unsigned size, uint32_t value) override;
  uint64_t tsc() override;
  void tsc_changed() override;
  const x86::VcpuInfo& vcpu_info() const override { return context_.info; }
  uint8_t cr8() override { return context_.interrupts.cr8(); }
  void set_cr8(uint8_t value) override { context_.interrupts.set_cr8(value); }
  std::optional<uint64_t> read_msr(uint32_t index) override;
  bool write_msr(uint32_t index, uint64_t value) override;
  uint64_t hypercall(const x86::Hypercall& call) override;
  std::optional<uint8_t> acknowledge_interrupt() override;
  void fpu_error() override {
    if (context_.fpu_error) context_.fpu_error();
  }

 private:
  x86::CpuState& state_;
  mmu::SoftMmu& mmu_;
  const Context context_;
  memory::AddressSpace::Reader ports_;
};

}  // namespace ostler::accel
