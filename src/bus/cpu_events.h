// What interrupt controllers may do to a vCPU, and what a vCPU asks of its interrupt controller.
#pragma once

#include <cstdint>
#include <optional>

#include "bus/kernel_apics.h"

namespace ostler::bus {

// One vCPU as its local APIC sees it. Any thread; each call is remembered until the vCPU takes it and wakes
// or kicks the vCPU, so nothing is lost however it is timed.
class CpuEvents {
 public:
  virtual ~CpuEvents() = default;
  virtual void interrupt_changed() = 0;  // CpuInterrupts::pending() may have become true
  virtual void nmi() = 0;
  virtual void smi() = 0;
  virtual void init() = 0;
  virtual void sipi(uint8_t vector) = 0;
  virtual void unhalt() = 0;  // the next or present HLT ends, whatever RFLAGS.IF says
};

// The local APIC (with the 8259 behind it) as its vCPU sees it. Called on the vCPU's own thread, except
// pending().
class CpuInterrupts {
 public:
  virtual ~CpuInterrupts() = default;
  // True when an interrupt could be delivered now if RFLAGS.IF allowed. One relaxed atomic load or little
  // more.
  virtual bool pending() const = 0;
  // Takes the highest-priority deliverable interrupt (INTA cycle); none if it went away meanwhile.
  virtual std::optional<uint8_t> acknowledge() = 0;
  virtual uint8_t cr8() const = 0;  // task priority bits 7:4
  virtual void set_cr8(uint8_t value) = 0;
  // IA32_APIC_BASE (0x1b), IA32_TSC_DEADLINE (0x6e0), x2APIC (0x800-0x8ff). False, nullopt: #GP.
  virtual std::optional<uint64_t> read_msr(uint32_t index) = 0;
  virtual bool write_msr(uint32_t index, uint64_t value) = 0;
  // The vCPU takes an INIT (SDM 3A §11.4.7.3), or its TSC jumped (WRMSR to TSC or TSC_ADJUST, restore).
  virtual void init_reset() {}
  virtual void tsc_changed() {}
  // With KernelApics: taken from the kernel and given to it while the vCPU does not run. The kernel reports
  // the end of level-triggered interrupts.
  virtual ApicImage image() { return {}; }
  virtual void set_image(const ApicImage&) {}
  virtual void eoi_reported(uint8_t) {}
};

}  // namespace ostler::bus
