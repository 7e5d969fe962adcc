// Extended state for those outside the vector family.
#pragma once

#include <cstdint>

#include "x86/state.h"

namespace ostler::interp {

// State components that are not in their initial configuration: x87 1, SSE 2, AVX 4. What XGETBV with ECX = 1
// ANDs with XCR0 (SDM Vol. 1 §13.6).
uint64_t xinuse(const x86::CpuState& state);

}  // namespace ostler::interp
