#include "devices/chipset/uart.h"

#include <gtest/gtest.h>

#include "bench.h"

namespace ostler::chipset {
namespace {

constexpr uint64_t kData = 0, kIer = 1, kIir = 2, kFcr = 2, kLcr = 3, kMcr = 4, kLsr = 5, kMsr = 6,
                   kScratch = 7;
constexpr uint8_t kOut2 = 8, kLoopback = 0x10;

struct UartTest : ::testing::Test {
  Bench bench;
  FakeIrqs irqs;
  FakeBackend backend;
  Uart uart{bench.loop, bus::IrqLine(irqs, 4), &backend};

  UartTest() { write(kMcr, kOut2 | 3); }
  uint8_t read(uint64_t reg) { return static_cast<uint8_t>(uart.io_read(reg, 1)); }
  void write(uint64_t reg, uint8_t value) { uart.io_write(reg, 1, value); }
  bool irq() const { return irqs.level(4); }
};

TEST_F(UartTest, TransmitsToTheBackend) {
  write(kData, 'o');
  write(kData, 'k');
  EXPECT_EQ(backend.output, "ok");
  EXPECT_EQ(read(kLsr), 0x60);
}

TEST_F(UartTest, TransmitInterruptIsClearedByReadingIir) {
  write(kIer, 2);
  EXPECT_TRUE(irq());
  EXPECT_EQ(read(kIir), 2);
  EXPECT_FALSE(irq());
  EXPECT_EQ(read(kIir), 1);
  write(kData, 'x');
  EXPECT_TRUE(irq());
}

TEST_F(UartTest, BackPressureHoldsTheTransmitter) {
  write(kFcr, 1);
  write(kIer, 2);
  read(kIir);
  backend.room = 1;
  for (const char c : std::string_view("abcd")) write(kData, static_cast<uint8_t>(c));
  EXPECT_EQ(backend.output, "a");
  EXPECT_EQ(read(kLsr) & 0x60, 0);
  EXPECT_NE(read(kIir) & 15, 2);
  backend.room = SIZE_MAX;
  uart.writable();
  EXPECT_EQ(backend.output, "abcd");
  EXPECT_EQ(read(kIir) & 15, 2);
}

TEST_F(UartTest, TransmitFifoIsBounded) {
  write(kFcr, 1);
  backend.room = 0;
  for (int i = 0; i < 100; ++i) write(kData, 'x');
  backend.room = SIZE_MAX;
  uart.writable();
  EXPECT_EQ(backend.output.size(), 16u);
}

TEST_F(UartTest, ReceivesWithoutFifoOneByteAtATime) {
  write(kIer, 1);
  EXPECT_EQ(backend.type("ab"), 1u);
  EXPECT_TRUE(irq());
  EXPECT_EQ(read(kIir), 4);
  EXPECT_EQ(read(kLsr) & 1, 1);
  const int before = backend.accepted;
  EXPECT_EQ(read(kData), 'a');
  EXPECT_GT(backend.accepted, before);
  EXPECT_FALSE(irq());
  EXPECT_EQ(read(kLsr) & 1, 0);
}

TEST_F(UartTest, FifoTriggerLevel) {
  write(kFcr, 0x81);  // 8 bytes
  write(kIer, 1);
  backend.type("1234567");
  EXPECT_FALSE(irq());
  backend.type("8");
  EXPECT_TRUE(irq());
  EXPECT_EQ(read(kIir), 0xc4);
  read(kData);
  EXPECT_FALSE(irq());
}

TEST_F(UartTest, CharacterTimeoutBelowTheTrigger) {
  write(kFcr, 0x81);
  write(kIer, 1);
  backend.type("x");
  EXPECT_FALSE(irq());
  bench.advance(10'000'000);  // four characters at 9600 baud are 4.2 ms
  EXPECT_TRUE(irq());
  EXPECT_EQ(read(kIir), 0xcc);
  EXPECT_EQ(read(kData), 'x');
  EXPECT_FALSE(irq());
}

TEST_F(UartTest, FifoHoldsSixteen) {
  write(kFcr, 1);
  EXPECT_EQ(backend.type("0123456789abcdefgh"), 16u);
  for (const char c : std::string_view("0123456789abcdef")) EXPECT_EQ(read(kData), c);
  EXPECT_EQ(read(kLsr) & 1, 0);
}

TEST_F(UartTest, OverrunIsReportedOnce) {
  write(kIer, 4);
  backend.type("a");
  uart.receive(std::as_bytes(std::span("b", 1)));
  EXPECT_TRUE(irq());
  EXPECT_EQ(read(kIir), 6);
  EXPECT_EQ(read(kLsr) & 2, 2);
  EXPECT_FALSE(irq());
  EXPECT_EQ(read(kLsr) & 2, 0);
  EXPECT_EQ(read(kData), 'b');  // without FIFO the new byte replaces the old one
}

TEST_F(UartTest, BreakIsANullByteWithItsFlag) {
  write(kFcr, 1);
  write(kIer, 4);
  uart.event(chardev::CharEvent::kBreak);
  EXPECT_EQ(read(kIir), 0xc6);
  EXPECT_EQ(read(kLsr), 0xf1);
  EXPECT_EQ(read(kData), 0);
}

TEST_F(UartTest, PrioritiesOfCauses) {
  write(kIer, 15);
  backend.type("a");
  uart.event(chardev::CharEvent::kBreak);  // overrun
  write(kMcr, kOut2 | kLoopback);          // changes the modem lines
  write(kMcr, kOut2);
  EXPECT_EQ(read(kIir), 6);
  read(kLsr);
  EXPECT_EQ(read(kIir), 4);
  read(kData);
  EXPECT_EQ(read(kIir), 2);
  EXPECT_EQ(read(kIir), 0);
  read(kMsr);
  EXPECT_EQ(read(kIir), 1);
}

TEST_F(UartTest, LoopbackReturnsDataAndModemLines) {
  write(kMcr, kLoopback | 0x0a);  // RTS, OUT2
  EXPECT_EQ(read(kMsr) & 0xf0, 0x90);
  write(kData, 'L');
  EXPECT_EQ(read(kData), 'L');
  EXPECT_TRUE(backend.output.empty());
  EXPECT_EQ(uart.can_receive(), 0u);
}

TEST_F(UartTest, ModemStatusDeltas) {
  write(kMcr, kLoopback);
  read(kMsr);
  write(kMcr, kLoopback | 4);  // RI rises: no delta
  EXPECT_EQ(read(kMsr), 0x40);
  write(kMcr, kLoopback);  // and falls
  EXPECT_EQ(read(kMsr), 0x04);
  EXPECT_EQ(read(kMsr), 0);
}

TEST_F(UartTest, Out2GatesTheInterrupt) {
  write(kMcr, 0);
  write(kIer, 2);
  EXPECT_FALSE(irq());
  write(kMcr, kOut2);
  EXPECT_TRUE(irq());
}

TEST_F(UartTest, DivisorLatchHidesDataAndIer) {
  write(kLcr, 0x83);
  write(kData, 0x34);
  write(kIer, 0x12);
  EXPECT_EQ(read(kData), 0x34);
  EXPECT_EQ(read(kIer), 0x12);
  EXPECT_TRUE(backend.output.empty());
  write(kLcr, 0x03);
  EXPECT_EQ(read(kIer), 0);
}

TEST_F(UartTest, IdentifiesAs16550AByItsFifo) {
  EXPECT_EQ(read(kIir) & 0xc0, 0);
  write(kFcr, 1);
  EXPECT_EQ(read(kIir) & 0xc0, 0xc0);
  write(kScratch, 0xa5);
  EXPECT_EQ(read(kScratch), 0xa5);
  write(kIer, 0xff);
  EXPECT_EQ(read(kIer), 0x0f);
}

TEST_F(UartTest, OutputThatWaitedIsSentAfterARestore) {
  backend.room = 0;
  write(kData, 'w');
  state::Saver saver;
  uart.state(saver);
  const auto stream = saver.take();
  FakeBackend other_backend;
  Uart other(bench.loop, bus::IrqLine(irqs, 4), &other_backend);
  state::Loader loader(stream);
  other.state(loader);
  ASSERT_TRUE(loader.finish());
  bench.advance(1);
  EXPECT_EQ(other_backend.output, "w");
}

TEST_F(UartTest, ClearingTheReceiveFifo) {
  write(kFcr, 1);
  backend.type("abc");
  write(kFcr, 3);
  EXPECT_EQ(read(kLsr) & 1, 0);
}

}  // namespace
}  // namespace ostler::chipset
