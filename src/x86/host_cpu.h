// What the processor we run on can do: its CPUID, read once. Any thread.
#pragma once

#include <cstdint>
#include <string>

#include "x86/feature.h"

namespace ostler::x86 {

struct CpuidResult {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
  friend bool operator==(const CpuidResult&, const CpuidResult&) = default;
};

struct HostCpu {
  std::string vendor;  // 12 characters
  std::string brand;   // up to 48 characters
  unsigned family = 0, model = 0, stepping = 0;
  unsigned physical_bits = 36;
  FeatureSet features;  // as CPUID tells; AVX only when the kernel saves its registers (XCR0)

  static const HostCpu& current();
};

// The host's TSC frequency in Hz: from CPUID or the kernel's own calibration where told, else measured
// against the monotonic clock for 5 ms. Found once.
uint64_t host_tsc_hz();

}  // namespace ostler::x86
