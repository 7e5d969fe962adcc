#include "devices/chipset/local_apic.h"

#include <gtest/gtest.h>

#include <memory>
#include <thread>

#include "bench.h"
#include "devices/chipset/apic_bus.h"

namespace ostler::chipset {
namespace {

constexpr uint64_t kTpr = 0x80, kPpr = 0xa0, kEoi = 0xb0, kLdr = 0xd0, kDfr = 0xe0, kSpurious = 0xf0,
                   kIsr = 0x100, kTmr = 0x180, kIrr = 0x200, kEsr = 0x280, kIcrLow = 0x300, kIcrHigh = 0x310,
                   kLint0 = 0x350, kLint1 = 0x360, kLvtError = 0x370;
constexpr uint32_t kMsrBase = 0x1b;

struct Eois final : EoiSink {
  std::vector<uint8_t> vectors;
  void end_of_interrupt(uint8_t vector) override { vectors.push_back(vector); }
};
struct ExtInts final : ExtIntSource {
  uint8_t acknowledge() override { return 0x28; }
};

struct LocalApicTest : ::testing::Test {
  static constexpr unsigned kCpus = 4;
  Bench bench;
  FakeTsc tsc{bench.clock};
  ApicBus bus;
  Eois eois;
  ExtInts ext_ints;
  FakeCpu cpus[kCpus];
  std::unique_ptr<LocalApic> apics[kCpus];

