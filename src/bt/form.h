// How a guest's instruction of Kind::kGeneric becomes the host's, where the encoding and the mode alone
// decide it: no more is left to do for most than to write the bytes.
#pragma once

#include <cstdint>

#include "bt/insn_facts.h"
#include "bt/mode.h"
#include "x86/instruction.h"

namespace ostler::bt {

struct Form {
  bool simple : 1 = false;  // the rest says it all: legacy encoding, every register has one of the host's
  bool memory : 1 = false;  // a memory operand, whose place the translator says
  bool has_modrm : 1 = false;
  bool has_prefix : 1 = false;
  bool verbatim : 1 = false;  // no memory operand, and the host's bytes are the guest's
  uint8_t map : 2 = 0;        // as Instruction::map
  uint8_t prefix = 0;         // F0, 66, F2 or F3
  uint8_t rex = 0;            // 40: there is one, whatever the bits of the memory operand
  uint8_t opcode = 0;
  uint8_t modrm = 0;  // memory: of the register only
  uint8_t imm_bytes = 0;

  friend bool operator==(const Form&, const Form&) = default;
};
static_assert(sizeof(Form) == 6);

// Of an instruction at `bytes` that decode() takes for valid.
Form form_of(const x86::Instruction& insn, const uint8_t* bytes, Mode mode, Kind kind);

// ---- what form_of() and Translator::generic() find out ----

// The parts of an encoding, found in the guest's bytes.
struct RawEncoding {
  bool operand_size = false;  // 66
  uint8_t repeat = 0;         // F2 or F3
  uint8_t rex = 0;
  bool vex = false;
  uint8_t vex_r = 0, vex_x = 0, vex_b = 0, vvvv = 0;
  uint8_t opcode_at = 0;  // the opcode byte itself
  uint8_t imm_at = 0;
};

// An instruction's registers, named as the host's or, where they live in memory, to be given one each time.
struct Renaming {
  RawEncoding raw;
  uint8_t reg = 0;  // ModRM.reg
  uint8_t rm = 0;   // ModRM.rm, when it is a register
  uint8_t vvvv = 0;
  bool memory = false;      // there is a memory operand
  bool opcode_reg = false;  // `rm` goes into the opcode
  bool needs_rex = false;   // SPL to DIL
  // Instead of the guest's, where 64-bit code has no such encoding.
  uint8_t opcode = 0;
  bool has_modrm = false;

  struct Slot {
    uint8_t Renaming::*field = nullptr;
    unsigned guest = 0;
    bool reads = false, writes = false;
  };
  Slot slots[4];  // registers that live in memory
  unsigned count = 0;
  int high = -1;  // AH, CH, DH or BH: its register
};
Renaming renaming_of(const x86::Instruction& insn, const uint8_t* bytes, bool bits32);

}  // namespace ostler::bt
