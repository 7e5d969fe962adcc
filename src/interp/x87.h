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

// As Cpu::linear(), for memory operands. Alignment checks want 80-bit values at multiples of eight (SDM Vol.
// 3A Table 6-7).
inline uint64_t x87_linear(const Cpu& cpu, const Op* op, unsigned size, mmu::Access access) {
  const uint64_t linear = cpu.linear(*op, size, access);
  if (size == 10 && cpu.alignment_check && (linear & 7) != 0) [[unlikely]]
    x86::raise(x86::Vector::kAc, 0);
  return linear;
}

}  // namespace ostler::interp
