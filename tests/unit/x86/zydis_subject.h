// One instruction as both decoders see it, and the list of allowed differences (zydis_exceptions.cpp).
#pragma once

#include <Zydis/Zydis.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "x86/instruction.h"

namespace ostler::x86 {

struct Subject {
  std::span<const uint8_t> code;
  CodeSize code_size = CodeSize::k16;
  Instruction ours;
  DecodeStatus status = DecodeStatus::kInvalid;
  ZydisDecodedInstruction theirs{};
  ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT]{};
  ZyanStatus their_status = 0;

  std::string_view their_name() const {
    return ZYAN_SUCCESS(their_status) ? ZydisMnemonicGetString(theirs.mnemonic) : "";
  }
};

// Instruction sets that Zydis knows and we reject on purpose.
bool not_offered(const Subject& s);
// Two names of one instruction.
bool same_instruction(const Subject& s, std::string_view our_name);
// Instructions whose operands are written differently and do not matter.
bool ignore_operands(const Subject& s);
bool ignore_operand_width(const Subject& s);
bool ignore_size(const Subject& s);
// A bug of Zydis 4.0: see there.
bool wrong_base(const Subject& s, const ZydisDecodedOperand& operand);
// Members of exception class 4 that the manual exempts from alignment.
bool alignment_exempt(const Subject& s);
// Empty, or what differs between opcode_feature() and Zydis's instruction set.
std::string compare_feature(const Subject& s);

}  // namespace ostler::x86
