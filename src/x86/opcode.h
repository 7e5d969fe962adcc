// The closed list of instructions, by meaning: encodings that mean the same share an entry.
#pragma once

#include <cstdint>
#include <string_view>

namespace ostler::x86 {

enum class Opcode : uint16_t {
  kInvalid,
#define OPCODE(name, mnemonic) k##name,
#include "x86/opcode_list.inc"
#include "x86/opcode_list_vector.inc"
#undef OPCODE
  kCount,
};

std::string_view mnemonic(Opcode opcode);

}  // namespace ostler::x86
