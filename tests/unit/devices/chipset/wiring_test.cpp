// The chips of a PC wired together: what one of them does must arrive at the vCPU.
#include <gtest/gtest.h>

#include "bench.h"
#include "devices/chipset/apic_bus.h"
#include "devices/chipset/hpet.h"
#include "devices/chipset/io_apic.h"
#include "devices/chipset/irq_router.h"
#include "devices/chipset/local_apic.h"
#include "devices/chipset/pic.h"
#include "devices/chipset/pit.h"
#include "devices/chipset/rtc.h"
#include "devices/chipset/uart.h"

namespace ostler::chipset {
namespace {

constexpr int64_t kMs = 1'000'000;

struct Wiring : ::testing::Test {
  Bench bench;
  FakeTsc tsc{bench.clock};
  FakeCpu cpu;
  FakeBackend backend;
  ApicBus bus;
  LocalApic apic{LocalApic::Options{.bootstrap = true}, bus, bench.loop, tsc};
  PicPair pic{bus::IrqLine(bus, ApicBus::kIntrPin)};
  IoApic io_apic{bus, 0};
  IrqRouter router{&pic, io_apic};
  Hpet hpet{bench.loop, router, &bus};
  Pit pit{bench.loop, bus::IrqLine(hpet, Hpet::kPitPin)};
  Rtc rtc{bench.loop, bus::IrqLine(hpet, Hpet::kRtcPin), 0};
  Uart uart{bench.loop, router.line(4), &backend};

  Wiring() {
    bus.set_ext_int_source(pic);
    apic.attach(cpu);
  }
  void start_pic() {  // vectors 0x30 and 0x38, everything open
    const uint8_t master[] = {0x30, 4, 1, 0}, slave[] = {0x38, 2, 1, 0};
    pic.master_ports().io_write(0, 1, 0x11);
    pic.slave_ports().io_write(0, 1, 0x11);
    for (const uint8_t word : master) pic.master_ports().io_write(1, 1, word);
    for (const uint8_t word : slave) pic.slave_ports().io_write(1, 1, word);
  }
  void start_apics() {
    apic.io_write(0xf0, 4, 0x1ff);
    apic.io_write(0x350, 4, 0x10000);
  }
  void route(unsigned pin, uint32_t low) {
    io_apic.io_write(0, 4, 0x10 + pin * 2);
    io_apic.io_write(0x10, 4, low);
  }
  void start_pit() {  // mode 2, about 1 ms
    pit.ports().io_write(3, 1, 0x34);
    pit.ports().io_write(0, 1, 1193 & 0xff);
    pit.ports().io_write(0, 1, 1193 >> 8);
  }
};

TEST_F(Wiring, PitArrivesThroughThe8259BeforeAnyApicIsSetUp) {
  start_pic();
  start_pit();
  while (apic.pending()) {  // OUT rose when the mode was set
    apic.acknowledge();
    pic.master_ports().io_write(0, 1, 0x20);
  }
  for (int tick = 0; tick < 3; ++tick) {
    bench.advance(kMs);
    ASSERT_TRUE(apic.pending());
    EXPECT_EQ(apic.acknowledge(), 0x30);
    pic.master_ports().io_write(0, 1, 0x20);
    EXPECT_FALSE(apic.pending());
  }
}

TEST_F(Wiring, PitArrivesAtPinTwoOfTheIoApic) {
  start_apics();
  start_pit();
  route(2, 0x31);
  for (int tick = 0; tick < 3; ++tick) {
    bench.advance(kMs);
    EXPECT_EQ(apic.acknowledge(), 0x31);
    apic.io_write(0xb0, 4, 0);
  }
}

TEST_F(Wiring, HpetTakesThePlaceOfThePit) {
  start_apics();
  start_pit();
  route(2, 0x31);
  hpet.io_write(0x100, 8, 1 << 2 | 1 << 3 | 1 << 6);  // comparator 0: enabled, periodic
  hpet.io_write(0x108, 8, 1'000'000);                 // 10 ms
  hpet.io_write(0x10, 8, 3);
  bench.advance(10 * kMs - 1);
  EXPECT_FALSE(apic.pending());
  bench.advance(1);
  EXPECT_EQ(apic.acknowledge(), 0x31);
}

TEST_F(Wiring, RtcAlarmsThroughTheCascade) {
  start_pic();
  rtc.ports().io_write(0, 1, 11);
  rtc.ports().io_write(1, 1, 0x12);
  bench.advance(1000 * kMs);
  EXPECT_EQ(apic.acknowledge(), 0x38);
}

TEST_F(Wiring, UartInterruptsByLevelUntilItIsRead) {
  start_apics();
  route(4, 0x44);
  uart.io_write(4, 1, 8);
  uart.io_write(1, 1, 1);
  backend.type("x");
  EXPECT_EQ(apic.acknowledge(), 0x44);
  apic.io_write(0xb0, 4, 0);
  EXPECT_FALSE(apic.pending());
  uart.io_read(0, 1);
  backend.type("y");
  EXPECT_EQ(apic.acknowledge(), 0x44);
}

TEST_F(Wiring, HpetComparatorBySignalledMessage) {
  start_apics();
  hpet.io_write(0x120, 8, 1 << 2 | 1 << 14);
  hpet.io_write(0x130, 8, uint64_t{0xfee00000} << 32 | 0x55);
  hpet.io_write(0x128, 8, 100);
  hpet.io_write(0x10, 8, 1);
  bench.advance(1000);
  EXPECT_EQ(apic.acknowledge(), 0x55);
}

}  // namespace
}  // namespace ostler::chipset
