#include "devices/chipset/pit.h"

#include <gtest/gtest.h>

#include "bench.h"
#include "devices/chipset/ticks.h"

namespace ostler::chipset {
namespace {

struct PitTest : ::testing::Test {
  Bench bench;
  FakeIrqs irqs;
  Pit pit{bench.loop, bus::IrqLine(irqs, 0)};

  void out(uint64_t port, uint8_t value) { pit.ports().io_write(port, 1, value); }
  uint8_t in(uint64_t port) { return static_cast<uint8_t>(pit.ports().io_read(port, 1)); }
  uint16_t in16(uint64_t port) {
    const uint8_t low = in(port);
    return static_cast<uint16_t>(low | in(port) << 8);
  }
  void gate(uint8_t value) { pit.control_port().io_write(0, 1, value); }
  bool out2() { return (pit.control_port().io_read(0, 1) & 0x20) != 0; }
  void program(unsigned channel, unsigned mode, uint16_t count, bool bcd = false) {
    out(3, static_cast<uint8_t>(channel << 6 | 0x30 | mode << 1 | bcd));
    out(channel, static_cast<uint8_t>(count));
    out(channel, static_cast<uint8_t>(count >> 8));
  }
  // To just after the moment when `ticks` ticks have passed since the start of the test.
  void to_tick(int64_t ticks) { bench.advance(ns_of_tick(ticks, PitCounter::kHertz) + 2 - bench.now()); }
  uint16_t latched(unsigned channel) {
    out(3, static_cast<uint8_t>(channel << 6));
    return in16(channel);
  }
  uint8_t status(unsigned channel) {
    out(3, static_cast<uint8_t>(0xe0 | 2u << channel));
    return in(channel);
  }
};

TEST_F(PitTest, Mode0RaisesAtTerminalCount) {
  program(0, 0, 1000);
  EXPECT_FALSE(irqs.level(0));
  to_tick(999);
  EXPECT_FALSE(irqs.level(0));
  to_tick(1000);
  EXPECT_TRUE(irqs.level(0));
  to_tick(100'000);
  EXPECT_EQ(irqs.edges[0], 1u);
}

TEST_F(PitTest, Mode0NewCountLowersTheOutput) {
  program(0, 0, 1000);
  to_tick(1000);
  out(0, 100);
  EXPECT_FALSE(irqs.level(0));
  out(0, 0);
  to_tick(1101);
  EXPECT_TRUE(irqs.level(0));
}

TEST_F(PitTest, Mode1IsTriggeredByTheGate) {
  program(2, 1, 1000);
  EXPECT_TRUE(out2());
  to_tick(5000);
  gate(1);
  EXPECT_FALSE(out2());
  to_tick(5500);
  gate(0);
  gate(1);  // again
  to_tick(6400);
  EXPECT_FALSE(out2());
  to_tick(6501);
  EXPECT_TRUE(out2());
}

TEST_F(PitTest, Mode2InterruptsEachPeriod) {
  program(0, 2, 1000);
  const unsigned before = irqs.edges[0];
  for (unsigned period = 1; period <= 10; ++period) {
    to_tick(period * 1000 - 1);
    EXPECT_EQ(irqs.edges[0], before + period - 1);
    to_tick(period * 1000);
    EXPECT_EQ(irqs.edges[0], before + period);
  }
}

TEST_F(PitTest, Mode2CountsDownAndReloads) {
  program(0, 2, 1000);
  to_tick(10);
  EXPECT_EQ(latched(0), 990);
  to_tick(999);
  EXPECT_EQ(latched(0), 1);
  to_tick(1000);
  EXPECT_EQ(latched(0), 1000);
}

TEST_F(PitTest, Mode2NewCountWaitsForThePeriod) {
  program(0, 2, 1000);
  to_tick(500);
  out(0, 200 & 0xff);
  out(0, 0);
  EXPECT_NE(status(0) & 0x40, 0);  // null count
  to_tick(999);
  EXPECT_EQ(latched(0), 1);
  to_tick(1150);
  EXPECT_EQ(latched(0), 50);
  EXPECT_EQ(status(0) & 0x40, 0);
}

TEST_F(PitTest, Mode3IsASquareWave) {
  gate(1);
  program(2, 3, 1001);
  EXPECT_TRUE(out2());
  to_tick(500);
  EXPECT_TRUE(out2());
  to_tick(501);
  EXPECT_FALSE(out2());
  to_tick(1000);
  EXPECT_FALSE(out2());
  to_tick(1001);
  EXPECT_TRUE(out2());
}

TEST_F(PitTest, Mode3CountsByTwo) {
  program(0, 3, 1000);
  to_tick(10);
  EXPECT_EQ(latched(0), 980);
  to_tick(510);
  EXPECT_EQ(latched(0), 980);
}

TEST_F(PitTest, Mode4StrobesOnce) {
  program(0, 4, 1000);
  const unsigned before = irqs.edges[0];
  to_tick(1000);
  EXPECT_EQ(irqs.edges[0], before);
  to_tick(1001);
  EXPECT_EQ(irqs.edges[0], before + 1);
  to_tick(200'000);
  EXPECT_EQ(irqs.edges[0], before + 1);
}

TEST_F(PitTest, Mode5StrobesAfterATrigger) {
  program(2, 5, 100);
  gate(1);
  to_tick(99);
  EXPECT_TRUE(out2());
  to_tick(100);
  EXPECT_FALSE(out2());
  to_tick(101);
  EXPECT_TRUE(out2());
}

TEST_F(PitTest, GateHoldsTheCount) {
  gate(1);
  program(2, 0, 1000);
  to_tick(300);
  gate(0);
  to_tick(5000);
  EXPECT_EQ(latched(2), 700);
  gate(1);
  to_tick(5699);
  EXPECT_FALSE(out2());
  to_tick(5701);
  EXPECT_TRUE(out2());
}

TEST_F(PitTest, CountOfZeroIsTheLargest) {
  program(0, 2, 0);
  to_tick(1);
  EXPECT_EQ(latched(0), 0xffff);
}

TEST_F(PitTest, BcdCounts) {
  program(0, 2, 0x1000, true);
  to_tick(1);
  EXPECT_EQ(latched(0), 0x0999);
}

TEST_F(PitTest, LatchHoldsUntilRead) {
  program(0, 2, 1000);
  to_tick(10);
  out(3, 0);
  to_tick(50);
  out(3, 0);  // ignored
  EXPECT_EQ(in16(0), 990);
  EXPECT_EQ(in16(0), 950);
}

TEST_F(PitTest, ReadBackGivesStatusThenCount) {
  program(0, 2, 1000);
  to_tick(10);
  out(3, 0xc2);
  EXPECT_EQ(in(0), 0xb4);  // output high, both bytes, mode 2
  EXPECT_EQ(in16(0), 990);
}

TEST_F(PitTest, SingleByteAccess) {
  out(3, 0x14);  // counter 0, low byte, mode 2
  out(0, 100);
  to_tick(30);
  EXPECT_EQ(in(0), 70);
  EXPECT_EQ(in(0), 70);
}

TEST_F(PitTest, QuickInterruptsAreMerged) {
  program(0, 2, 2);
  const unsigned before = irqs.edges[0];
  bench.advance(1'000'000);
  EXPECT_LE(irqs.edges[0] - before, 50u);
  EXPECT_GE(irqs.edges[0] - before, 40u);
}

TEST_F(PitTest, Port61TogglesRefresh) {
  const auto bit4 = [&] { return pit.control_port().io_read(0, 1) & 0x10; };
  const auto first = bit4();
  bench.advance(15'085);
  EXPECT_NE(bit4(), first);
}

TEST_F(PitTest, Port61KeepsItsLowBits) {
  gate(0xff);
  EXPECT_EQ(pit.control_port().io_read(0, 1) & 0xcf, 0x0fu);
}

TEST_F(PitTest, WideAccessTouchesEachPort) {
  pit.ports().io_write(2, 2, 0xb4 << 8);  // port 0x42 = 0, port 0x43 = counter 2 mode 2
  EXPECT_EQ(status(2) & 0x3f, 0x34);
  EXPECT_EQ(pit.ports().io_read(3, 1), 0xffu);
}

TEST_F(PitTest, APictureOfItGoesOnWithANewPeriod) {
  program(0, 2, 1000);
  out(3, 0x34);
  out(0, 0xe8);
  gate(3);
  program(2, 0, 500);
  out(0, 3);
  out(3, 0xc4);  // latch status and count of counter 1
  in(1);
  to_tick(300);
  const PitImage image = pit.image();
  Pit other{bench.loop, bus::IrqLine(irqs, 1)};
  other.set_image(image);
  EXPECT_EQ(other.image(), image);
  EXPECT_EQ(other.control_port().io_read(0, 1) & 3, 3u);
  to_tick(1301);
  EXPECT_GE(irqs.edges[1], 1u);
}

TEST_F(PitTest, APictureThatNoCounterHasIsMadeOne) {
  PitImage image;
  image.counters.fill({.mode = 0xee, .access = 9, .loaded = true, .count = ~0u});
  pit.set_image(image);
  for (const PitCounter::Image& counter : pit.image().counters) {
    EXPECT_LE(counter.mode, 5u);
    EXPECT_EQ(counter.access, 3u);
    EXPECT_EQ(counter.count, 0x10000u);
  }
}

}  // namespace
}  // namespace ostler::chipset
