// Vector, MMX and x87 instructions: availability checks, exceptions and what the comparison with the host
// (tests/differential/vector) cannot reach, such as other CPU modes.

#include <gtest/gtest.h>

#include <cstring>
#include <initializer_list>
#include <thread>

#include "differential/vector/cases.h"
#include "differential/vector/guest.h"
#include "interp/op.h"
#include "interp/vector_emit.h"
#include "interp/vector_stub.h"

namespace ostler::test {
namespace {

using x86::Vector;

class VectorTest : public testing::Test {
 protected:
  // -1: no exception.
  int run(std::initializer_list<uint8_t> code) {
    const auto fault = guest.run({code.begin(), code.size()});
    if (fault) last = *fault;
    return fault ? static_cast<int>(fault->vector) : -1;
  }
  void set_st(unsigned i, uint64_t significand, uint16_t exponent) {
    std::memcpy(s.fx.st[i], &significand, 8);
    std::memcpy(s.fx.st[i] + 8, &exponent, 2);
  }
  uint64_t word(unsigned offset) const {
    uint64_t value;
    std::memcpy(&value, data.data() + offset, 8);
    return value;
  }
  void set_word(unsigned offset, uint64_t value) { std::memcpy(data.data() + offset, &value, 8); }
  uint64_t lane(unsigned vec, unsigned i) const {
    uint64_t value;
    std::memcpy(&value, s.vec[vec] + 8 * i, 8);
    return value;
  }
  void set_lane(unsigned vec, unsigned i, uint64_t value) { std::memcpy(s.vec[vec] + 8 * i, &value, 8); }

