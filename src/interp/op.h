// A decoded instruction bound to its handler: one element of a block.
#pragma once

#include <cstdint>

#include "x86/instruction.h"

namespace ostler::interp {

class Cpu;
struct Op;

// Executes one instruction. Returns the next Op to run: `op + 1` (or what running it returns, see next() in
// operand.h), or nullptr to leave the block after having set CpuState::rip (every control transfer, mode
// change, and anything after which code or interrupts must be looked at again). Throws x86::Exception before
// any architectural change; the run loop then sets CpuState::rip to the instruction of Cpu::current_op.
using Handler = const Op* (*)(Cpu& cpu, const Op* op);

// One cache line. RIP-relative operands are bound to absolute addresses (base kNoRegister, disp = address).
struct alignas(64) Op {
  Handler run = nullptr;
  x86::Instruction insn;
  uint16_t next_offset = 0;  // bytes from the start of the block to the next instruction
  uint32_t data = 0;         // of the handler: for vector instructions the host stub's offset
};
static_assert(sizeof(Op) == 64);

// What a handler may be specialised for; constant for the life of a block.
struct BindContext {
  x86::CodeSize code_size;
  bool flat;             // 64-bit mode: no segment limits
  bool alignment_check;  // #AC may be due
  bool vex = true;       // false in real and virtual-8086 mode: VEX encodings are #UD
};

// Each family file chooses the handler for a decoded instruction, tried in turn by bind.cpp. nullptr: not of
// this family. bind() gives #UD for what nobody knows or the CPU model lacks.
Handler bind_integer(const x86::Instruction& insn, const BindContext& context);
Handler bind_stack(const x86::Instruction& insn, const BindContext& context);
Handler bind_control(const x86::Instruction& insn, const BindContext& context);
Handler bind_string(const x86::Instruction& insn, const BindContext& context);
Handler bind_system(const x86::Instruction& insn, const BindContext& context);
// `data` goes into Op::data.
Handler bind_vector(const x86::Instruction& insn, const BindContext& context, uint32_t& data);

}  // namespace ostler::interp
