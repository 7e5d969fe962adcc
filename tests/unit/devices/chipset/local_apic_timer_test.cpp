#include <gtest/gtest.h>

#include <algorithm>
#include <span>

#include "bench.h"
#include "devices/chipset/apic_bus.h"
#include "devices/chipset/local_apic.h"

namespace ostler::chipset {
namespace {

constexpr uint64_t kEoi = 0xb0, kSpurious = 0xf0, kTimer = 0x320, kInitial = 0x380, kCurrent = 0x390,
                   kDivide = 0x3e0;
constexpr uint32_t kOneShot = 0x40, kPeriodic = 0x20040, kTscMode = 0x40040, kMasked = 0x10000;
constexpr uint32_t kDivideBy1 = 0xb, kDivideBy2 = 0, kDivideBy128 = 0xa;
constexpr uint32_t kMsrDeadline = 0x6e0;

struct LocalApicTimerTest : ::testing::Test {
  Bench bench;
  FakeTsc tsc{bench.clock};
  ApicBus bus;
  FakeCpu cpu;
  LocalApic apic{LocalApic::Options{}, bus, bench.loop, tsc};

  LocalApicTimerTest() {
    apic.attach(cpu);
    write(kSpurious, 0x1ff);
    write(kDivide, kDivideBy1);
  }
  void write(uint64_t reg, uint32_t value) { apic.io_write(reg, 4, value); }
  uint32_t read(uint64_t reg) { return static_cast<uint32_t>(apic.io_read(reg, 4)); }
  bool take() {
    if (!apic.acknowledge()) return false;
    write(kEoi, 0);
    return true;
  }
};

TEST_F(LocalApicTimerTest, OneShotFiresOnce) {
  write(kTimer, kOneShot);
  write(kInitial, 1000);
  bench.advance(999);
  EXPECT_FALSE(apic.pending());
  bench.advance(1);
  EXPECT_TRUE(take());
  bench.advance(10'000);
  EXPECT_FALSE(apic.pending());
  EXPECT_EQ(read(kCurrent), 0u);
}

TEST_F(LocalApicTimerTest, WhatIsDueAndHasNotRungDoesSoWhereItsImageGoes) {
  write(kTimer, kOneShot);
  write(kInitial, 1000);
  bench.clock.advance(1000);
  const bus::ApicImage due = apic.image();
  bench.loop.run_due();
  EXPECT_TRUE(take());
  apic.set_image(apic.image());
  bench.advance(10'000);
  EXPECT_FALSE(apic.pending()) << "it has rung";
  apic.set_image(due);
  bench.advance(1);
  EXPECT_TRUE(take());
}

TEST_F(LocalApicTimerTest, CountsDownWithTheDivider) {
  write(kTimer, kOneShot);
  write(kDivide, kDivideBy2);
  write(kInitial, 1000);
  bench.advance(500);
  EXPECT_EQ(read(kCurrent), 750u);
  write(kDivide, kDivideBy128);
  EXPECT_EQ(read(kCurrent), 750u);
  bench.advance(128);
  EXPECT_EQ(read(kCurrent), 749u);
}

TEST_F(LocalApicTimerTest, PeriodicFiresAgainAndAgain) {
  write(kTimer, kPeriodic);
  write(kInitial, 100'000);
  for (int i = 0; i < 5; ++i) {
    bench.advance(99'999);
    EXPECT_FALSE(apic.pending());
    bench.advance(1);
    EXPECT_TRUE(take());
  }
}

TEST_F(LocalApicTimerTest, PeriodsThatWentByAreOneInterrupt) {
  write(kTimer, kPeriodic);
  write(kInitial, 100'000);
  bench.clock.advance(1'050'000);
  bench.loop.run_due();
  EXPECT_TRUE(take());
  bench.loop.run_due();
  EXPECT_FALSE(apic.pending());
  bench.advance(50'000);  // the phase is kept
  EXPECT_TRUE(take());
}

TEST_F(LocalApicTimerTest, ZeroCountStops) {
  write(kTimer, kOneShot);
  write(kInitial, 1000);
  write(kInitial, 0);
  bench.advance(5000);
  EXPECT_FALSE(apic.pending());
}

TEST_F(LocalApicTimerTest, MaskedTimerRunsSilently) {
  write(kTimer, kOneShot | kMasked);
  write(kInitial, 1000);
  bench.advance(500);
  EXPECT_EQ(read(kCurrent), 500u);
  bench.advance(1000);
  EXPECT_FALSE(apic.pending());
}

TEST_F(LocalApicTimerTest, TscDeadlineFiresWhenTheTscReachesIt) {
  write(kTimer, kTscMode);
  const uint64_t deadline = tsc.guest_tsc() + 2001;  // 1000.5 ns
  EXPECT_TRUE(apic.write_msr(kMsrDeadline, deadline));
  EXPECT_EQ(apic.read_msr(kMsrDeadline), deadline);
  bench.advance(1000);
  EXPECT_FALSE(apic.pending());
  bench.advance(1);
  EXPECT_TRUE(take());
  EXPECT_EQ(apic.read_msr(kMsrDeadline), 0u);
}

TEST_F(LocalApicTimerTest, TscDeadlineInThePastFiresAtOnce) {
  write(kTimer, kTscMode);
  EXPECT_TRUE(apic.write_msr(kMsrDeadline, tsc.guest_tsc()));
  EXPECT_TRUE(take());
}

TEST_F(LocalApicTimerTest, TscDeadlineZeroDisarms) {
  write(kTimer, kTscMode);
  apic.write_msr(kMsrDeadline, tsc.guest_tsc() + 2000);
  apic.write_msr(kMsrDeadline, 0);
  bench.advance(10'000);
  EXPECT_FALSE(apic.pending());
}

TEST_F(LocalApicTimerTest, FarDeadlinesAreKept) {
  write(kTimer, kTscMode);
  apic.write_msr(kMsrDeadline, UINT64_MAX);
  bench.advance(int64_t{7200} * 1'000'000'000);
  EXPECT_FALSE(apic.pending());
  EXPECT_EQ(apic.read_msr(kMsrDeadline), UINT64_MAX);
}

TEST_F(LocalApicTimerTest, DeadlineMsrIsIgnoredInOtherModes) {
  write(kTimer, kOneShot);
  EXPECT_TRUE(apic.write_msr(kMsrDeadline, 1));
  EXPECT_EQ(apic.read_msr(kMsrDeadline), 0u);
  EXPECT_FALSE(apic.pending());
}

TEST_F(LocalApicTimerTest, ChangeOfModeDisarms) {
  write(kTimer, kTscMode);
  apic.write_msr(kMsrDeadline, tsc.guest_tsc() + 2000);
  write(kTimer, kOneShot);
  bench.advance(10'000);
  EXPECT_FALSE(apic.pending());
}

TEST_F(LocalApicTimerTest, JumpOfTheTscMovesTheDeadline) {
  write(kTimer, kTscMode);
  apic.write_msr(kMsrDeadline, tsc.guest_tsc() + 2'000'000);
  tsc.offset += 1'999'998;
  apic.tsc_changed();
  bench.advance(1);
  EXPECT_TRUE(take());
}

TEST_F(LocalApicTimerTest, ATimeFarAheadInASavedStateIsDividedWithoutOverflow) {
  constexpr uint32_t kCount = 0x7654321;
  write(kTimer, kOneShot);
  write(kInitial, kCount);
  state::Saver saver;
  apic.state(saver);
  auto stream = saver.take();
  const int64_t expires = bench.clock.now() + kCount, far = INT64_MAX / 2 - 1;
  const auto saved = std::as_bytes(std::span(&expires, 1)), other = std::as_bytes(std::span(&far, 1));
  const auto at = std::ranges::search(stream, saved).begin();
  ASSERT_NE(at, stream.end());
  std::ranges::copy(other, at);
  state::Loader loader(stream);
  apic.state(loader);
  ASSERT_TRUE(loader.finish());
  EXPECT_EQ(read(kCurrent), kCount);
  write(kDivide, kDivideBy128);
  EXPECT_EQ(read(kCurrent), kCount);
}

TEST_F(LocalApicTimerTest, RestoredTimerGoesOn) {
  write(kTimer, kOneShot);
  write(kInitial, 1000);
  bench.advance(400);
  state::Saver saver;
  apic.state(saver);
  const auto stream = saver.take();
  write(kInitial, 0);
  state::Loader loader(stream);
  apic.state(loader);
  ASSERT_TRUE(loader.finish());
  bench.advance(599);
  EXPECT_FALSE(apic.pending());
  bench.advance(1);
  EXPECT_TRUE(take());
}

}  // namespace
}  // namespace ostler::chipset
