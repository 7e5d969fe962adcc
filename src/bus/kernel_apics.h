// Local APICs that the host's kernel keeps while vCPUs run, as KVM can: what the rest of the machine needs of
// them. Our own local APICs hold the same state while the vCPUs are paused.
#pragma once

#include <array>
#include <cstdint>

#include "memory/address.h"

namespace ostler::bus {

// All that a local APIC is made of: IA32_APIC_BASE, IA32_TSC_DEADLINE, and the xAPIC page's registers by
// offset / 16 (SDM 3A table 11-1). The current count tells how far the timer has come.
struct ApicImage {
  uint64_t base = 0, tsc_deadline = 0;
  std::array<uint32_t, 64> page{};
};

// Any thread.
class KernelApics {
 public:
  virtual ~KernelApics() = default;
  virtual void deliver_msi(GuestPhys address, uint32_t data) = 0;
  // What our I/O APIC's pin sends when it is asserted, so that the kernel knows whose end of interrupt to
  // report.
  virtual void pin_sends(unsigned pin, GuestPhys address, uint32_t data) = 0;
};

}  // namespace ostler::bus
