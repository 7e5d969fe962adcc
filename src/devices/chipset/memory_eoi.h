// PV EOI: a bit in guest memory by which a guest ends an interrupt without telling its local APIC (Linux
// Documentation/virt/kvm/x86/msr.rst, MSR_KVM_PV_EOI_EN). The APIC offers it for an interrupt that nobody
// needs to hear the end of, and finds out later. On the vCPU's thread, or while it is paused.
#pragma once

#include <cstdint>

#include "memory/dma.h"
#include "state/archive.h"

namespace ostler::chipset {

class MemoryEoi final : public state::Savable {
 public:
  static constexpr uint32_t kFeature = 1u << 6;  // CPUID leaf 0x40000001 EAX
  static constexpr uint32_t kMsr = 0x4b564d04;

  explicit MemoryEoi(memory::AddressSpace& space) : dma_(space) {}

  uint64_t msr() const { return msr_; }
  bool set_msr(uint64_t value);  // false: reserved bits
  bool offer();                  // false: the guest has not asked for it, or its memory is gone
  bool withdraw();               // true: the guest has taken the offer: the interrupt has ended
  void reset() { msr_ = 0; }
  void state(state::Archive& archive) override;

 private:
  GuestPhys place() const { return {msr_ & ~uint64_t{3}}; }

  memory::Dma dma_;
  uint64_t msr_ = 0;
};

}  // namespace ostler::chipset
