// Random single instructions of the vector, MMX and x87 families with random surroundings: registers full of
// special values, memory operands aligned, unaligned and across the end of what is mapped.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "differential/vector/host_runner.h"
#include "x86/instruction.h"

namespace ostler::test {

// What both sides have mapped, at the same linear addresses: two pages, nothing before and after.
inline constexpr uint64_t kDataBase = 0x10000000;
inline constexpr unsigned kDataSize = 8192;

// One form of an instruction: everything but register numbers, addresses and immediates.
struct Form {
  bool vex;
  bool w, l;
  uint8_t map;     // 0: x87
  uint8_t prefix;  // 0, 0x66, 0xf3, 0xf2
  uint8_t opcode;
  uint8_t reg;  // ModRM.reg 2:0 where it extends the opcode
  bool memory;
  bool any_reg;  // ModRM.reg is a register
};

struct Case {
  std::vector<uint8_t> code;
  HostState state;
  std::vector<uint8_t> memory;  // kDataSize
};

using Random = std::mt19937_64;

// All forms the decoder knows whose features the host has, by trying every byte combination. 64-bit code.
std::vector<Form> enumerate_forms();
Case random_case(const Form& form, Random& random);
// The form with fixed registers and the given immediate, if it takes one; as encoded and as decoded.
std::vector<uint8_t> plain_code(const Form& form, uint8_t immediate, x86::Instruction& insn);
// XSAVE, XSAVEOPT, XSAVEC, XRSTOR on areas that are mostly valid. No component is in its initial state: what
// processors report as in use then is not theirs to choose.
Case random_extended_state_case(Random& random);

// Whether the differential test runs this instruction, and its decoded form.
bool testable(std::span<const uint8_t> code, x86::Instruction& insn,
              x86::CodeSize code_size = x86::CodeSize::k64);

std::string describe(const Case& test);

}  // namespace ostler::test