  LocalApicTest() {
    bus.add_eoi_sink(eois);
    bus.set_ext_int_source(ext_ints);
    for (unsigned i = 0; i < kCpus; ++i) {
      LocalApic::Options options;
      options.id = i;
      options.bootstrap = i == 0;
      apics[i] = std::make_unique<LocalApic>(options, bus, bench.loop, tsc);
      apics[i]->attach(cpus[i]);
      write(i, kSpurious, 0x1ff);
    }
  }
  void write(unsigned cpu, uint64_t reg, uint32_t value) { apics[cpu]->io_write(reg, 4, value); }
  uint32_t read(unsigned cpu, uint64_t reg) { return static_cast<uint32_t>(apics[cpu]->io_read(reg, 4)); }
  void interrupt(unsigned cpu, uint8_t vector, bool level = false) {
    ApicMessage message;
    message.destination = cpu;
    message.vector = vector;
    message.level = level;
    bus.send(message);
  }
  void enable_x2apic(unsigned cpu) {
    const uint64_t base = *apics[cpu]->read_msr(kMsrBase);
    ASSERT_TRUE(apics[cpu]->write_msr(kMsrBase, base | 1 << 10));
  }
};

TEST_F(LocalApicTest, DeliversAFixedInterruptToItsVcpuAlone) {
  interrupt(1, 0x40);
  EXPECT_TRUE(apics[1]->pending());
  EXPECT_EQ(cpus[1].interrupts, 1);
  EXPECT_FALSE(apics[0]->pending());
  EXPECT_EQ(apics[1]->acknowledge(), 0x40);
  EXPECT_FALSE(apics[1]->pending());
  EXPECT_EQ(apics[1]->acknowledge(), std::nullopt);
}

TEST_F(LocalApicTest, TakesHigherVectorsFirst) {
  interrupt(0, 0x40);
  interrupt(0, 0x80);
  EXPECT_EQ(apics[0]->acknowledge(), 0x80);
  EXPECT_FALSE(apics[0]->pending());  // 0x40 waits for the EOI of a higher class
  write(0, kEoi, 0);
  EXPECT_TRUE(apics[0]->pending());
  EXPECT_EQ(apics[0]->acknowledge(), 0x40);
}

TEST_F(LocalApicTest, SameClassDoesNotNest) {
  interrupt(0, 0x41);
  EXPECT_EQ(apics[0]->acknowledge(), 0x41);
  interrupt(0, 0x4f);
  EXPECT_FALSE(apics[0]->pending());
  interrupt(0, 0x50);
  EXPECT_EQ(apics[0]->acknowledge(), 0x50);
}

TEST_F(LocalApicTest, MovesTheVectorFromIrrToIsr) {
  interrupt(0, 0x65);
  EXPECT_EQ(read(0, kIrr + 3 * 16), 1u << 5);
  apics[0]->acknowledge();
  EXPECT_EQ(read(0, kIrr + 3 * 16), 0u);
  EXPECT_EQ(read(0, kIsr + 3 * 16), 1u << 5);
  EXPECT_EQ(read(0, kPpr), 0x60u);
  write(0, kEoi, 0);
  EXPECT_EQ(read(0, kIsr + 3 * 16), 0u);
}

TEST_F(LocalApicTest, TaskPriorityHoldsInterruptsBack) {
  write(0, kTpr, 0x50);
  interrupt(0, 0x5f);
  EXPECT_FALSE(apics[0]->pending());
  EXPECT_EQ(apics[0]->acknowledge(), std::nullopt);
  apics[0]->set_cr8(4);
  EXPECT_EQ(read(0, kTpr), 0x40u);
  EXPECT_EQ(apics[0]->cr8(), 4);
  EXPECT_TRUE(apics[0]->pending());
  EXPECT_EQ(apics[0]->acknowledge(), 0x5f);
}

TEST_F(LocalApicTest, EoiOfALevelInterruptIsBroadcast) {
  interrupt(0, 0x70, true);
  EXPECT_EQ(read(0, kTmr + 3 * 16), 1u << 16);
  apics[0]->acknowledge();
  EXPECT_TRUE(eois.vectors.empty());
  write(0, kEoi, 0);
  EXPECT_EQ(eois.vectors, std::vector<uint8_t>{0x70});
}

TEST_F(LocalApicTest, EoiOfAnEdgeInterruptIsNot) {
  interrupt(0, 0x70, true);
  apics[0]->acknowledge();
  write(0, kEoi, 0);
  eois.vectors.clear();
  interrupt(0, 0x70, false);
  apics[0]->acknowledge();
  write(0, kEoi, 0);
  EXPECT_TRUE(eois.vectors.empty());
}

TEST_F(LocalApicTest, SoftwareDisabledRefusesFixedButTakesNmi) {
  write(0, kSpurious, 0xff);
  interrupt(0, 0x40);
  EXPECT_FALSE(apics[0]->pending());
  ApicMessage nmi;
  nmi.mode = DeliveryMode::kNmi;
  bus.send(nmi);
  EXPECT_EQ(cpus[0].nmis, 1);
}

TEST_F(LocalApicTest, SoftwareDisableMasksTheLvt) {
  write(0, kLint1, 0x400);
  write(0, kSpurious, 0xff);
  EXPECT_EQ(read(0, kLint1), 0x10400u);
}

TEST_F(LocalApicTest, IllegalVectorIsReceivedAsAnError) {
  write(0, kLvtError, 0xfe);
  interrupt(0, 15);
  EXPECT_EQ(apics[0]->acknowledge(), 0xfe);
  EXPECT_EQ(read(0, kEsr), 0u);  // seen only after a write
  write(0, kEsr, 0);
  EXPECT_EQ(read(0, kEsr), 0x40u);
  write(0, kEsr, 0);
  EXPECT_EQ(read(0, kEsr), 0u);
}

TEST_F(LocalApicTest, SendingAnIllegalVectorIsAnError) {
  write(0, kIcrHigh, 1 << 24);
  write(0, kIcrLow, 5);
  write(0, kEsr, 0);
  EXPECT_EQ(read(0, kEsr), 0x20u);
  EXPECT_FALSE(apics[1]->pending());
}

TEST_F(LocalApicTest, ReservedRegisterIsAnError) {
  EXPECT_EQ(read(0, 0x40), 0u);
  write(0, kEsr, 0);
  EXPECT_EQ(read(0, kEsr), 0x80u);
}

TEST_F(LocalApicTest, IpiByPhysicalDestination) {
  write(0, kIcrHigh, 2 << 24);
  write(0, kIcrLow, 0x99);
  EXPECT_EQ(apics[2]->acknowledge(), 0x99);
  EXPECT_EQ(read(0, kIcrLow), 0x99u);  // delivery status is clear at once
}

TEST_F(LocalApicTest, IpiShorthands) {
  write(1, kIcrLow, 0x40 | 1 << 18);  // self
  EXPECT_EQ(apics[1]->acknowledge(), 0x40);
  EXPECT_FALSE(apics[0]->pending());
  write(1, kIcrLow, 0x50 | 2 << 18);  // all
  for (auto& apic : apics) EXPECT_EQ(apic->acknowledge(), 0x50);
  write(1, kIcrLow, 0x60 | 3 << 18);  // all others
  EXPECT_FALSE(apics[1]->pending());
  EXPECT_EQ(apics[0]->acknowledge(), 0x60);
  EXPECT_EQ(apics[3]->acknowledge(), 0x60);
}

TEST_F(LocalApicTest, InitAndSipiStartOthers) {
  write(0, kIcrLow, 0xc4500);  // INIT, assert, all others
  write(0, kIcrLow, 0xc4699);  // SIPI to 0x99000
  EXPECT_EQ(cpus[0].inits, 0);
  for (unsigned i = 1; i < kCpus; ++i) {
    EXPECT_EQ(cpus[i].inits, 1);
    EXPECT_EQ(cpus[i].sipis, std::vector<uint8_t>{0x99});
  }
}

TEST_F(LocalApicTest, InitDeassertDoesNothing) {
  write(0, kIcrHigh, 1 << 24);
  write(0, kIcrLow, 0x8500);  // INIT, level, de-assert
  EXPECT_EQ(cpus[1].inits, 0);
}

TEST_F(LocalApicTest, NmiAndSmiByIpi) {
  write(0, kIcrHigh, 1 << 24);
  write(0, kIcrLow, 0x400);
  write(0, kIcrLow, 0x200);
  EXPECT_EQ(cpus[1].nmis, 1);
  EXPECT_EQ(cpus[1].smis, 1);
}

TEST_F(LocalApicTest, LogicalFlatDestination) {
  for (unsigned i = 0; i < kCpus; ++i) write(i, kLdr, 1u << (24 + i));
  write(0, kIcrHigh, 0b1010 << 24);
  write(0, kIcrLow, 0x40 | 1 << 11);
  EXPECT_FALSE(apics[0]->pending());
  EXPECT_TRUE(apics[1]->pending());
  EXPECT_FALSE(apics[2]->pending());
  EXPECT_TRUE(apics[3]->pending());
}

TEST_F(LocalApicTest, LogicalClusterDestination) {
  for (unsigned i = 0; i < kCpus; ++i) {
    write(i, kDfr, 0x0fffffff);
    write(i, kLdr, ((i / 2) << 4 | 1u << (i % 2)) << 24);
  }
  write(0, kIcrHigh, 0x12 << 24);  // cluster 1, member 1
  write(0, kIcrLow, 0x40 | 1 << 11);
  EXPECT_FALSE(apics[1]->pending());
  EXPECT_FALSE(apics[2]->pending());
  EXPECT_TRUE(apics[3]->pending());
}

TEST_F(LocalApicTest, LowestPriorityChoosesTheLeastBusy) {
  for (unsigned i = 0; i < kCpus; ++i) write(i, kTpr, i == 2 ? 0x10 : 0x20);
  ApicMessage message;
  message.destination = 0xff;
  message.mode = DeliveryMode::kLowestPriority;
  message.vector = 0x90;
  bus.send(message);
  for (unsigned i = 0; i < kCpus; ++i) EXPECT_EQ(apics[i]->pending(), i == 2) << i;
}

TEST_F(LocalApicTest, LowestPriorityTakesTurnsAmongEquals) {
  ApicMessage message;
  message.destination = 0xff;
  message.mode = DeliveryMode::kLowestPriority;
  for (unsigned i = 0; i < kCpus; ++i) {
    message.vector = static_cast<uint8_t>(0x40 + i);
    bus.send(message);
  }
  for (auto& apic : apics) EXPECT_TRUE(apic->pending());
}

TEST_F(LocalApicTest, MsiReachesItsDestination) {
  bus.send_msi({0xfee02000}, 0x4055);
  EXPECT_EQ(apics[2]->acknowledge(), 0x55);
}

TEST_F(LocalApicTest, MsiOutsideTheWindowIsDropped) {
  bus.send_msi({0xfed00000}, 0x4055);
  for (auto& apic : apics) EXPECT_FALSE(apic->pending());
}

TEST_F(LocalApicTest, VirtualWireDeliversExtInt) {
  apics[0]->reset();
  bus.set_irq(ApicBus::kIntrPin, true);
  EXPECT_TRUE(apics[0]->pending());
  EXPECT_FALSE(apics[1]->pending());
  EXPECT_EQ(apics[0]->acknowledge(), 0x28);
  bus.set_irq(ApicBus::kIntrPin, false);
  EXPECT_FALSE(apics[0]->pending());
}

TEST_F(LocalApicTest, MaskedLint0HoldsExtIntBackUntilItIsOpened) {
  write(0, kLint0, 0x10700);
  bus.set_irq(ApicBus::kIntrPin, true);
  EXPECT_FALSE(apics[0]->pending());
  const int before = cpus[0].interrupts;
  write(0, kLint0, 0x700);
  EXPECT_TRUE(apics[0]->pending());
  EXPECT_GT(cpus[0].interrupts, before);
}

TEST_F(LocalApicTest, DisabledApicPassesIntrThrough) {
  ASSERT_TRUE(apics[0]->write_msr(kMsrBase, 0xfee00100));
  bus.set_irq(ApicBus::kIntrPin, true);
  EXPECT_TRUE(apics[0]->pending());
  EXPECT_EQ(apics[0]->io_read(0x20, 4), 0xffffffffu);
}

TEST_F(LocalApicTest, NmiPinGoesByLint1) {
  bus.set_irq(ApicBus::kNmiPin, true);
  EXPECT_EQ(cpus[0].nmis, 0);  // masked
  bus.set_irq(ApicBus::kNmiPin, false);
  write(0, kLint1, 0x400);
  bus.set_irq(ApicBus::kNmiPin, true);
  EXPECT_EQ(cpus[0].nmis, 1);
}

TEST_F(LocalApicTest, InitResetKeepsBaseAndForgetsTheRest) {
  write(1, kTpr, 0x30);
  interrupt(1, 0x80);
  apics[1]->init_reset();
  EXPECT_FALSE(apics[1]->pending());
  EXPECT_EQ(read(1, kTpr), 0u);
  EXPECT_EQ(read(1, kSpurious), 0xffu);
  EXPECT_EQ(read(1, kLint0), 0x10000u);
  EXPECT_EQ(*apics[1]->read_msr(kMsrBase), 0xfee00800u);
}

TEST_F(LocalApicTest, BaseMsrMarksTheBootstrapProcessor) {
  EXPECT_EQ(*apics[0]->read_msr(kMsrBase), 0xfee00900u);
  EXPECT_FALSE(apics[0]->write_msr(kMsrBase, 0xfee00d01));  // reserved bit 0
}

TEST_F(LocalApicTest, X2ApicTransitionsFollowTheStateDiagram) {
  LocalApic& apic = *apics[1];
  EXPECT_FALSE(apic.write_msr(kMsrBase, 0xfee00400));  // EXTD without EN
  EXPECT_TRUE(apic.write_msr(kMsrBase, 0xfee00c00));
  EXPECT_FALSE(apic.write_msr(kMsrBase, 0xfee00800));  // back to xAPIC
  EXPECT_TRUE(apic.write_msr(kMsrBase, 0xfee00000));
  EXPECT_FALSE(apic.write_msr(kMsrBase, 0xfee00c00));  // disabled to x2APIC
  EXPECT_TRUE(apic.write_msr(kMsrBase, 0xfee00800));
}

TEST_F(LocalApicTest, X2ApicMsrsNeedX2ApicMode) {
  EXPECT_EQ(apics[1]->read_msr(0x802), std::nullopt);
  EXPECT_FALSE(apics[1]->write_msr(0x808, 0));
  enable_x2apic(1);
  EXPECT_EQ(apics[1]->read_msr(0x802), 1u);
  EXPECT_EQ(apics[1]->read_msr(0x80d), 1u << 1);
  EXPECT_TRUE(apics[1]->write_msr(0x808, 0x20));
  EXPECT_EQ(apics[1]->io_read(kTpr, 4), 0xffffffffu);  // the page is gone
}

TEST_F(LocalApicTest, X2ApicRefusesReservedBitsAndRegisters) {
  enable_x2apic(0);
  LocalApic& apic = *apics[0];
  EXPECT_FALSE(apic.write_msr(0x808, 0x100));
  EXPECT_FALSE(apic.write_msr(0x80b, 1));
  EXPECT_FALSE(apic.write_msr(0x828, 1));
  EXPECT_FALSE(apic.write_msr(0x802, 0));  // read-only
  EXPECT_FALSE(apic.write_msr(0x80e, 0));  // DFR is gone
  EXPECT_FALSE(apic.write_msr(0x831, 0));
  EXPECT_FALSE(apic.write_msr(0x83f, 0x100));
  EXPECT_FALSE(apic.write_msr(0x8ff, 0));
  EXPECT_EQ(apic.read_msr(0x80b), std::nullopt);
  EXPECT_EQ(apic.read_msr(0x83f), std::nullopt);
  EXPECT_EQ(apic.read_msr(0x8aa), std::nullopt);
}

TEST_F(LocalApicTest, X2ApicIpiInOneWrite) {
  for (unsigned i = 0; i < kCpus; ++i) enable_x2apic(i);
  EXPECT_TRUE(apics[0]->write_msr(0x830, uint64_t{3} << 32 | 0x77));
  EXPECT_EQ(apics[3]->acknowledge(), 0x77);
  EXPECT_TRUE(apics[0]->write_msr(0x83f, 0x88));
  EXPECT_EQ(apics[0]->acknowledge(), 0x88);
  EXPECT_TRUE(apics[0]->write_msr(0x830, uint64_t{0xffffffff} << 32 | 0x99));
  for (auto& apic : apics) EXPECT_EQ(apic->acknowledge(), 0x99);
}

TEST_F(LocalApicTest, X2ApicLogicalClusters) {
  for (unsigned i = 0; i < kCpus; ++i) enable_x2apic(i);
  EXPECT_TRUE(apics[0]->write_msr(0x830, uint64_t{0b0110} << 32 | 1 << 11 | 0x77));
  EXPECT_FALSE(apics[0]->pending());
  EXPECT_TRUE(apics[1]->pending());
  EXPECT_TRUE(apics[2]->pending());
  EXPECT_FALSE(apics[3]->pending());
}

TEST_F(LocalApicTest, PageReachesTheApicOfTheThread) {
  ApicPage page(bus);
  EXPECT_EQ(page.io_read(0x20, 4), 0xffffffffu);
  uint64_t id = 0;
  std::thread vcpu([&] {
    ApicPage::bind_to_this_thread(apics[3].get());
    id = page.io_read(0x20, 4);
  });
  vcpu.join();
  EXPECT_EQ(id, 3u << 24);
}

TEST_F(LocalApicTest, PageTakesWritesOfDevicesAsMessages) {
  ApicPage page(bus);
  page.io_write(0x1000, 4, 0x41);
  EXPECT_EQ(apics[1]->acknowledge(), 0x41);
}

// The memory-order argument of raise() and update_priority(): whatever the timing, an interrupt is either
// pending or was taken.
TEST_F(LocalApicTest, NoInterruptIsLostBetweenThreads) {
  constexpr int kRounds = 20000;
  LocalApic& apic = *apics[1];
  std::atomic<int> taken{0};
  std::thread sender([&] {
    for (int i = 0; i < kRounds; ++i) {
      const int before = taken.load();
      interrupt(1, static_cast<uint8_t>(0x30 + i % 0xc0));
      while (taken.load() == before) std::this_thread::yield();
    }
  });
  while (taken.load() < kRounds) {
    apic.set_cr8(15);
    apic.set_cr8(0);
    if (!apic.pending()) {
      std::this_thread::yield();
      continue;
    }
    if (apic.acknowledge()) {
      apic.io_write(kEoi, 4, 0);
      taken.fetch_add(1);
    }
  }
  sender.join();
  EXPECT_EQ(taken.load(), kRounds);
}

}  // namespace
}  // namespace ostler::chipset
