// A decoded instruction as text, for logs (-d in_asm). Intel syntax, near enough to other disassemblers to
// compare.
#pragma once

#include <cstdint>
#include <string>

#include "x86/instruction.h"

namespace ostler::x86 {

// `rip` is the address of the instruction: relative targets are printed as addresses.
std::string format(const Instruction& insn, uint64_t rip);

}  // namespace ostler::x86
