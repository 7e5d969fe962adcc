// What the files of the x87 family share.
#pragma once

#include "interp/cpu.h"
#include "interp/op.h"

namespace ostler::interp {

// Runs the instruction on the host's x87 unit; Op::data is its stub. Complete: checks, memory, pointers.
void x87_execute_on_host(Cpu& cpu, const Op* op);

// FIP, and FDP for a memory operand, of the non-control instruction `op`.
void x87_set_pointers(Cpu& cpu, const Op* op, bool memory);

// Loads, stores and exchanges that need no rounding, in plain C++ where nothing exceptional happens and on
// the host otherwise. nullptr: not one of them.
Handler bind_x87_move(const x86::Instruction& insn);

}  // namespace ostler::interp