  static constexpr int kNone = -1, kUd = 6, kNm = 7, kGp = 13, kPf = 14, kMf = 16, kXm = 19;
  VectorGuest guest;
  x86::CpuState& s = guest.state();
  std::span<uint8_t> data = guest.data();
  x86::Exception last{};
};

// ---- availability ----

constexpr std::initializer_list<uint8_t> kPaddb = {0x66, 0x0f, 0xfc, 0xc1};    // paddb xmm0, xmm1
constexpr std::initializer_list<uint8_t> kMovaps = {0x0f, 0x28, 0xc1};         // movaps xmm0, xmm1
constexpr std::initializer_list<uint8_t> kVpaddb = {0xc5, 0xf9, 0xfc, 0xc1};   // vpaddb xmm0, xmm0, xmm1
constexpr std::initializer_list<uint8_t> kVmovaps = {0xc5, 0xf8, 0x28, 0xc1};  // vmovaps xmm0, xmm1
constexpr std::initializer_list<uint8_t> kMmxPaddb = {0x0f, 0xfc, 0xc1};       // paddb mm0, mm1
constexpr std::initializer_list<uint8_t> kFld1 = {0xd9, 0xe8};
constexpr std::initializer_list<uint8_t> kWait = {0x9b};

TEST_F(VectorTest, SseNeedsOsfxsr) {
  s.cr4 &= ~x86::cr4::kOsfxsr;
  EXPECT_EQ(run(kPaddb), kUd);
  EXPECT_EQ(run(kMovaps), kUd);
  EXPECT_EQ(run({0x0f, 0xae, 0x13}), kUd);  // ldmxcsr [rbx]
}

TEST_F(VectorTest, EmulationMakesSseAndMmxUndefinedAndX87Unavailable) {
  s.cr0 |= x86::cr0::kEm;
  EXPECT_EQ(run(kPaddb), kUd);
  EXPECT_EQ(run(kMovaps), kUd);
  EXPECT_EQ(run(kMmxPaddb), kUd);
  EXPECT_EQ(run(kFld1), kNm);
  EXPECT_EQ(run({0x0f, 0xae, 0x03}), kNm);  // fxsave [rbx]
  EXPECT_EQ(run(kVpaddb), kNone);           // AVX does not look at EM
}

TEST_F(VectorTest, TaskSwitchedMakesEverythingUnavailable) {
  s.cr0 |= x86::cr0::kTs;
  for (const auto& code : {kPaddb, kMovaps, kVpaddb, kVmovaps, kMmxPaddb, kFld1}) EXPECT_EQ(run(code), kNm);
  EXPECT_EQ(run({0x0f, 0xae, 0x23}), kNm);  // xsave [rbx]
}

TEST_F(VectorTest, WaitLooksAtTaskSwitchedOnlyWithMonitor) {
  s.cr0 |= x86::cr0::kTs;
  EXPECT_EQ(run(kWait), kNone);
  s.cr0 |= x86::cr0::kMp;
  EXPECT_EQ(run(kWait), kNm);
}

TEST_F(VectorTest, AvxNeedsOsxsaveAndItsState) {
  s.cr4 &= ~x86::cr4::kOsfxsr;  // of no interest
  EXPECT_EQ(run(kVpaddb), kNone);
  s.xcr0 = 3;
  EXPECT_EQ(run(kVpaddb), kUd);
  EXPECT_EQ(run(kVmovaps), kUd);
  s.xcr0 = 7;
  s.cr4 &= ~x86::cr4::kOsxsave;
  EXPECT_EQ(run(kVpaddb), kUd);
  EXPECT_EQ(run({0xc5, 0xf8, 0x77}), kUd);  // vzeroupper
}

TEST_F(VectorTest, XsaveNeedsOsxsave) {
  s.cr4 &= ~x86::cr4::kOsxsave;
  EXPECT_EQ(run({0x0f, 0xae, 0x23}), kUd);
}

TEST_F(VectorTest, SseWorksInRealModeAndAvxDoesNot) {
  guest.set_mode(Mode::kReal);
  set_lane(1, 0, 5);
  EXPECT_EQ(run(kMovaps), kNone);
  EXPECT_EQ(lane(0, 0), 5u);
  EXPECT_EQ(run(kVpaddb), kUd);
}

// ---- exceptions ----

TEST_F(VectorTest, UnmaskedSimdExceptionLeavesTheDestinationAndReportsItsFlag) {
  s.fx.mxcsr = 0x1f80 & ~(1u << 9);  // ZM clear
  set_lane(0, 0, 0x3f800000);
  set_lane(1, 0, 0);
  EXPECT_EQ(run({0xf3, 0x0f, 0x5e, 0xc1}), kXm);  // divss xmm0, xmm1
  EXPECT_EQ(lane(0, 0), 0x3f800000u);
  EXPECT_EQ(s.fx.mxcsr & 0x3f, 4u);
}

TEST_F(VectorTest, SimdExceptionIsUndefinedOpcodeWithoutOsxmmexcpt) {
  s.cr4 &= ~x86::cr4::kOsxmmexcpt;
  s.fx.mxcsr = 0x1f80 & ~(1u << 9);
  set_lane(0, 0, 0x3f800000);
  EXPECT_EQ(run({0xf3, 0x0f, 0x5e, 0xc1}), kUd);
}

TEST_F(VectorTest, LdmxcsrRefusesReservedBits) {
  s.gpr[x86::kRbx] = kDataBase;
  set_word(0, 0x10000 | 0x1f80);
  EXPECT_EQ(run({0x0f, 0xae, 0x13}), kGp);
  EXPECT_EQ(s.fx.mxcsr, 0x1f80u);
  set_word(0, 0xffff);
  EXPECT_EQ(run({0x0f, 0xae, 0x13}), kNone);
  EXPECT_EQ(s.fx.mxcsr, 0xffffu);
}

TEST_F(VectorTest, PendingX87ErrorStopsWaitingInstructionsOnly) {
  s.fx.fcw = 0x37e;  // IM clear
  s.fx.fsw = 0x8081;
  EXPECT_EQ(run(kFld1), kMf);
  EXPECT_EQ(run(kWait), kMf);
  EXPECT_EQ(run(kMmxPaddb), kMf);
  EXPECT_EQ(run({0xdf, 0xe0}), kNone);  // fnstsw ax
  EXPECT_EQ(s.gpr[x86::kRax] & 0xffff, 0x8081u);
  EXPECT_EQ(run({0xdb, 0xe2}), kNone);  // fnclex
  EXPECT_EQ(run(kFld1), kNone);
}

TEST_F(VectorTest, PendingX87ErrorIsReportedOutsideWithoutNumericError) {
  s.cr0 &= ~x86::cr0::kNe;
  s.fx.fcw = 0x37e;
  s.fx.fsw = 0x8081;
  EXPECT_EQ(run(kWait), kNone);
  EXPECT_EQ(guest.fpu_errors(), 1u);
  EXPECT_EQ(run(kFld1), kNone);  // goes on
  EXPECT_EQ(s.fx.fcw, 0x37e);
  EXPECT_EQ(s.fx.fsw, 0xb881);
}

TEST_F(VectorTest, X87StoreThatFaultsKeepsTheStack) {
  s.gpr[x86::kRbx] = kDataBase + kDataSize;
  s.fx.fsw = 0;
  s.fx.ftw = 1;
  set_st(0, uint64_t{1} << 63, 0x3fff);
  EXPECT_EQ(run({0xdd, 0x1b}), kPf);  // fstp qword [rbx]
  EXPECT_EQ(last.cr2, kDataBase + kDataSize);
  EXPECT_EQ(s.fx.ftw, 1);
  EXPECT_EQ(s.fx.fsw, 0);
}

// ---- other modes ----

TEST_F(VectorTest, VzeroallClearsEightRegistersOutside64BitMode) {
  for (unsigned i = 0; i < 16; ++i) set_lane(i, 2, 7);
  guest.set_mode(Mode::k32);
  EXPECT_EQ(run({0xc5, 0xfc, 0x77}), kNone);
  EXPECT_EQ(lane(7, 2), 0u);
  EXPECT_EQ(lane(8, 2), 7u);
}

TEST_F(VectorTest, VexWIsIgnoredForGeneralRegistersOutside64BitMode) {
  guest.set_mode(Mode::k32);
  set_lane(0, 0, 0x1122334455667788);
  s.gpr[x86::kRax] = 0;
  EXPECT_EQ(run({0xc4, 0xe1, 0xf9, 0x7e, 0xc0}), kNone);  // vmovd eax, xmm0 with W
  EXPECT_EQ(s.gpr[x86::kRax], 0x55667788u);
  EXPECT_EQ(run({0xc4, 0xe3, 0xf9, 0x16, 0xc0, 0x01}), kNone);  // vpextrd eax, xmm0, 1 with W
  EXPECT_EQ(s.gpr[x86::kRax], 0x11223344u);
  s.gpr[x86::kRax] = 9;
  EXPECT_EQ(run({0xc4, 0xe1, 0xfb, 0x2a, 0xc0}), kNone);  // vcvtsi2sd xmm0, xmm0, eax with W
  EXPECT_EQ(lane(0, 0), 0x4022000000000000u);
}

TEST_F(VectorTest, RealModeSegmentLimitApplies) {
  guest.set_mode(Mode::kReal);
  s.gpr[x86::kRbx] = 0xfff0;
  EXPECT_EQ(run({0x0f, 0x10, 0x07}), kNone);  // movups xmm0, [bx]
  s.gpr[x86::kRbx] = 0xfff1;
  EXPECT_EQ(run({0x0f, 0x10, 0x07}), kGp);
}

// ---- stubs ----

TEST_F(VectorTest, StubsDependOnTheFormOnly) {
  auto stub = [](std::initializer_list<uint8_t> code) {
    x86::Instruction insn;
    EXPECT_EQ(x86::decode({code.begin(), code.size()}, x86::CodeSize::k64, insn), x86::DecodeStatus::kOk);
    return interp::vector_stub(insn);
  };
  EXPECT_EQ(stub({0x66, 0x0f, 0xfc, 0xc1}), stub({0x66, 0x45, 0x0f, 0xfc, 0xd6}));  // registers
  EXPECT_EQ(stub({0x66, 0x0f, 0xfc, 0x03}), stub({0x66, 0x0f, 0xfc, 0x46, 0x10}));  // addresses
  EXPECT_NE(stub({0x66, 0x0f, 0xfc, 0xc1}), stub({0x66, 0x0f, 0xfc, 0x03}));
  EXPECT_NE(stub({0x66, 0x0f, 0x70, 0xc1, 0x01}), stub({0x66, 0x0f, 0x70, 0xc1, 0x02}));
  EXPECT_NE(stub({0x66, 0x0f, 0x71, 0xd1, 0x01}), stub({0x66, 0x0f, 0x71, 0xe1, 0x01}));
}

TEST_F(VectorTest, ThreadsAgreeOnStubs) {
  x86::Instruction insn;
  const uint8_t code[] = {0x66, 0x0f, 0x3a, 0x0f, 0xc1, 0x33};  // palignr xmm0, xmm1, 0x33
  ASSERT_EQ(x86::decode(code, x86::CodeSize::k64, insn), x86::DecodeStatus::kOk);
  uint32_t results[4];
  {
    std::vector<std::jthread> threads;
    for (uint32_t& result : results)
      threads.emplace_back([&result, insn] { result = interp::vector_stub(insn); });
  }
  for (const uint32_t result : results) EXPECT_EQ(result, results[0]);
}

// However a guest tries, it cannot fill the arena: every instruction with every immediate, in 64-bit and
// 32-bit code.
TEST_F(VectorTest, ArenaHoldsEveryForm) {
  const interp::StubArena& arena = interp::StubArena::instance();
  for (const Form& form : enumerate_forms())
    for (unsigned immediate = 0; immediate < 256; ++immediate) {
      x86::Instruction insn;
      const std::vector<uint8_t> code = plain_code(form, static_cast<uint8_t>(immediate), insn);
      ASSERT_FALSE(code.empty());
      const bool takes_immediate =
          insn.operand_count > 0 && insn.operand[insn.operand_count - 1].kind == x86::OperandKind::kImm;
      const interp::BindContext context{};
      uint32_t offset = 0;
      interp::bind_vector(insn, context, offset);
      if (x86::decode(code, x86::CodeSize::k32, insn) == x86::DecodeStatus::kOk)
        interp::bind_vector(insn, context, offset);
      if (!takes_immediate) break;
    }
  EXPECT_LT(arena.used(), interp::StubArena::kSize * 3 / 4);
}

TEST_F(VectorTest, AlignmentChecksTake80BitValuesForEightBytes) {
  constexpr int kAc = 17;
  s.cr0 |= x86::cr0::kAm;
  s.flags_rest |= x86::rflags::kAc;
  s.seg[x86::kSs].attributes |= 3 << 5;  // CPL 3
  guest.cpl_changed();
  s.gpr[x86::kRbx] = kDataBase + 16;
  EXPECT_EQ(run({0xdb, 0x2b}), kNone);  // fld tbyte [rbx]
  s.gpr[x86::kRbx] = kDataBase + 20;
  EXPECT_EQ(run({0xdb, 0x2b}), kAc);
}

TEST_F(VectorTest, MaskedMovesAreNotAlignmentChecked) {
  s.cr0 |= x86::cr0::kAm;
  s.flags_rest |= x86::rflags::kAc;
  s.seg[x86::kSs].attributes |= 3 << 5;  // CPL 3
  guest.cpl_changed();
  for (unsigned i = 0; i < 4; ++i) set_lane(1, i, ~uint64_t{0});
  s.gpr[x86::kRbx] = kDataBase + 3;
  EXPECT_EQ(run({0xc4, 0xe2, 0x75, 0x2c, 0x03}), kNone);  // vmaskmovps ymm0, ymm1, [rbx]
  EXPECT_EQ(run({0xc4, 0xe2, 0x75, 0x2e, 0x03}), kNone);  // vmaskmovps [rbx], ymm1, ymm0
}

TEST_F(VectorTest, EncodingsTheHostDoesNotKnowAreUndefined) {
  x86::Instruction insn;
  const uint8_t code[] = {0x66, 0x0f, 0x38, 0x00, 0xc1};  // pshufb xmm0, xmm1
  ASSERT_EQ(x86::decode(code, x86::CodeSize::k64, insn), x86::DecodeStatus::kOk);
  insn.opcode_byte = 0xff;
  const interp::StubHeader& stub = interp::StubArena::instance().at(interp::vector_stub(insn));
  interp::StubFrame frame;
  alignas(16) uint8_t registers[2][16] = {{1}, {2}};
  EXPECT_EQ(stub.code(registers[0], nullptr, registers[1], nullptr, &frame), interp::StubFault::kUndefined);
  EXPECT_EQ(registers[0][0], 1);
}

TEST_F(VectorTest, MisalignedAccessInAStubIsReported) {
  x86::Instruction insn;
  const uint8_t code[] = {0x66, 0x0f, 0xfc, 0x03};  // paddb xmm0, [rbx]
  ASSERT_EQ(x86::decode(code, x86::CodeSize::k64, insn), x86::DecodeStatus::kOk);
  const interp::StubHeader& stub = interp::StubArena::instance().at(interp::vector_stub(insn));
  interp::StubFrame frame;
  alignas(16) uint8_t memory[48] = {};
  uint8_t destination[16] = {};
  EXPECT_EQ(stub.code(destination, nullptr, memory + 1, nullptr, &frame), interp::StubFault::kMemory);
}

// The host's sticky flags, left over from other work, must not appear in the guest's MXCSR.
TEST_F(VectorTest, FlagsOfTheHostStayOutOfTheGuest) {
  s.fx.mxcsr = 0x1fa0;  // PE set
  set_lane(0, 0, 0x3ff0000000000000);
  set_lane(1, 0, 0x3cb0000000000001);
  EXPECT_EQ(run({0xf2, 0x0f, 0x58, 0xc1}), kNone);  // addsd xmm0, xmm1: inexact
  EXPECT_EQ(s.fx.mxcsr, 0x1fa0u);
  s.fx.mxcsr = 0x1f80;
  set_lane(0, 0, 0x3ff0000000000000);
  set_lane(1, 0, 0x3ff0000000000000);
  EXPECT_EQ(run({0xf2, 0x0f, 0x58, 0xc1}), kNone);  // exact
  EXPECT_EQ(s.fx.mxcsr, 0x1f80u);
  EXPECT_EQ(lane(0, 0), 0x4000000000000000u);
}

// ---- x87 environment ----

class X87EnvironmentTest : public VectorTest {
 protected:
  X87EnvironmentTest() {
    s.gpr[x86::kRbx] = kDataBase;
    s.fx.fcw = 0x27f;
    s.fx.fsw = 0x3000;  // TOP 6
    s.fx.ftw = 0xc0;    // ST0, ST1
    s.fx.fop = 0x123;
    s.fx.fip = 0x00abcdef;
    s.fx.fdp = 0x00fedcba;
    set_st(0, uint64_t{1} << 63, 0x3fff);  // 1.0: valid
    set_st(1, 0, 0);                       // 0.0: zero
  }
  static constexpr uint16_t kTags = 0x4fff;  // R6 valid, R7 zero, others empty
  uint32_t dword(unsigned i) const { return static_cast<uint32_t>(word(4 * (i & ~1u)) >> (i & 1 ? 32 : 0)); }
  uint16_t half(unsigned i) const {
    uint16_t value;
    std::memcpy(&value, data.data() + 2 * i, 2);
    return value;
  }
};

TEST_F(X87EnvironmentTest, Protected32) {
  EXPECT_EQ(run({0xd9, 0x33}), kNone);  // fnstenv [rbx]
  EXPECT_EQ(dword(0), 0xffff027fu);
  EXPECT_EQ(dword(1), 0xffff3000u);
  EXPECT_EQ(dword(2), 0xffff0000u | kTags);
  EXPECT_EQ(dword(3), 0x00abcdefu);
  EXPECT_EQ(dword(4), 0x01230000u);
  EXPECT_EQ(dword(5), 0x00fedcbau);
  EXPECT_EQ(s.fx.fcw, 0x27f | 0x3f);
}

TEST_F(X87EnvironmentTest, Protected16) {
  EXPECT_EQ(run({0x66, 0xd9, 0x33}), kNone);
  EXPECT_EQ(half(0), 0x027f);
  EXPECT_EQ(half(1), 0x3000);
  EXPECT_EQ(half(2), kTags);
  EXPECT_EQ(half(3), 0xcdef);
  EXPECT_EQ(half(5), 0xdcba);
}

TEST_F(X87EnvironmentTest, Real32) {
  guest.set_mode(Mode::kReal);
  s.gpr[x86::kRbx] = 0;
  EXPECT_EQ(run({0x66, 0xd9, 0x37}), kNone);  // fnstenv [bx]
  EXPECT_EQ(dword(3) & 0xffff, 0xcdefu);
  EXPECT_EQ(dword(4), 0x000ab123u);
  EXPECT_EQ(dword(5) & 0xffff, 0xdcbau);
  EXPECT_EQ(dword(6), 0x000fe000u);
}

TEST_F(X87EnvironmentTest, Real16) {
  guest.set_mode(Mode::kReal);
  s.gpr[x86::kRbx] = 0;
  EXPECT_EQ(run({0xd9, 0x37}), kNone);
  EXPECT_EQ(half(3), 0xcdef);
  EXPECT_EQ(half(4), 0xb123);
  EXPECT_EQ(half(5), 0xdcba);
  EXPECT_EQ(half(6), 0xe000);
}

TEST_F(X87EnvironmentTest, LoadingMovesTheStackTop) {
  EXPECT_EQ(run({0xd9, 0x33}), kNone);
  data[5] = 0x28;                       // TOP 5
  EXPECT_EQ(run({0xd9, 0x23}), kNone);  // fldenv [rbx]
  EXPECT_EQ(s.fx.fsw, 0x2800);
  EXPECT_EQ(s.fx.ftw, 0xc0);
  EXPECT_EQ(s.fx.fop, 0x123);
  uint16_t exponent;
  std::memcpy(&exponent, s.fx.st[1] + 8, 2);
  EXPECT_EQ(exponent, 0x3fff);  // physical register 6 is ST1 now
}

TEST_F(X87EnvironmentTest, SaveInitializesAndRestoreBringsBack) {
  const x86::FxState before = s.fx;
  EXPECT_EQ(run({0xdd, 0x33}), kNone);  // fnsave [rbx]
  EXPECT_EQ(s.fx.fcw, 0x37f);
  EXPECT_EQ(s.fx.ftw, 0);
  EXPECT_EQ(run({0xdd, 0x23}), kNone);  // frstor [rbx]
  EXPECT_EQ(s.fx.fcw, before.fcw);
  EXPECT_EQ(s.fx.fsw, before.fsw);
  EXPECT_EQ(s.fx.ftw, before.ftw);
  EXPECT_EQ(std::memcmp(s.fx.st, before.st, sizeof before.st), 0);
}

TEST_F(X87EnvironmentTest, PointersFollowTheInstructionAndItsOperand) {
  s.fx.fsw = 0;
  EXPECT_EQ(run({0xdd, 0x43, 0x08}), kNone);  // fld qword [rbx+8], at RIP 0
  EXPECT_EQ(s.fx.fip, 0u);
  EXPECT_EQ(s.fx.fdp, kDataBase + 8);
  EXPECT_EQ(s.fx.fop, 0x123);  // only unmasked exceptions change it
}

}  // namespace
}  // namespace ostler::test
