// Where processors differ among themselves.
#pragma once

#include <cstdint>
#include <span>

#include "x86/instruction.h"

namespace ostler::differential {

// Whether this host leaves some of them as they were before. Intel's processors do after divisions alone.
bool host_keeps_flags(const x86::Instruction& insn);
// Whether this host does with the instruction what Intel's manual does not say, whatever its operands are.
bool host_differs(std::span<const uint8_t> code, const x86::Instruction& insn, x86::CodeSize code_size);

}  // namespace ostler::differential
