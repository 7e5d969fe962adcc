// Where the host's processor is the judge: Intel's manual is what Ostler follows, and AMD's processors take a
// few liberties of their own.
#pragma once

#include "x86/host_cpu.h"

namespace ostler::test {

inline bool host_is_intel() {
  return x86::HostCpu::current().vendor == "GenuineIntel";
}

}  // namespace ostler::test
