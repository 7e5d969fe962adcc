// Decodes the same bytes with Zydis and with our decoder and says where they disagree. Knows what we do not
// offer and where the two follow different processors; every such exception is written with its reason in the
// source.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "x86/instruction.h"

namespace ostler::x86 {

struct Comparison {
  bool equal = true;
  bool both_valid = false;
  std::string kind;    // what differs: "validity", "length", "operand 1 size"…, with the instruction's name
  std::string detail;  // the bytes and both readings
};

// `code` should hold 15 bytes or more, so that neither decoder runs out of input.
Comparison compare_with_zydis(std::span<const uint8_t> code, CodeSize code_size);

}  // namespace ostler::x86
