#include "devices/chipset/i8042.h"

#include <gtest/gtest.h>

#include "bench.h"

namespace ostler::chipset {
namespace {

struct I8042Test : ::testing::Test {
  FakeIrqs irqs;
  FakeRequests requests;
  I8042 controller{bus::IrqLine(irqs, 1), bus::IrqLine(irqs, 12), requests};

  void command(uint8_t value) { controller.command_port().io_write(0, 1, value); }
  void data(uint8_t value) { controller.data_port().io_write(0, 1, value); }
  uint8_t status() { return static_cast<uint8_t>(controller.command_port().io_read(0, 1)); }
  // The next byte, or -1.
  int next() { return (status() & 1) != 0 ? static_cast<int>(controller.data_port().io_read(0, 1)) : -1; }
  void mouse(uint8_t value) {
    command(0xd4);
    data(value);
  }
};

TEST_F(I8042Test, SelfTests) {
  command(0xaa);
  EXPECT_EQ(next(), 0x55);
  command(0xab);
  EXPECT_EQ(next(), 0);
  command(0xa9);
  EXPECT_EQ(next(), 0);
  EXPECT_EQ(next(), -1);
}

TEST_F(I8042Test, CommandByteIsStored) {
  command(0x60);
  data(0x65);
  command(0x20);
  EXPECT_EQ(next(), 0x65);
}

TEST_F(I8042Test, KeyboardResetAndIdentify) {
  data(0xff);
  EXPECT_EQ(next(), 0xfa);
  EXPECT_EQ(next(), 0xaa);
  data(0xf2);
  EXPECT_EQ(next(), 0xfa);
  EXPECT_EQ(next(), 0xab);
  EXPECT_EQ(next(), 0x41);  // translated
  data(0x12);
  EXPECT_EQ(next(), 0xfe);
}

TEST_F(I8042Test, LedsAndScanSetTakeAnArgument) {
  data(0xed);
  EXPECT_EQ(next(), 0xfa);
  data(0x07);
  EXPECT_EQ(next(), 0xfa);
  data(0xf0);
  next();
  data(0);
  EXPECT_EQ(next(), 0xfa);
  EXPECT_EQ(next(), 2);
}

TEST_F(I8042Test, MouseAnswersWithItsFlag) {
  mouse(0xff);
  EXPECT_EQ(status() & 0x21, 0x21);
  EXPECT_TRUE(irqs.level(12));
  EXPECT_FALSE(irqs.level(1));
  EXPECT_EQ(next(), 0xfa);
  EXPECT_EQ(next(), 0xaa);
  EXPECT_EQ(next(), 0);
  mouse(0xf2);
  EXPECT_EQ(next(), 0xfa);
  EXPECT_EQ(next(), 0);
}

TEST_F(I8042Test, LoopbackOfTheMousePortWorksWhileItIsDisabled) {
  command(0x60);
  data(0x34);  // both ports off: how Linux probes
  command(0xd3);
  data(0x5a);
  EXPECT_EQ(status() & 0x20, 0x20);
  EXPECT_EQ(next(), 0x5a);
}

TEST_F(I8042Test, InterruptForEachByte) {
  const uint8_t keys[] = {0x1e, 0x9e};
  EXPECT_TRUE(controller.put_key(keys));
  EXPECT_EQ(irqs.edges[1], 1u);
  EXPECT_EQ(next(), 0x1e);
  EXPECT_EQ(irqs.edges[1], 2u);
  EXPECT_EQ(next(), 0x9e);
  EXPECT_FALSE(irqs.level(1));
}

TEST_F(I8042Test, DisabledKeyboardHoldsItsBytes) {
  command(0xad);
  const uint8_t key[] = {0x1e};
  EXPECT_TRUE(controller.put_key(key));
  EXPECT_EQ(next(), -1);
  command(0xae);
  EXPECT_EQ(next(), 0x1e);
}

TEST_F(I8042Test, QueueIsBounded) {
  const uint8_t key[] = {0x1e};
  int taken = 0;
  while (taken < 1000 && controller.put_key(key)) ++taken;
  EXPECT_EQ(taken, 33);  // the queue and the output buffer
}

TEST_F(I8042Test, ResetByPulseAndByOutputPort) {
  command(0xfe);
  EXPECT_EQ(requests.resets, 1);
  command(0xff);
  EXPECT_EQ(requests.resets, 1);
  command(0xd1);
  data(0xdf);
  EXPECT_EQ(requests.resets, 1);
  command(0xd1);
  data(0xde);
  EXPECT_EQ(requests.resets, 2);
}

}  // namespace
}  // namespace ostler::chipset
