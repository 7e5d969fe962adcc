#include "devices/chipset/io_apic.h"

#include <gtest/gtest.h>

#include "bench.h"
#include "devices/chipset/irq_router.h"
#include "devices/chipset/local_apic.h"

namespace ostler::chipset {
namespace {

constexpr uint32_t kLevel = 1 << 15, kMasked = 1 << 16, kRemoteIrr = 1 << 14;

struct IoApicTest : ::testing::Test {
  Bench bench;
  FakeTsc tsc{bench.clock};
  ApicBus bus;
  FakeCpu cpu;
  IoApic io{bus, 3};
  LocalApic apic{LocalApic::Options{}, bus, bench.loop, tsc};

  IoApicTest() {
    apic.attach(cpu);
    apic.io_write(0xf0, 4, 0x1ff);
  }
  uint32_t read(uint8_t index) {
    io.io_write(0, 4, index);
    return static_cast<uint32_t>(io.io_read(0x10, 4));
  }
  void write(uint8_t index, uint32_t value) {
    io.io_write(0, 4, index);
    io.io_write(0x10, 4, value);
  }
  void route(unsigned pin, uint32_t low) { write(static_cast<uint8_t>(0x10 + pin * 2), low); }
  void eoi() { apic.io_write(0xb0, 4, 0); }
};

TEST_F(IoApicTest, IdentifiesItself) {
  EXPECT_EQ(read(0), 3u << 24);
  EXPECT_EQ(read(1), 0x00170020u);
  EXPECT_EQ(read(0x3f), 0u);
  EXPECT_EQ(read(0x40), 0xffffffffu);
  write(0, 0x0f000000);
  EXPECT_EQ(read(0), 0x0f000000u);
}

TEST_F(IoApicTest, PinsAreMaskedAfterReset) {
  for (unsigned pin = 0; pin < IoApic::kPins; ++pin)
    EXPECT_EQ(read(static_cast<uint8_t>(0x10 + 2 * pin)), kMasked);
  io.set_irq(5, true);
  EXPECT_FALSE(apic.pending());
}

TEST_F(IoApicTest, EdgeIsSentOnce) {
  route(4, 0x44);
  io.set_irq(4, true);
  EXPECT_EQ(apic.acknowledge(), 0x44);
  eoi();
  EXPECT_FALSE(apic.pending());
  io.set_irq(4, false);
  io.set_irq(4, true);
  EXPECT_EQ(apic.acknowledge(), 0x44);
}

TEST_F(IoApicTest, EdgeOfAMaskedPinIsLost) {
  route(4, 0x44 | kMasked);
  io.set_irq(4, true);
  route(4, 0x44);
  EXPECT_FALSE(apic.pending());
}

TEST_F(IoApicTest, LevelIsSentAgainAfterEoiWhileAsserted) {
  route(10, 0x50 | kLevel);
  io.set_irq(10, true);
  EXPECT_EQ(apic.acknowledge(), 0x50);
  EXPECT_NE(read(0x10 + 20) & kRemoteIrr, 0u);
  EXPECT_FALSE(apic.pending());
  eoi();
  EXPECT_EQ(apic.acknowledge(), 0x50);
  io.set_irq(10, false);
  eoi();
  EXPECT_FALSE(apic.pending());
  EXPECT_EQ(read(0x10 + 20) & kRemoteIrr, 0u);
}

TEST_F(IoApicTest, UnmaskingAnAssertedLevelPinSends) {
  route(10, 0x50 | kLevel | kMasked);
  io.set_irq(10, true);
  EXPECT_FALSE(apic.pending());
  route(10, 0x50 | kLevel);
  EXPECT_EQ(apic.acknowledge(), 0x50);
}

TEST_F(IoApicTest, EoiRegisterEndsByVector) {
  route(10, 0x50 | kLevel);
  io.set_irq(10, true);
  io.set_irq(10, false);
  io.io_write(0x40, 4, 0x51);
  EXPECT_NE(read(0x10 + 20) & kRemoteIrr, 0u);
  io.io_write(0x40, 4, 0x50);
  EXPECT_EQ(read(0x10 + 20) & kRemoteIrr, 0u);
}

TEST_F(IoApicTest, SwitchingToEdgeClearsRemoteIrr) {
  route(10, 0x50 | kLevel);
  io.set_irq(10, true);
  route(10, 0x50 | kMasked);
  EXPECT_EQ(read(0x10 + 20) & kRemoteIrr, 0u);
}

TEST_F(IoApicTest, ReadOnlyBitsOfAnEntryStay) {
  route(3, 0xffffffff);
  EXPECT_EQ(read(0x10 + 6), 0x1afffu);
  write(0x10 + 7, 0xffffffff);
  EXPECT_EQ(read(0x10 + 7), 0xff000000u);
}

TEST_F(IoApicTest, NmiModeReachesTheVcpu) {
  route(7, 0x400);
  io.set_irq(7, true);
  EXPECT_EQ(cpu.nmis, 1);
}

TEST_F(IoApicTest, DestinationSelectsTheApic) {
  write(0x10 + 9, 9u << 24);  // no such APIC
  route(4, 0x44);
  io.set_irq(4, true);
  EXPECT_FALSE(apic.pending());
}

TEST(IrqRouter, WiresIsaIrqsToBothControllers) {
  FakeIrqs pic, io_apic;
  IrqRouter router(&pic, io_apic);
  router.set_irq(0, true);
  router.set_irq(2, true);
  router.set_irq(4, true);
  router.set_irq(20, true);
  EXPECT_EQ(pic.levels, 0b10101u);
  EXPECT_EQ(io_apic.levels, 1u << 2 | 1u << 4 | 1u << 20);
}

TEST(WiredOr, StaysUpUntilTheLastSourceLetsGo) {
  FakeIrqs sink;
  WiredOr shared(bus::IrqLine(sink, 5));
  shared.set_irq(0, true);
  shared.set_irq(3, true);
  shared.set_irq(0, false);
  EXPECT_TRUE(sink.level(5));
  shared.set_irq(3, false);
  EXPECT_FALSE(sink.level(5));
  EXPECT_EQ(sink.edges[5], 1u);
}

}  // namespace
}  // namespace ostler::chipset
