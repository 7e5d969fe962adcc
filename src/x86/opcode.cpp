#include "x86/opcode.h"

#include <array>
#include <cstddef>

namespace ostler::x86 {
namespace {

constexpr std::array<std::string_view, static_cast<size_t>(Opcode::kCount)> kMnemonics = {
    "(bad)",
#define OPCODE(name, mnemonic) mnemonic,
#include "x86/opcode_list.inc"
#include "x86/opcode_list_vector.inc"
#undef OPCODE
};

}  // namespace

std::string_view mnemonic(Opcode opcode) {
  return kMnemonics[static_cast<size_t>(opcode)];
}

}  // namespace ostler::x86
