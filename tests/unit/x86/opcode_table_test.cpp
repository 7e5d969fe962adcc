// The opcode tables themselves: no row hides behind an earlier one, no opcode is without a row.
#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "x86/opcodes/table.h"

namespace ostler::x86 {
namespace {

using opcodes::Row;
using opcodes::Space;
namespace key = opcodes::key;

// The bytes of an instruction that satisfies the row's conditions, in the given mode; `free_reg` is ModRM.reg
// where the row leaves it open.
std::vector<uint8_t> example(const Row& row, bool long_mode, uint8_t free_reg) {
  const auto required = [&](unsigned shift, unsigned width) {
    return static_cast<uint8_t>(row.match.value >> shift & ((1u << width) - 1));
  };
  const uint8_t prefix = required(key::kPrefixShift, 2);
  const bool w = required(key::kWShift, 1) != 0, l = required(key::kLShift, 1) != 0;
  std::vector<uint8_t> code;
  if (row.space >= Space::kVex0f) {
    const auto map =
        static_cast<uint8_t>(static_cast<unsigned>(row.space) - static_cast<unsigned>(Space::kVex0f) + 1);
    // A mask register of its own for gathers: vvvv = 2
    const bool gather = row.operands[1].place == opcodes::Place::kGather;
    const unsigned vvvv = gather ? 13 : 15;
    code = {0xc4, static_cast<uint8_t>(0xe0 | map),
            static_cast<uint8_t>((w ? 0x80 : 0) | vvvv << 3 | (l ? 4 : 0) | prefix)};
  } else {
    constexpr uint8_t kPrefixes[4] = {0, 0x66, 0xf3, 0xf2};
    if (prefix != 0) code.push_back(kPrefixes[prefix]);
    if (long_mode && (w || required(key::kRexBShift, 1) != 0))
      code.push_back(static_cast<uint8_t>(0x40 | (w ? 8 : 0) | required(key::kRexBShift, 1)));
    if (row.space != Space::kPrimary) code.push_back(0x0f);
    if (row.space == Space::k0f38) code.push_back(0x38);
    if (row.space == Space::k0f3a) code.push_back(0x3a);
  }
  code.push_back(row.byte);
  const uint8_t mod = required(key::kModShift, 1) != 0 ? 0xc0 : 0;
  const bool reg_is_free = (row.match.mask >> key::kRegShift & 7) == 0;
  const uint8_t reg = reg_is_free ? free_reg : required(key::kRegShift, 3);
  uint8_t rm = required(key::kRmShift, 3);
  if (row.operands[1].place == opcodes::Place::kGather) rm = 4;
  code.push_back(static_cast<uint8_t>(mod | reg << 3 | rm));
  code.push_back(0x18);  // SIB: index 3
  code.resize(15);
  return code;
}

TEST(OpcodeTable, EveryRowIsReached) {
  for (size_t i = 1; i < opcodes::kRowCount; ++i) {
    const Row& row = opcodes::kTables.rows[i];
    bool reached = false;
    for (const CodeSize mode : {CodeSize::k32, CodeSize::k64}) {
      for (const uint8_t free_reg : {uint8_t{0}, uint8_t{7}}) {
        Instruction insn;
        const DecodeStatus status = decode(example(row, mode == CodeSize::k64, free_reg), mode, insn);
        reached |= status == DecodeStatus::kOk && insn.row == i;
      }
    }
    EXPECT_TRUE(reached) << "row " << i << ": " << mnemonic(row.opcode);
  }
}

TEST(OpcodeTable, EveryOpcodeHasARow) {
  std::set<Opcode> present;
  for (const Row& row : opcodes::kTables.rows) present.insert(row.opcode);
  for (unsigned i = 1; i < static_cast<unsigned>(Opcode::kCount); ++i)
    EXPECT_TRUE(present.contains(static_cast<Opcode>(i))) << mnemonic(static_cast<Opcode>(i));
}

}  // namespace
}  // namespace ostler::x86
