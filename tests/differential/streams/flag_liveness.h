// Which arithmetic flags a program can still see. A translator need not compute the others, and they are
// garbage in the frame of a fault.
#pragma once

#include <cstdint>

#include "machine_state.h"

namespace ostler::differential {

// Before the instruction of `test` at `rip`; everything when control may go where it cannot be followed.
uint64_t live_flags(const TestCase& test, uint64_t rip);

}  // namespace ostler::differential
