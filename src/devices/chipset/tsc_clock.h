// One vCPU's time-stamp counter, as its APIC timer and kvmclock need it. The accelerator implements it.
#pragma once

#include <cstdint>

namespace ostler::chipset {

class TscClock {
 public:
  virtual ~TscClock() = default;
  virtual uint64_t guest_tsc() const = 0;  // now, as RDTSC in the guest gives it; any thread
  virtual uint64_t frequency() const = 0;  // Hz, constant, not 0
};

}  // namespace ostler::chipset
