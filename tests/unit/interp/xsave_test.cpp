// FXSAVE and the XSAVE family: what is stored, left alone, refused (SDM Vol. 1 §13.6-13.12).

#include <gtest/gtest.h>

#include <cstring>
#include <initializer_list>

#include "differential/vector/cases.h"
#include "differential/vector/guest.h"
#include "interp/xsave.h"

namespace ostler::test {
namespace {

class XsaveTest : public testing::Test {
 protected:
  XsaveTest() {
    s.gpr[x86::kRbx] = kDataBase;
    s.gpr[x86::kRax] = 7;
    s.gpr[x86::kRdx] = 0;
    std::memset(data.data(), 0xcc, 1024);
    std::memset(data.data() + 512, 0, 64);
  }
  int run(std::initializer_list<uint8_t> code) {
    const auto fault = guest.run({code.begin(), code.size()});
    return fault ? static_cast<int>(fault->vector) : -1;
  }
  int xsave() { return run({0x48, 0x0f, 0xae, 0x23}); }
  int xsaveopt() { return run({0x48, 0x0f, 0xae, 0x33}); }
  int xsavec() { return run({0x48, 0x0f, 0xc7, 0x23}); }
  int xsaves() { return run({0x48, 0x0f, 0xc7, 0x2b}); }
  int xrstor() { return run({0x48, 0x0f, 0xae, 0x2b}); }
  int xrstors() { return run({0x48, 0x0f, 0xc7, 0x1b}); }
  uint64_t word(unsigned offset) const {
    uint64_t value;
    std::memcpy(&value, data.data() + offset, 8);
    return value;
  }
  void set_word(unsigned offset, uint64_t value) { std::memcpy(data.data() + offset, &value, 8); }
  bool untouched(unsigned from, unsigned to) const {
    for (unsigned i = from; i < to; ++i)
      if (data[i] != 0xcc) return false;
    return true;
  }

