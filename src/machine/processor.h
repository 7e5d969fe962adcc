// One vCPU with its local APIC and its paravirtual services.
#pragma once

#include <memory>

#include "accel/vcpu.h"
#include "devices/chipset/local_apic.h"
#include "devices/chipset/tsc_clock.h"
#include "machine/paravirt.h"
#include "machine/tsc_base.h"

namespace ostler::machine {

// The guest's TSC of one vCPU under the software engines: the common base, plus the guest's own offset.
class VcpuTsc final : public chipset::TscClock {
 public:
  VcpuTsc(const TscBase& base, uint64_t frequency) : base_(base), frequency_(frequency) {}
  void set_state(x86::CpuState& state) { state_ = &state; }  // before the vCPU runs
  uint64_t guest_tsc() const override;
  void move(uint64_t change);  // while paused
  uint64_t frequency() const override { return frequency_; }

 private:
  const TscBase& base_;
  const uint64_t frequency_;
  x86::CpuState* state_ = nullptr;
};

class Processor {
 public:
  Processor(unsigned index, const chipset::LocalApic::Options& apic, const TscBase& tsc_base, uint64_t tsc_hz,
            chipset::ApicBus& bus, event::Loop& loop, chipset::KvmClockBase& clock,
            memory::AddressSpace& memory, std::function<void()> triple_fault)
      : tsc_(tsc_base, tsc_hz),
        paravirt_(clock, tsc_, memory, bus),
        apic_(apic, bus, loop, tsc_),
        vcpu_(index, std::move(triple_fault)) {
    apic_.attach(vcpu_);
    paravirt_.attach(apic_);
  }

  VcpuTsc& tsc() { return tsc_; }
  chipset::LocalApic& apic() { return apic_; }
  accel::Vcpu& vcpu() { return vcpu_; }
  Paravirt& paravirt() { return paravirt_; }

 private:
  VcpuTsc tsc_;
  Paravirt paravirt_;
  chipset::LocalApic apic_;
  accel::Vcpu vcpu_;
};

}  // namespace ostler::machine
