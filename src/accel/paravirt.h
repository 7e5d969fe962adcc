// The KVM paravirtual services of one vCPU, as the guest sees them through MSRs and hypercalls (the kernel's
// Documentation/virt/kvm/x86/msr.rst, hypercalls.rst). The machine implements it; engines call it on the
// vCPU's thread.
#pragma once

#include <cstdint>
#include <optional>

#include "x86/hypercall.h"

namespace ostler::accel {

class Paravirt {
 public:
  virtual ~Paravirt() = default;
  // nullopt, false: not one of its MSRs, or a bad value.
  virtual std::optional<uint64_t> read_msr(uint32_t index) = 0;
  virtual bool write_msr(uint32_t index, uint64_t value) = 0;
  virtual void tsc_changed() = 0;                              // the guest changed its TSC's offset
  virtual uint64_t hypercall(const x86::Hypercall& call) = 0;  // the result for RAX
  // The vCPU halted, and runs no guest code until running(). True: its TLB is to be flushed before it does.
  virtual void halted() {}
  virtual bool running() { return false; }
  virtual void interrupted() {}  // an interrupt is taken
};

}  // namespace ostler::accel
