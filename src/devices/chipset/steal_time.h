// Steal time, and TLB flushes that need no interrupt (Linux Documentation/virt/kvm/x86/msr.rst,
// MSR_KVM_STEAL_TIME). The guest's record tells it how long its vCPU was ready to run and did not, and
// whether it runs now. While a halted vCPU is marked as not running, others may ask in the record that its
// TLB be flushed before it runs again, instead of waking it for that. On the vCPU's thread, or while it is
// paused.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "memory/dma.h"
#include "state/archive.h"

namespace ostler::chipset {

class StealTime final : public state::Savable {
 public:
  static constexpr uint32_t kFeatures = 1u << 5 | 1u << 9;  // CPUID leaf 0x40000001 EAX
  static constexpr uint32_t kMsr = 0x4b564d03;

  // `delay_ns`: how long the calling thread has waited for a processor, since it began.
  StealTime(memory::AddressSpace& space, std::function<uint64_t()> delay_ns)
      : dma_(space), delay_ns_(std::move(delay_ns)) {}

  uint64_t msr() const { return msr_; }
  bool set_msr(uint64_t value);  // false: reserved bits
  void halted();                 // the vCPU runs no guest code until running() is called
  bool running();                // true: its TLB is to be flushed
  void update();                 // the time; costs a system call
  void reset() { msr_ = 0; }
  void state(state::Archive& archive) override;

 private:
  bool enabled() const { return (msr_ & 1) != 0; }
  GuestPhys at(uint64_t offset) const { return {(msr_ & ~uint64_t{63}) + offset}; }

  memory::Dma dma_;
  const std::function<uint64_t()> delay_ns_;
  uint64_t msr_ = 0;
  uint64_t stolen_ = 0;             // ns, as the guest was told
  std::optional<uint64_t> before_;  // delay_ns() when it was
};

// delay_ns() of a thread of this process, from the scheduler's accounts; always 0 where it keeps none. Called
// by that thread.
uint64_t scheduling_delay_ns();

}  // namespace ostler::chipset
