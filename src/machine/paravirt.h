// The KVM services that a vCPU under the software engines offers: kvmclock.
#pragma once

#include "accel/paravirt.h"
#include "devices/chipset/kvm_clock.h"

namespace ostler::machine {

class Paravirt final : public accel::Paravirt {
 public:
  static constexpr uint32_t kFeatures = chipset::KvmClock::kFeatures;  // CPUID 0x40000001 EAX

  Paravirt(chipset::KvmClockBase& base, const chipset::TscClock& tsc, memory::AddressSpace& space)
      : clock_(base, tsc, space) {}

  std::optional<uint64_t> read_msr(uint32_t index) override { return clock_.read_msr(index); }
  bool write_msr(uint32_t index, uint64_t value) override { return clock_.write_msr(index, value); }
  uint64_t hypercall(uint64_t number, const uint64_t (&arguments)[4]) override;
  void tsc_changed() override { clock_.update(); }

  chipset::KvmClock& clock() { return clock_; }

 private:
  chipset::KvmClock clock_;
};

}  // namespace ostler::machine
