#include "devices/chipset/hpet.h"

#include <gtest/gtest.h>

#include "bench.h"

namespace ostler::chipset {
namespace {

constexpr uint64_t kConfig = 0x10, kStatus = 0x20, kCounter = 0xf0;
constexpr uint64_t kLevel = 1 << 1, kEnable = 1 << 2, kPeriodic = 1 << 3, kSetValue = 1 << 6, k32Bit = 1 << 8,
                   kFsb = 1 << 14;
constexpr uint64_t config_of(unsigned n) {
  return 0x100 + n * 0x20;
}
constexpr uint64_t value_of(unsigned n) {
  return 0x108 + n * 0x20;
}
constexpr uint64_t fsb_of(unsigned n) {
  return 0x110 + n * 0x20;
}
constexpr uint64_t route(unsigned pin) {
  return pin << 9;
}

struct FakeMsi final : bus::MsiSink {
  std::vector<std::pair<uint64_t, uint32_t>> sent;
  void send_msi(GuestPhys address, uint32_t data) override { sent.emplace_back(address.value, data); }
};

struct HpetTest : ::testing::Test {
  Bench bench;
  FakeIrqs irqs;
  FakeMsi msi;
  Hpet hpet{bench.loop, irqs, &msi};

  uint64_t read(uint64_t reg) { return hpet.io_read(reg, 8); }
  void write(uint64_t reg, uint64_t value) { hpet.io_write(reg, 8, value); }
};

TEST_F(HpetTest, DescribesItself) {
  EXPECT_EQ(read(0), 0x009896808086a201u);
  EXPECT_EQ(hpet.io_read(4, 4), 10'000'000u);
  EXPECT_EQ(read(config_of(0)), 0x00f0000000008030u);
}

TEST_F(HpetTest, CounterRunsOnlyWhileEnabled) {
  bench.advance(1000);
  EXPECT_EQ(read(kCounter), 0u);
  write(kCounter, 500);
  write(kConfig, 1);
  bench.advance(1000);
  EXPECT_EQ(read(kCounter), 600u);
  write(kCounter, 1);  // not while running
  EXPECT_EQ(read(kCounter), 600u);
  write(kConfig, 0);
  bench.advance(1000);
  EXPECT_EQ(read(kCounter), 600u);
}

TEST_F(HpetTest, OneShotFiresOnceOnItsRoute) {
  write(config_of(1), kEnable | route(21));
  write(value_of(1), 100);
  write(kConfig, 1);
  bench.advance(999);
  EXPECT_EQ(irqs.edges[21], 0u);
  bench.advance(1);
  EXPECT_EQ(irqs.edges[21], 1u);
  bench.advance(1'000'000'000);
  EXPECT_EQ(irqs.edges[21], 1u);
}

TEST_F(HpetTest, ValueInThePastWaitsForTheWrap) {
  write(kConfig, 1);
  bench.advance(10'000);
  write(config_of(0), kEnable | route(20));
  write(value_of(0), 100);
  bench.advance(int64_t{10'000} * 1'000'000'000);
  EXPECT_EQ(irqs.edges[20], 0u);
}

TEST_F(HpetTest, Timer32BitsWraps) {
  write(kCounter, 0x1'ffff'fff0);
  write(config_of(0), kEnable | k32Bit | route(20));
  write(value_of(0), 0x10);
  write(kConfig, 1);
  bench.advance(319);
  EXPECT_EQ(irqs.edges[20], 0u);
  bench.advance(1);
  EXPECT_EQ(irqs.edges[20], 1u);
}

TEST_F(HpetTest, PeriodicInTheWayLinuxProgramsIt) {
  write(config_of(0), kEnable | kPeriodic | kSetValue | k32Bit | route(20));
  hpet.io_write(value_of(0), 4, 10'000);  // the first comparator
  hpet.io_write(value_of(0), 4, 5'000);   // the period, 50 us
  write(kConfig, 1);
  bench.advance(99'999);
  EXPECT_EQ(irqs.edges[20], 0u);
  bench.advance(1);
  EXPECT_EQ(irqs.edges[20], 1u);
  bench.advance(500'000);
  EXPECT_EQ(irqs.edges[20], 11u);
}

TEST_F(HpetTest, TinyPeriodsDoNotFloodTheLoop) {
  write(config_of(0), kEnable | kPeriodic | kSetValue | route(20));
  write(value_of(0), 1);
  write(kConfig, 1);
  bench.advance(1'000'000);
  EXPECT_LE(irqs.edges[20], 60u);
  EXPECT_GE(irqs.edges[20], 30u);
}

TEST_F(HpetTest, PeriodicWithoutInterruptWakesNobody) {
  write(config_of(0), kEnable | kPeriodic | kSetValue | k32Bit | route(20));
  write(value_of(0), 400'000);
  write(value_of(0), 400'000);
  write(kConfig, 1);
  bench.advance(4'000'000);
  EXPECT_EQ(irqs.edges[20], 1u);
  write(config_of(0), kPeriodic | k32Bit | route(20));
  EXPECT_FALSE(bench.loop.next_deadline().has_value());
  // A minute and one millisecond later, past the wrap of 32 bits: the comparator kept its step.
  bench.advance(60'001'000'000);
  EXPECT_EQ(irqs.edges[20], 1u);
  const uint64_t reached = read(value_of(0)), counter = read(kCounter) & 0xffffffff;
  EXPECT_EQ((reached - counter) & 0xffffffff, 300'000u);
  write(config_of(0), kEnable | kPeriodic | k32Bit | route(20));
  bench.advance(2'999'999);
  EXPECT_EQ(irqs.edges[20], 1u);
  bench.advance(1);
  EXPECT_EQ(irqs.edges[20], 2u);
  bench.advance(4'000'000);
  EXPECT_EQ(irqs.edges[20], 3u);
}

TEST_F(HpetTest, LevelInterruptHoldsUntilItsStatusIsCleared) {
  write(config_of(2), kEnable | kLevel | route(22));
  write(value_of(2), 100);
  write(kConfig, 1);
  bench.advance(1000);
  EXPECT_TRUE(irqs.level(22));
  EXPECT_EQ(read(kStatus), 4u);
  write(kStatus, 4);
  EXPECT_FALSE(irqs.level(22));
}

TEST_F(HpetTest, FsbDeliveryIsAMessage) {
  write(config_of(0), kEnable | kFsb);
  write(fsb_of(0), uint64_t{0xfee01000} << 32 | 0x41);
  write(value_of(0), 100);
  write(kConfig, 1);
  bench.advance(1000);
  ASSERT_EQ(msi.sent.size(), 1u);
  EXPECT_EQ(msi.sent[0], (std::pair<uint64_t, uint32_t>(0xfee01000, 0x41)));
}

TEST_F(HpetTest, LegacyReplacementTakesTheLines) {
  hpet.set_irq(Hpet::kPitPin, true);
  EXPECT_TRUE(irqs.level(0));
  write(kConfig, 3);
  EXPECT_FALSE(irqs.level(0));
  hpet.set_irq(Hpet::kPitPin, false);
  hpet.set_irq(Hpet::kPitPin, true);
  EXPECT_FALSE(irqs.level(0));
  write(config_of(0), kEnable);
  write(value_of(0), read(kCounter) + 100);
  const unsigned before = irqs.edges[0];
  bench.advance(1000);
  EXPECT_EQ(irqs.edges[0], before + 1);
  write(kConfig, 0);
  EXPECT_TRUE(irqs.level(0));
}

TEST_F(HpetTest, RefusesRoutesThatItDoesNotOffer) {
  write(config_of(0), route(21));
  write(config_of(0), kEnable | route(3));
  EXPECT_EQ(read(config_of(0)) >> 9 & 31, 21u);
}

}  // namespace
}  // namespace ostler::chipset
