// What an instruction that translated code executes does with its operands: what it accesses in memory, and
// which general registers it writes. Pure functions of the decoded instruction.
#pragma once

#include <cstdint>

#include "bt/insn_facts.h"
#include "x86/instruction.h"

namespace ostler::bt {

// Destination first in Intel order, yet not written.
bool only_reads_operands(x86::Opcode opcode);
// The second operand is written too.
bool writes_second(x86::Opcode opcode);

struct MemoryUse {
  unsigned size = 0;  // bytes; 0: none, or not known here
  bool write = false;
};
// Of the memory operand of a Kind::kGeneric instruction.
MemoryUse memory_use(const x86::Instruction& insn);

// Bit n: general register n may be written. All bits for what is not looked at closely.
uint16_t written_registers(const x86::Instruction& insn, Kind kind);

// Its memory operand is [rsp + disp], with addresses of `word` bytes and nothing added to it.
bool is_at_stack(const x86::Instruction& insn, unsigned word);

}  // namespace ostler::bt
