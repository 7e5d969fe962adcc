// flag_effect() by its sentences; tests/differential/flag_effect.cpp holds it against the interpreter.
#include "x86/flag_effect.h"

#include <gtest/gtest.h>

#include <ostream>
#include <vector>

#include "x86/opcodes/table.h"
#include "x86/vector_info.h"

namespace ostler::x86 {

void PrintTo(const FlagEffect& value, std::ostream* out) {
  *out << std::hex << "read " << value.read << " written " << value.written;
}

namespace {

constexpr uint16_t kC = rflags::kCf, kP = rflags::kPf, kA = rflags::kAf, kZ = rflags::kZf, kS = rflags::kSf,
                   kO = rflags::kOf, kAll = rflags::kArithmetic;

FlagEffect effect(std::vector<uint8_t> code, CodeSize code_size = CodeSize::k64) {
  Instruction insn;
  EXPECT_EQ(decode(code, code_size, insn), DecodeStatus::kOk);
  return flag_effect(insn);
}
constexpr FlagEffect set_of(uint16_t read, uint16_t written) {
  return {read, written};
}

TEST(FlagEffect, ArithmeticReplacesAllAndCarriesReadOne) {
  EXPECT_EQ(effect({0x01, 0xd8}), set_of(0, kAll));   // add
  EXPECT_EQ(effect({0x85, 0xc0}), set_of(0, kAll));   // test
  EXPECT_EQ(effect({0x11, 0xd8}), set_of(kC, kAll));  // adc
  EXPECT_EQ(effect({0x19, 0xd8}), set_of(kC, kAll));  // sbb
  EXPECT_EQ(effect({0xf7, 0xd8}), set_of(0, kAll));   // neg
  EXPECT_EQ(effect({0xf7, 0xd0}), set_of(0, 0));      // not
  EXPECT_EQ(effect({0xf7, 0xf3}), set_of(0, kAll));   // div
  EXPECT_EQ(effect({0x0f, 0xaf, 0xc3}), set_of(0, kAll));
  EXPECT_EQ(effect({0x0f, 0xb1, 0x0b}), set_of(0, kAll));             // cmpxchg
  EXPECT_EQ(effect({0x48, 0x0f, 0xc7, 0x0b}), set_of(0, kZ));         // cmpxchg16b
  EXPECT_EQ(effect({0x66, 0x0f, 0x38, 0xf6, 0xc3}), set_of(kC, kC));  // adcx
  EXPECT_EQ(effect({0xf3, 0x0f, 0x38, 0xf6, 0xc3}), set_of(kO, kO));  // adox
}

TEST(FlagEffect, IncrementsKeepCarry) {
  EXPECT_EQ(effect({0xff, 0xc0}), set_of(0, kAll & ~kC));
  EXPECT_EQ(effect({0xff, 0xc8}), set_of(0, kAll & ~kC));
}

TEST(FlagEffect, ShiftsByImmediates) {
  EXPECT_EQ(effect({0xc1, 0xe0, 0}), set_of(0, 0));
  EXPECT_EQ(effect({0xc1, 0xe0, 32}), set_of(0, 0));
  EXPECT_EQ(effect({0x48, 0xc1, 0xe0, 32}), set_of(0, kAll));
  EXPECT_EQ(effect({0x48, 0xc1, 0xe0, 64}), set_of(0, 0));
  EXPECT_EQ(effect({0xd1, 0xf8}), set_of(0, kAll));
  EXPECT_EQ(effect({0x0f, 0xa4, 0xd8, 3}), set_of(0, kAll));  // shld
  EXPECT_EQ(effect({0x0f, 0xa4, 0xd8, 32}), set_of(0, 0));
}

TEST(FlagEffect, RotatesTouchCarryAndOverflow) {
  EXPECT_EQ(effect({0xd1, 0xc0}), set_of(0, kC | kO));  // rol 1
  EXPECT_EQ(effect({0xc1, 0xc0, 5}), set_of(kO, kC));
  EXPECT_EQ(effect({0xc1, 0xc0, 0}), set_of(0, 0));
  EXPECT_EQ(effect({0xd1, 0xd0}), set_of(kC, kC | kO));  // rcl 1
  EXPECT_EQ(effect({0xc1, 0xd0, 5}), set_of(kC | kO, kC));
}

TEST(FlagEffect, CountsInClMayKeepEverything) {
  EXPECT_EQ(effect({0xd3, 0xe0}), set_of(kAll, 0));
  EXPECT_EQ(effect({0x0f, 0xa5, 0xd8}), set_of(kAll, 0));
  EXPECT_EQ(effect({0xd3, 0xc0}), set_of(kC | kO, 0));
  EXPECT_EQ(effect({0xc4, 0xe2, 0x71, 0xf7, 0xc3}), set_of(0, 0));  // shlx
}

TEST(FlagEffect, BitInstructions) {
  EXPECT_EQ(effect({0x0f, 0xba, 0xe0, 3}), set_of(0, kC));
  EXPECT_EQ(effect({0x0f, 0xbc, 0xc3}), set_of(0, kAll));
  EXPECT_EQ(effect({0xf3, 0x0f, 0xb8, 0xc3}), set_of(0, kAll));
}

TEST(FlagEffect, ConditionsReadWhatTheyTest) {
  constexpr uint16_t kByCondition[8] = {kO, kC, kZ, kC | kZ, kS, kP, kS | kO, kS | kO | kZ};
  for (uint8_t condition = 0; condition < 16; ++condition) {
    const uint16_t expected = kByCondition[condition / 2];
    EXPECT_EQ(effect({static_cast<uint8_t>(0x70 | condition), 0}), set_of(expected, 0));
    EXPECT_EQ(effect({0x0f, static_cast<uint8_t>(0x90 | condition), 0xc0}), set_of(expected, 0));
    EXPECT_EQ(effect({0x0f, static_cast<uint8_t>(0x40 | condition), 0xc0}), set_of(expected, 0));
  }
  EXPECT_EQ(effect({0xe1, 0}), set_of(kZ, 0));  // loope
  EXPECT_EQ(effect({0xe2, 0}), set_of(0, 0));
}

TEST(FlagEffect, FlagInstructions) {
  EXPECT_EQ(effect({0x9f}), set_of(kAll & ~kO, 0));  // lahf
  EXPECT_EQ(effect({0x9e}), set_of(0, kAll & ~kO));  // sahf
  EXPECT_EQ(effect({0x9c}), set_of(kAll, 0));        // pushf
  EXPECT_EQ(effect({0x9d}), set_of(0, kAll));        // popf
  EXPECT_EQ(effect({0xf8}), set_of(0, kC));
  EXPECT_EQ(effect({0xf5}), set_of(kC, kC));
  EXPECT_EQ(effect({0xfc}), set_of(0, 0));
}

TEST(FlagEffect, RepeatedComparesMayCompareNothing) {
  EXPECT_EQ(effect({0xa6}), set_of(0, kAll));
  EXPECT_EQ(effect({0xf3, 0xa6}), set_of(kAll, 0));
  EXPECT_EQ(effect({0xf2, 0xae}), set_of(kAll, 0));
  EXPECT_EQ(effect({0xf3, 0xa4}), set_of(0, 0));
}

TEST(FlagEffect, LeavingTheProgramReadsAll) {
  EXPECT_EQ(effect({0x0f, 0x05}), set_of(kAll, 0));
  EXPECT_EQ(effect({0xcd, 0x80}), set_of(kAll, 0));
  EXPECT_EQ(effect({0x48, 0xcf}), set_of(kAll, 0));
  EXPECT_EQ(effect({0xf4}), set_of(kAll, 0));
}

TEST(FlagEffect, DecimalAdjustmentsReadTheirCarries) {
  EXPECT_EQ(effect({0x27}, CodeSize::k32), set_of(kC | kA, kAll));
  EXPECT_EQ(effect({0x37}, CodeSize::k32), set_of(kA, kAll));
  EXPECT_EQ(effect({0xd6}, CodeSize::k32), set_of(kC, 0));
  EXPECT_EQ(effect({0x63, 0xd8}, CodeSize::k32), set_of(0, kZ));  // arpl
}

TEST(FlagEffect, FcmovReadsItsCondition) {
  EXPECT_EQ(effect({0xda, 0xc1}), set_of(kC, 0));
  EXPECT_EQ(effect({0xdb, 0xd1}), set_of(kC | kZ, 0));
  EXPECT_EQ(effect({0xda, 0xd9}), set_of(kP, 0));
}

// FCOMI writes nothing for certain: an unmasked invalid operation leaves the flags alone without a fault.
TEST(FlagEffect, VectorInstructionsAgreeWithTheirRows) {
  for (size_t row = 1; row < opcodes::kRowCount; ++row) {
    Instruction insn;
    insn.row = static_cast<uint16_t>(row);
    insn.opcode = opcodes::kTables.rows[row].opcode;
    const VectorInfo info = vector_info(insn);
    if (info.vector_class == VectorClass::kNone) continue;
    const FlagEffect got = flag_effect(insn);
    const bool waits_to_fault = info.vector_class == VectorClass::kX87 && info.writes_flags;
    EXPECT_EQ(got.read != 0, info.reads_flags || waits_to_fault) << mnemonic(insn.opcode);
    EXPECT_EQ(got.written, info.writes_flags && !waits_to_fault ? kAll : 0) << mnemonic(insn.opcode);
  }
}

}  // namespace
}  // namespace ostler::x86
