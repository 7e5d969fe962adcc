// A decoded instruction bound to its handler: one element of a block.
#pragma once

#include <cstdint>

#include "x86/instruction.h"

namespace ostler::interp {

class Cpu;
struct Op;

// Executes one instruction. Returns the next Op to run: `op + 1`, or nullptr to leave the block after having set
// CpuState::rip (every control transfer, mode change, and anything after which code or interrupts must be looked at
// again). Throws x86::Exception before any architectural change.
using Handler = const Op* (*)(Cpu& cpu, const Op* op);

struct Op {
  Handler run = nullptr;
  uint16_t next_offset = 0;  // bytes from the start of the block to the next instruction
  x86::Instruction insn;
};

// Chooses the handler for a decoded instruction in the given mode; each family file provides one, tried in turn by
// bind.cpp. nullptr: not of this family.
struct BindContext {
  x86::CodeSize code_size;
  bool flat;  // 64-bit mode: no segment limits
};
Handler bind_integer(const x86::Instruction& insn, const BindContext& context);
Handler bind_control(const x86::Instruction& insn, const BindContext& context);
Handler bind_string(const x86::Instruction& insn, const BindContext& context);
Handler bind_system(const x86::Instruction& insn, const BindContext& context);
Handler bind_vector(const x86::Instruction& insn, const BindContext& context);

}  // namespace ostler::interp
