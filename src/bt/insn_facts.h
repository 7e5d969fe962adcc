// What the translator knows of an instruction wherever it stands: from the encoding, the mode and the CPU
// model alone.
#pragma once

#include <cstdint>

#include "bt/mode.h"
#include "bt/options.h"
#include "x86/cpu_model.h"
#include "x86/instruction.h"

namespace ostler::bt {

// How an instruction is translated.
enum class Kind : uint8_t {
  kInterpret,  // left to the interpreter; ends the block
  kGeneric,    // the same instruction with other registers and a checked memory operand
  kLea,
  kPush,
  kPop,
  kLeave,
  kJump,
  kCondition,  // Jcc
  kCountJump,  // JRCXZ, LOOP
  kCall,
  kJumpIndirect,
  kCallIndirect,
  kReturn,
  kBitString,  // BT and its like of a bit anywhere in memory
  kSystem,     // system.cpp
  kString,     // MOVS and its like, REP MOVS, REP STOS
  kNothing,    // NOP, prefetches
};

// Where it accesses the stack by RSP.
enum class StackUse : uint8_t {
  kNowhere,
  kBelow,    // the word below it
  kTop,      // the word at it
  kOperand,  // [rsp + disp]
};

struct InsnFacts {
  uint16_t reads = 0;  // flags
  uint16_t writes = 0;
  uint16_t written = 0;  // bit n: general register n may be; all for what is not looked at closely
  Kind kind = Kind::kInterpret;
  StackUse stack = StackUse::kNowhere;
  uint8_t memory_size = 0;       // bytes of a kGeneric instruction's memory operand; 0: none, or not known
  bool memory_write = false;     // it is written
  bool shareable = false;        // a shared check may cover it
  bool touches_flags = false;    // may change one
  bool ends_block = false;       // control never goes on to the next instruction within the block
  bool leads_elsewhere = false;  // a near branch of any kind

  friend bool operator==(const InsnFacts&, const InsnFacts&) = default;
};

// Of an instruction that decode() takes for valid.
InsnFacts facts_of(const x86::Instruction& insn, const x86::CpuModel& model, Mode mode,
                   const Options& options);
// The part of it that speaks of flags, for another immediate.
void set_flag_facts(InsnFacts& facts, const x86::Instruction& insn);

}  // namespace ostler::bt
