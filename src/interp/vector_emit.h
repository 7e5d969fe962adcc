// From a decoded instruction to its host stub (vector_stub.h): finds out which field of the encoding each
// operand is, and emits the stub of the form. Any thread.
#pragma once

#include <cstdint>

#include "x86/instruction.h"

namespace ostler::interp {

// Stubs of SSE, AVX and MMX instructions whose memory accesses are plain (no gathers, no masked moves).
// Returns Op::data.
uint32_t vector_stub(const x86::Instruction& insn);

// Stubs of x87 instructions but those that only move control state. Called with (image, -, memory, -, frame):
// `image` is a 512-byte FXSAVE image loaded before and saved after; FCMOV and FCOMI use frame.flags_ax.
uint32_t x87_stub(const x86::Instruction& insn);

}  // namespace ostler::interp