  static constexpr int kNone = -1, kGp = 13, kPf = 14;
  static constexpr unsigned kXstateBv = 512, kXcompBv = 520, kAvx = 576;
  static constexpr uint64_t kCompacted = uint64_t{1} << 63;
  VectorGuest guest;
  x86::CpuState& s = guest.state();
  std::span<uint8_t> data = guest.data();
};

TEST_F(XsaveTest, InitialStateIsNotInUse) {
  EXPECT_EQ(interp::xinuse(s), 0u);
  s.vec[15][0] = 1;
  EXPECT_EQ(interp::xinuse(s), 2u);
  s.vec[3][31] = 1;
  EXPECT_EQ(interp::xinuse(s), 6u);
  s.fx.ftw = 1;
  EXPECT_EQ(interp::xinuse(s), 7u);
}

TEST_F(XsaveTest, XsaveStoresAllThatIsAskedForButMarksWhatIsInUse) {
  s.vec[2][0] = 0x11;
  EXPECT_EQ(xsave(), kNone);
  EXPECT_EQ(word(kXstateBv), 2u);
  EXPECT_EQ(data[160 + 32], 0x11);
  EXPECT_EQ(data[0], 0x7f);
  EXPECT_FALSE(untouched(kAvx, kAvx + 256));
}

TEST_F(XsaveTest, XsaveKeepsHeaderBitsOfOtherComponentsAndTheRestOfTheHeader) {
  set_word(kXstateBv, 0xff);
  set_word(kXcompBv, 0x1234);
  s.gpr[x86::kRax] = 2;
  EXPECT_EQ(xsave(), kNone);
  EXPECT_EQ(word(kXstateBv), 0xfdu);
  EXPECT_EQ(word(kXcompBv), 0x1234u);
  EXPECT_TRUE(untouched(0, 24));
  EXPECT_TRUE(untouched(kAvx, kAvx + 256));
}

TEST_F(XsaveTest, XsaveoptSkipsWhatIsInitial) {
  s.vec[0][16] = 5;
  EXPECT_EQ(xsaveopt(), kNone);
  EXPECT_EQ(word(kXstateBv), 4u);
  EXPECT_TRUE(untouched(0, 24));
  EXPECT_TRUE(untouched(160, 416));
  EXPECT_EQ(data[24], 0x80);  // MXCSR belongs to SSE and AVX
  EXPECT_EQ(data[kAvx], 5);
}

TEST_F(XsaveTest, XsavecWritesTheCompactedHeader) {
  s.vec[0][16] = 5;
  EXPECT_EQ(xsavec(), kNone);
  EXPECT_EQ(word(kXstateBv), 4u);
  EXPECT_EQ(word(kXcompBv), kCompacted | 7);
  EXPECT_TRUE(untouched(0, 416));
  EXPECT_EQ(data[kAvx], 5);
}

TEST_F(XsaveTest, XsavecSavesSseForTheSakeOfMxcsr) {
  s.fx.mxcsr = 0x1fa0;
  EXPECT_EQ(xsavec(), kNone);
  EXPECT_EQ(word(kXstateBv), 2u);
  EXPECT_EQ(data[24], 0xa0);
}

TEST_F(XsaveTest, ComponentsAreLimitedByXcr0) {
  s.xcr0 = 3;
  s.vec[0][16] = 5;
  s.gpr[x86::kRax] = ~uint64_t{0};
  s.gpr[x86::kRdx] = ~uint64_t{0};
  EXPECT_EQ(xsavec(), kNone);
  EXPECT_EQ(word(kXcompBv), kCompacted | 3);
  EXPECT_TRUE(untouched(kAvx, kAvx + 256));
}

TEST_F(XsaveTest, AreaMustBeAligned) {
  s.gpr[x86::kRbx] = kDataBase + 32;
  for (int exception : {xsave(), xsaveopt(), xsavec(), xsaves(), xrstor(), xrstors()})
    EXPECT_EQ(exception, kGp);
}

TEST_F(XsaveTest, FaultOnTheSecondPageStoresNothing) {
  s.gpr[x86::kRbx] = kDataBase + kDataSize - 576;
  s.vec[0][0] = 9;
  std::memset(data.data() + kDataSize - 576, 0xcc, 576);
  EXPECT_EQ(xsave(), kPf);
  for (unsigned i = kDataSize - 576; i < kDataSize; ++i) ASSERT_EQ(data[i], 0xcc);
}

TEST_F(XsaveTest, SupervisorFormsNeedPrivilege) {
  s.seg[x86::kSs].attributes |= 3u << 5;
  guest.cpl_changed();
  EXPECT_EQ(xsaves(), kGp);
  EXPECT_EQ(xrstors(), kGp);
  EXPECT_EQ(xsavec(), kNone);
}

TEST_F(XsaveTest, RestoreInitializesWhatTheAreaDoesNotHold) {
  s.fx.ftw = 1;
  s.fx.fcw = 0x27f;
  std::memset(s.vec, 1, sizeof s.vec);
  set_word(24, 0x1fbf);
  EXPECT_EQ(xrstor(), kNone);
  EXPECT_EQ(interp::xinuse(s), 0u);
  EXPECT_EQ(s.fx.mxcsr, 0x1fbfu);  // the standard form loads it all the same
}

TEST_F(XsaveTest, CompactedRestoreInitializesMxcsr) {
  s.fx.mxcsr = 0x1fbf;
  set_word(kXcompBv, kCompacted | 7);
  EXPECT_EQ(xrstor(), kNone);
  EXPECT_EQ(s.fx.mxcsr, 0x1f80u);
}

TEST_F(XsaveTest, RestoreLeavesComponentsThatWereNotAskedFor) {
  std::memset(s.vec, 1, sizeof s.vec);
  s.gpr[x86::kRax] = 4;
  set_word(24, 0x1f80);
  EXPECT_EQ(xrstor(), kNone);
  EXPECT_EQ(s.vec[0][0], 1);
  EXPECT_EQ(s.vec[0][16], 0);
}

TEST_F(XsaveTest, RoundTripOfEveryForm) {
  for (unsigned i = 0; i < sizeof s.vec; ++i) s.vec[i / 32][i % 32] = static_cast<uint8_t>(i * 7 + 1);
  s.fx.ftw = 0x81;
  s.fx.fsw = 0x3800;
  s.fx.mxcsr = 0x3f80;
  s.fx.st[0][5] = 0x77;
  const x86::FxState fx = s.fx;
  uint8_t vec[16][32];
  std::memcpy(vec, s.vec, sizeof vec);
  auto expect_back = [&] {
    EXPECT_EQ(std::memcmp(vec, s.vec, sizeof vec), 0);
    EXPECT_EQ(std::memcmp(&fx, &s.fx, sizeof fx), 0);
  };
  auto clobber = [&] {
    std::memset(s.vec, 0xee, sizeof s.vec);
    s.fx = {};
  };
  EXPECT_EQ(xsave(), kNone);
  clobber();
  EXPECT_EQ(xrstor(), kNone);
  expect_back();
  EXPECT_EQ(xsavec(), kNone);
  clobber();
  EXPECT_EQ(xrstor(), kNone);
  expect_back();
  EXPECT_EQ(xsaves(), kNone);
  clobber();
  EXPECT_EQ(xrstors(), kNone);
  expect_back();
}

TEST_F(XsaveTest, RestoreChecksTheHeader) {
  struct Bad {
    unsigned offset;
    uint64_t value;
  };
  set_word(24, 0x1f80);
  // Standard form: XSTATE_BV beyond XCR0, bytes 23:8.
  for (const Bad bad :
       {Bad{kXstateBv, 8}, Bad{kXstateBv, kCompacted}, Bad{kXcompBv, 1}, Bad{kXcompBv + 8, 1}}) {
    std::memset(data.data() + 512, 0, 64);
    set_word(bad.offset, bad.value);
    EXPECT_EQ(xrstor(), kGp) << bad.offset;
  }
  // Compacted form: XCOMP_BV beyond XCR0, XSTATE_BV beyond XCOMP_BV, bytes 63:16.
  for (const Bad bad :
       {Bad{kXcompBv, kCompacted | 8}, Bad{kXstateBv, 4}, Bad{kXcompBv + 8, 1}, Bad{568, 1}}) {
    std::memset(data.data() + 512, 0, 64);
    set_word(kXcompBv, kCompacted | 3);
    set_word(bad.offset, bad.value);
    EXPECT_EQ(xrstor(), kGp) << bad.offset;
    EXPECT_EQ(xrstors(), kGp) << bad.offset;
  }
  // XRSTORS takes the compacted form only.
  std::memset(data.data() + 512, 0, 64);
  EXPECT_EQ(xrstors(), kGp);
}

TEST_F(XsaveTest, RestoreRefusesReservedMxcsrBitsOnlyWhereItLoadsThem) {
  set_word(24, 0x11f80);
  s.gpr[x86::kRax] = 1;
  EXPECT_EQ(xrstor(), kNone);
  s.gpr[x86::kRax] = 4;
  EXPECT_EQ(xrstor(), kGp);
  set_word(kXcompBv, kCompacted | 7);
  EXPECT_EQ(xrstor(), kNone);
}

TEST_F(XsaveTest, FxsaveOutside64BitModeStoresEightRegisters) {
  std::memset(s.vec, 1, sizeof s.vec);
  guest.set_mode(Mode::k32);
  EXPECT_EQ(run({0x0f, 0xae, 0x03}), kNone);
  EXPECT_EQ(data[160 + 7 * 16], 1);
  EXPECT_TRUE(untouched(160 + 8 * 16, 512));
}

TEST_F(XsaveTest, FxsavePointersAre64BitsWideWithRexW) {
  s.fx.fip = 0x123456789abc;
  EXPECT_EQ(run({0x48, 0x0f, 0xae, 0x03}), kNone);
  EXPECT_EQ(word(8), 0x123456789abcu);
  EXPECT_EQ(run({0x0f, 0xae, 0x03}), kNone);
  EXPECT_EQ(word(8), 0x56789abcu);
}

TEST_F(XsaveTest, FxrstorRefusesReservedMxcsrBitsAndMisalignment) {
  std::memset(data.data(), 0, 512);
  set_word(24, 0x80001f80);
  EXPECT_EQ(run({0x0f, 0xae, 0x0b}), kGp);
  set_word(24, 0x1f80);
  EXPECT_EQ(run({0x0f, 0xae, 0x0b}), kNone);
  s.gpr[x86::kRbx] += 8;
  EXPECT_EQ(run({0x0f, 0xae, 0x0b}), kGp);
}

}  // namespace
}  // namespace ostler::test
