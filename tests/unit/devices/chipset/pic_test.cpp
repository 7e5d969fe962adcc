#include "devices/chipset/pic.h"

#include <gtest/gtest.h>

#include "bench.h"

namespace ostler::chipset {
namespace {

struct PicTest : ::testing::Test {
  FakeIrqs cpu;
  PicPair pic{bus::IrqLine(cpu, 0)};

  PicTest() { init(0x01); }
  // As an operating system does: vectors 0x30 and 0x38, all inputs open.
  void init(uint8_t icw4) {
    master(0, 0x11);
    master(1, 0x30);
    master(1, 4);
    master(1, icw4);
    slave(0, 0x11);
    slave(1, 0x38);
    slave(1, 2);
    slave(1, 0x01);
  }
  void master(uint64_t port, uint8_t value) { pic.master_ports().io_write(port, 1, value); }
  void slave(uint64_t port, uint8_t value) { pic.slave_ports().io_write(port, 1, value); }
  uint8_t master(uint64_t port) { return static_cast<uint8_t>(pic.master_ports().io_read(port, 1)); }
  uint8_t slave(uint64_t port) { return static_cast<uint8_t>(pic.slave_ports().io_read(port, 1)); }
  bool intr() const { return cpu.level(0); }
  uint8_t master_isr() {
    master(0, 0x0b);
    return master(0);
  }
  uint8_t master_irr() {
    master(0, 0x0a);
    return master(0);
  }
  void pulse(unsigned pin) {
    pic.set_irq(pin, false);
    pic.set_irq(pin, true);
  }
};

TEST_F(PicTest, DeliversAnEdgeOnce) {
  pic.set_irq(4, true);
  EXPECT_TRUE(intr());
  EXPECT_EQ(pic.acknowledge(), 0x34);
  EXPECT_FALSE(intr());
  EXPECT_EQ(master_isr(), 1 << 4);
  master(0, 0x20);
  EXPECT_EQ(master_isr(), 0);
  EXPECT_FALSE(intr());
  pulse(4);
  EXPECT_TRUE(intr());
}

TEST_F(PicTest, DeliversThroughTheCascade) {
  pic.set_irq(12, true);
  EXPECT_EQ(pic.acknowledge(), 0x3c);
  EXPECT_EQ(master_isr(), 1 << 2);
  slave(0, 0x0b);
  EXPECT_EQ(slave(0), 1 << 4);
}

TEST_F(PicTest, SecondSlaveInterruptFollowsTheEois) {
  pic.set_irq(10, true);
  EXPECT_EQ(pic.acknowledge(), 0x3a);
  pic.set_irq(11, true);
  slave(0, 0x20);
  EXPECT_FALSE(intr());
  master(0, 0x20);
  EXPECT_TRUE(intr());
  EXPECT_EQ(pic.acknowledge(), 0x3b);
}

TEST_F(PicTest, HigherPriorityNestsLowerWaits) {
  pic.set_irq(4, true);
  pic.acknowledge();
  pic.set_irq(5, true);
  EXPECT_FALSE(intr());
  pic.set_irq(1, true);
  EXPECT_TRUE(intr());
  EXPECT_EQ(pic.acknowledge(), 0x31);
  master(0, 0x20);  // ends IRQ 1
  EXPECT_EQ(master_isr(), 1 << 4);
  master(0, 0x20);
  EXPECT_EQ(pic.acknowledge(), 0x35);
}

TEST_F(PicTest, MaskHoldsBackAndKeepsTheRequest) {
  master(1, 1 << 4);
  pic.set_irq(4, true);
  EXPECT_FALSE(intr());
  EXPECT_EQ(master_irr(), 1 << 4);
  EXPECT_EQ(master(1), 1 << 4);
  master(1, 0);
  EXPECT_TRUE(intr());
}

TEST_F(PicTest, RequestThatGoesAwayIsSpurious) {
  pic.set_irq(4, true);
  pic.set_irq(4, false);
  EXPECT_FALSE(intr());
  EXPECT_EQ(pic.acknowledge(), 0x37);
  EXPECT_EQ(master_isr(), 0);
}

TEST_F(PicTest, LevelInputStaysRequested) {
  pic.elcr_ports().io_write(1, 1, 1 << 2);  // IRQ 10
  pic.set_irq(10, true);
  EXPECT_EQ(pic.acknowledge(), 0x3a);
  slave(0, 0x20);
  master(0, 0x20);
  EXPECT_TRUE(intr());
  EXPECT_EQ(pic.acknowledge(), 0x3a);
  pic.set_irq(10, false);
  slave(0, 0x20);
  master(0, 0x20);
  EXPECT_FALSE(intr());
}

TEST_F(PicTest, PresetLevelInputsStayOverResets) {
  pic.preset_level_inputs(0xffff);
  EXPECT_EQ(pic.elcr_ports().io_read(0, 2), 0xdef8u);
  pic.preset_level_inputs(1 << 10 | 1 << 11);
  EXPECT_EQ(pic.elcr_ports().io_read(0, 2), 0x0c00u);
  pic.elcr_ports().io_write(0, 2, 0);
  pic.reset();
  EXPECT_EQ(pic.elcr_ports().io_read(0, 2), 0x0c00u);
}

TEST_F(PicTest, ElcrKeepsSystemInputsEdge) {
  pic.elcr_ports().io_write(0, 2, 0xffff);
  EXPECT_EQ(pic.elcr_ports().io_read(0, 2), 0xdef8u);
}

TEST_F(PicTest, SpecificEoi) {
  pic.set_irq(4, true);
  pic.acknowledge();
  pic.set_irq(1, true);
  pic.acknowledge();
  master(0, 0x64);
  EXPECT_EQ(master_isr(), 1 << 1);
}

TEST_F(PicTest, RotationOnEoiMakesItLowest) {
  pic.set_irq(4, true);
  pic.acknowledge();
  master(0, 0xa0);  // rotate on non-specific EOI: IRQ 5 is highest now
  pulse(4);
  pic.set_irq(5, true);
  pic.set_irq(3, true);
  EXPECT_EQ(pic.acknowledge(), 0x35);
}

TEST_F(PicTest, SetPriorityCommand) {
  master(0, 0xc0 | 3);  // IRQ 3 lowest, IRQ 4 highest
  pic.set_irq(1, true);
  pic.set_irq(4, true);
  EXPECT_EQ(pic.acknowledge(), 0x34);
}

TEST_F(PicTest, AutomaticEoiLeavesNothingInService) {
  init(0x03);
  pic.set_irq(4, true);
  EXPECT_EQ(pic.acknowledge(), 0x34);
  EXPECT_EQ(master_isr(), 0);
}

TEST_F(PicTest, SpecialMaskLetsLowerPrioritiesIn) {
  pic.set_irq(1, true);
  pic.acknowledge();
  pic.set_irq(4, true);
  EXPECT_FALSE(intr());
  master(1, 1 << 1);
  EXPECT_FALSE(intr());
  master(0, 0x68);  // set special mask mode
  EXPECT_TRUE(intr());
  EXPECT_EQ(pic.acknowledge(), 0x34);
}

TEST_F(PicTest, SpecialFullyNestedModeNestsSlaveInterrupts) {
  init(0x11);
  pic.set_irq(12, true);
  pic.acknowledge();
  pic.set_irq(9, true);
  EXPECT_TRUE(intr());
  EXPECT_EQ(pic.acknowledge(), 0x39);
}

TEST_F(PicTest, PollTakesThePlaceOfAcknowledge) {
  pic.set_irq(5, true);
  master(0, 0x0c);
  EXPECT_EQ(master(0), 0x85);
  EXPECT_EQ(master_isr(), 1 << 5);
  EXPECT_FALSE(intr());
  master(0, 0x0c);
  EXPECT_EQ(master(0), 0);
}

TEST_F(PicTest, NothingIsDeliveredDuringInitialization) {
  master(0, 0x11);
  pic.set_irq(4, true);
  EXPECT_FALSE(intr());
  master(1, 0x40);
  master(1, 4);
  master(1, 1);
  EXPECT_TRUE(intr());
  EXPECT_EQ(pic.acknowledge(), 0x44);
}

TEST_F(PicTest, CascadePinCannotBeDrivenFromOutside) {
  pic.set_irq(2, true);
  EXPECT_FALSE(intr());
}

}  // namespace
}  // namespace ostler::chipset
