// The KVM services that a vCPU under the software engines offers: kvmclock, steal time, PV EOI, PV IPIs, PV
// TLB flushes, and wake-ups for spinlocks. Asynchronous page faults are not offered: a page that the host has
// swapped out is waited for by the thread, and another vCPU's thread runs meanwhile.
#pragma once

#include "accel/paravirt.h"
#include "devices/chipset/apic_bus.h"
#include "devices/chipset/kvm_clock.h"
#include "devices/chipset/local_apic.h"
#include "devices/chipset/memory_eoi.h"
#include "devices/chipset/steal_time.h"

namespace ostler::machine {

class Paravirt final : public accel::Paravirt {
 public:
  // CPUID 0x40000001 EAX. Under KVM with our own interrupt controllers only the clock is: KVM does the rest
  // in the kernel or not at all.
  static constexpr uint32_t kUnderKvm = chipset::KvmClock::kFeatures;
  static constexpr uint32_t kUnhalt = 1u << 7, kSendIpi = 1u << 11, kSchedYield = 1u << 13;
  static constexpr uint32_t kFeatures = kUnderKvm | chipset::StealTime::kFeatures |
                                        chipset::MemoryEoi::kFeature | kUnhalt | kSendIpi | kSchedYield;

  Paravirt(chipset::KvmClockBase& base, const chipset::TscClock& tsc, memory::AddressSpace& space,
           chipset::ApicBus& bus)
      : clock_(base, tsc, space), steal_(space, chipset::scheduling_delay_ns), eoi_(space), bus_(bus) {}
  // Before the vCPU runs.
  void attach(chipset::LocalApic& apic) {
    apic_ = &apic;
    apic.set_memory_eoi(eoi_);
  }

  std::optional<uint64_t> read_msr(uint32_t index) override;
  bool write_msr(uint32_t index, uint64_t value) override;
  uint64_t hypercall(const x86::Hypercall& call) override;
  void tsc_changed() override { clock_.update(); }
  void halted() override { steal_.halted(); }
  bool running() override;
  void interrupted() override;

  chipset::KvmClock& clock() { return clock_; }
  void reset();                         // while paused
  void state(state::Archive& archive);  // while paused, after the APIC's

 private:
  uint64_t send_ipi(const x86::Hypercall& call);

  chipset::KvmClock clock_;
  chipset::StealTime steal_;
  chipset::MemoryEoi eoi_;
  chipset::ApicBus& bus_;
  chipset::LocalApic* apic_ = nullptr;
  uint64_t told_ = 0;  // host TSC when the steal time was last told
};

}  // namespace ostler::machine
