#include "devices/chipset/rtc.h"

#include <gtest/gtest.h>

#include "bench.h"

namespace ostler::chipset {
namespace {

constexpr int64_t kMs = 1'000'000, kSecond = 1'000'000'000;
constexpr int64_t kStart = 1'774'915'199;  // 2026-03-30 23:59:59 UTC, a Monday

struct RtcTest : ::testing::Test {
  Bench bench;
  FakeIrqs irqs;
  Rtc rtc{bench.loop, bus::IrqLine(irqs, 8), kStart};

  uint8_t read(uint8_t index) {
    rtc.ports().io_write(0, 1, index);
    return static_cast<uint8_t>(rtc.ports().io_read(1, 1));
  }
  void write(uint8_t index, uint8_t value) {
    rtc.ports().io_write(0, 1, index);
    rtc.ports().io_write(1, 1, value);
  }
};

TEST_F(RtcTest, ShowsTheTimeInBcd) {
  EXPECT_EQ(read(0), 0x59);
  EXPECT_EQ(read(2), 0x59);
  EXPECT_EQ(read(4), 0x23);
  EXPECT_EQ(read(6), 2);  // Monday
  EXPECT_EQ(read(7), 0x30);
  EXPECT_EQ(read(8), 0x03);
  EXPECT_EQ(read(9), 0x26);
  EXPECT_EQ(read(0x32), 0x20);
  EXPECT_EQ(read(0x0d), 0x80);
}

TEST_F(RtcTest, GoesOnToTheNextDay) {
  bench.advance(kSecond);
  EXPECT_EQ(read(0), 0);
  EXPECT_EQ(read(4), 0);
  EXPECT_EQ(read(6), 3);
  EXPECT_EQ(read(7), 0x31);
}

TEST_F(RtcTest, BinaryAndTwelveHourFormats) {
  write(11, 4);  // binary, 12 h
  EXPECT_EQ(read(0), 59);
  EXPECT_EQ(read(4), 0x80 | 11);
  bench.advance(kSecond);
  EXPECT_EQ(read(4), 12);  // midnight is 12 AM
}

TEST_F(RtcTest, SetStopsTheClockAndStartsItAgain) {
  write(11, 0x82);
  bench.advance(10 * kSecond);
  EXPECT_EQ(read(0), 0x59);
  const uint8_t values[][2] = {{0, 0x30}, {2, 0x15}, {4, 0x12},   {7, 0x29},
                               {8, 0x02}, {9, 0x28}, {0x32, 0x20}};
  for (const auto& [index, value] : values) write(index, value);
  write(11, 2);
  EXPECT_EQ(rtc.time_s(), 1'835'439'330);  // 2028-02-29 12:15:30
  bench.advance(2 * kSecond);
  EXPECT_EQ(read(0), 0x32);
  EXPECT_EQ(read(6), 3);  // a Tuesday
}

TEST_F(RtcTest, WritesWhileRunningTakeEffect) {
  write(2, 0x10);
  EXPECT_EQ(rtc.time_s(), kStart - 49 * 60);
}

TEST_F(RtcTest, UipAnnouncesTheUpdate) {
  bench.advance(kSecond - 300'000);
  EXPECT_EQ(read(10) & 0x80, 0);
  bench.advance(100'000);
  EXPECT_EQ(read(10) & 0x80, 0x80);
  bench.advance(200'000);
  EXPECT_EQ(read(10) & 0x80, 0);
}

TEST_F(RtcTest, UpdateInterruptEachSecond) {
  read(12);
  write(11, 0x12);
  bench.advance(999 * kMs);
  EXPECT_FALSE(irqs.level(8));
  bench.advance(1 * kMs);
  EXPECT_TRUE(irqs.level(8));
  EXPECT_EQ(read(12) & 0x90, 0x90);
  EXPECT_FALSE(irqs.level(8));
  EXPECT_EQ(read(12), 0);
  bench.advance(kSecond);
  EXPECT_TRUE(irqs.level(8));
}

TEST_F(RtcTest, PeriodicInterruptAtItsRate) {
  write(10, 0x26);  // 1024 Hz
  write(11, 0x42);
  unsigned count = 0;
  for (int i = 0; i < 1000; ++i) {
    bench.advance(kMs);
    if (irqs.level(8)) ++count;
    read(12);
  }
  EXPECT_EQ(count, 1000u);  // 1024 edges, some of them two to a millisecond
}

TEST_F(RtcTest, AlarmMatchesItsFields) {
  write(1, 0x05);  // 00:00:05
  write(3, 0x00);
  write(5, 0x00);
  read(12);
  write(11, 0x22);
  bench.advance(5 * kSecond);
  EXPECT_FALSE(irqs.level(8));
  bench.advance(kSecond);
  EXPECT_TRUE(irqs.level(8));
  EXPECT_EQ(read(12) & 0xa0, 0xa0);
}

TEST_F(RtcTest, AlarmWithDontCares) {
  write(1, 0x30);
  write(3, 0xff);
  write(5, 0xff);
  read(12);
  write(11, 0x22);
  bench.advance(31 * kSecond);
  EXPECT_TRUE(irqs.level(8));
  read(12);
  bench.advance(59 * kSecond);
  EXPECT_FALSE(irqs.level(8));
  bench.advance(1 * kSecond);
  EXPECT_TRUE(irqs.level(8));
}

TEST_F(RtcTest, FlagsGatherWithoutInterrupts) {
  read(12);
  bench.advance(kSecond);
  EXPECT_EQ(read(12), 0x50);  // update and periodic, no IRQF
  EXPECT_FALSE(irqs.level(8));
}

TEST_F(RtcTest, SetClearsUpdateEnable) {
  write(11, 0x92);
  EXPECT_EQ(read(11), 0x82);
}

TEST_F(RtcTest, ResetKeepsTimeAndRam) {
  write(0x40, 0xaa);
  write(11, 0x72);
  rtc.reset();
  EXPECT_EQ(read(11), 2);
  EXPECT_EQ(read(0x40), 0xaa);
  EXPECT_EQ(rtc.time_s(), kStart);
}

TEST_F(RtcTest, MachineSetsRam) {
  rtc.set_cmos(0x34, 0x12);
  EXPECT_EQ(read(0x34), 0x12);
  rtc.set_cmos(0xa0, 0x77);
  rtc.extended_ports().io_write(0, 1, 0x20);
  EXPECT_EQ(rtc.extended_ports().io_read(1, 1), 0x77u);
}

TEST_F(RtcTest, DividerResetHoldsTheClock) {
  write(10, 0x76);
  bench.advance(10 * kSecond);
  write(10, 0x26);
  EXPECT_EQ(rtc.time_s(), kStart);
  bench.advance(500 * kMs);
  EXPECT_EQ(rtc.time_s(), kStart + 1);
}

TEST_F(RtcTest, GarbageInTheTimeRegistersIsATime) {
  for (const int index : {0, 2, 4, 6, 7, 8, 9, 0x32}) write(static_cast<uint8_t>(index), 0xff);
  EXPECT_LE(rtc.time_s(), 6'000'000'000);
  bench.advance(kSecond);
  EXPECT_LE(read(0), 0x59);
}

}  // namespace
}  // namespace ostler::chipset
