// Which arithmetic flags an instruction uses and replaces: what a translator must know to leave out the flags
// that nobody sees. From the "Flags Affected" paragraphs of SDM Vol. 2.
#pragma once

#include <cstdint>

#include "x86/instruction.h"

namespace ostler::x86 {

// Sets of arithmetic flags, as bits of rflags::kArithmetic.
//
//   read     the instruction depends on the flag, or may keep it or not (shifts by CL, REP CMPS)
//   written  after the instruction the old value cannot be seen: it is set, or undefined by the manual
//
// A flag in neither set is kept. Both speak of an instruction that completes; one that faults leaves all
// flags alone, and the exception's frame does not count as a reader.
struct FlagEffect {
  uint16_t read = 0, written = 0;
  friend bool operator==(const FlagEffect&, const FlagEffect&) = default;
};

// A table look-up; any thread. Exact for integer instructions. Where control goes elsewhere than to the next
// instruction or the target of a near transfer (SYSCALL, INT, far transfers, HLT…) everything is read and
// nothing written.
FlagEffect flag_effect(const Instruction& insn);

// Those of `written` that the manual leaves undefined and processors set, or keep, each in its own way:
// programs have no use for them. Of shifts and rotations by CL, those that are undefined by some count.
uint16_t undefined_flags(const Instruction& insn);

// What condition code `condition` of Jcc, SETcc, CMOVcc (0..15) depends on.
uint16_t condition_flags(unsigned condition);

}  // namespace ostler::x86
