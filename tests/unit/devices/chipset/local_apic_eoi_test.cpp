// Ends of interrupts in guest memory, beside those that are told to the APIC.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "bench.h"
#include "devices/chipset/apic_bus.h"
#include "devices/chipset/local_apic.h"
#include "devices/chipset/memory_eoi.h"

namespace ostler::chipset {
namespace {

constexpr uint64_t kWord = 0x2004, kPpr = 0xa0, kEoi = 0xb0, kSpurious = 0xf0, kIsr = 0x100;

struct Eois final : EoiSink {
  std::vector<uint8_t> vectors;
  void end_of_interrupt(uint8_t vector) override { vectors.push_back(vector); }
};

struct LocalApicEoiTest : ::testing::Test {
  Bench bench;
  FakeTsc tsc{bench.clock};
  ApicBus bus;
  Eois eois;
  FakeCpu cpu;
  memory::AddressSpace space{"memory", memory::AddressSpace::kMemorySize};
  std::shared_ptr<memory::RamBlock> block = *memory::RamBlock::create({.name = "ram", .size = 0x4000});
  memory::RamRegion ram{"ram", block};
  MemoryEoi memory{space};
  LocalApic apic{{.id = 0}, bus, bench.loop, tsc};

  LocalApicEoiTest() {
    memory::Transaction change(space);
    change.add(space.root(), 0, ram);
    bus.add_eoi_sink(eois);
    apic.attach(cpu);
    apic.set_memory_eoi(memory);
    apic.io_write(kSpurious, 4, 0x1ff);
    EXPECT_TRUE(memory.set_msr(kWord | 1));
  }
  void raise(uint8_t vector, bool level = false) {
    bus.send({.destination = 0, .level = level, .vector = vector});
  }
  bool offered() { return (block->host()[kWord] & std::byte{1}) != std::byte{0}; }
  // As the guest does: true when that was all.
  bool guest_ends() {
    const bool taken = offered();
    block->host()[kWord] = std::byte{0};
    if (!taken) apic.io_write(kEoi, 4, 0);
    return taken;
  }
  bool in_service(uint8_t vector) {
    return (apic.io_read(kIsr + vector / 32u * 16, 4) >> (vector % 32) & 1) != 0;
  }
};

TEST_F(LocalApicEoiTest, TheNextOfTheSameKindIsTakenWithoutAWord) {
  for (int i = 0; i < 3; ++i) {
    raise(0x60);
    ASSERT_TRUE(apic.pending()) << i;
    EXPECT_EQ(apic.acknowledge(), 0x60) << i;
    ASSERT_TRUE(offered());
    EXPECT_TRUE(guest_ends());
  }
  EXPECT_FALSE(apic.pending());
  EXPECT_FALSE(in_service(0x60)) << "whoever looks sees the end";
  EXPECT_EQ(apic.io_read(kPpr, 4), 0u);
}

TEST_F(LocalApicEoiTest, AnInterruptMeanwhileWaitsForTheEnd) {
  raise(0x60);
  EXPECT_EQ(apic.acknowledge(), 0x60);
  const int before = cpu.interrupts;
  raise(0x50);
  EXPECT_GT(cpu.interrupts, before) << "the vCPU is to look";
  EXPECT_TRUE(apic.pending());
  EXPECT_EQ(apic.acknowledge(), std::nullopt) << "the handler still runs";
  EXPECT_FALSE(offered()) << "so the guest must tell its end";
  EXPECT_FALSE(apic.pending());
  EXPECT_FALSE(guest_ends());
  EXPECT_EQ(apic.acknowledge(), 0x50);
}

TEST_F(LocalApicEoiTest, AHigherOneNests) {
  raise(0x60);
  EXPECT_EQ(apic.acknowledge(), 0x60);
  raise(0x70);
  EXPECT_EQ(apic.acknowledge(), 0x70);
  EXPECT_TRUE(offered());
  EXPECT_TRUE(guest_ends());
  EXPECT_FALSE(in_service(0x70));
  EXPECT_TRUE(in_service(0x60));
  EXPECT_FALSE(guest_ends());
  EXPECT_FALSE(in_service(0x60));
}

TEST_F(LocalApicEoiTest, IsNotOfferedWhereSomebodyWaitsForTheEnd) {
  raise(0x60, true);
  EXPECT_EQ(apic.acknowledge(), 0x60);
  EXPECT_FALSE(offered()) << "level-triggered";
  EXPECT_FALSE(guest_ends());
  EXPECT_EQ(eois.vectors, std::vector<uint8_t>{0x60});
  raise(0x50);
  raise(0x60);
  EXPECT_EQ(apic.acknowledge(), 0x60);
  EXPECT_FALSE(offered()) << "the next is there already";
  EXPECT_FALSE(guest_ends());
  EXPECT_EQ(apic.acknowledge(), 0x50);
  EXPECT_TRUE(offered());
}

TEST_F(LocalApicEoiTest, IsNotOfferedUnlessAskedFor) {
  ASSERT_TRUE(memory.set_msr(kWord));
  EXPECT_FALSE(memory.set_msr(kWord | 3)) << "reserved";
  raise(0x60);
  EXPECT_EQ(apic.acknowledge(), 0x60);
  EXPECT_FALSE(offered());
  ASSERT_TRUE(memory.set_msr(0x100001)) << "not memory";
  raise(0x70);
  EXPECT_EQ(apic.acknowledge(), 0x70);
  EXPECT_TRUE(in_service(0x70));
  apic.io_write(kEoi, 4, 0);
  EXPECT_FALSE(in_service(0x70));
}

TEST_F(LocalApicEoiTest, AGuestThatTellsTheApicAnywayEndsItOnce) {
  raise(0x60);
  EXPECT_EQ(apic.acknowledge(), 0x60);
  raise(0x70);
  EXPECT_EQ(apic.acknowledge(), 0x70);
  apic.io_write(kEoi, 4, 0);
  EXPECT_FALSE(in_service(0x70));
  EXPECT_TRUE(in_service(0x60));
  EXPECT_FALSE(offered());
}

TEST_F(LocalApicEoiTest, AnOfferIsSettledBeforeASaveAndForgottenByAReset) {
  raise(0x60);
  EXPECT_EQ(apic.acknowledge(), 0x60);
  EXPECT_TRUE(guest_ends());
  state::Saver saver;
  apic.state(saver);
  memory.state(saver);
  const auto bytes = saver.take();
  apic.reset();
  memory.reset();
  EXPECT_EQ(memory.msr(), 0u);
  state::Loader loader(bytes);
  apic.state(loader);
  memory.state(loader);
  ASSERT_TRUE(loader.finish());
  EXPECT_EQ(memory.msr(), kWord | 1);
  EXPECT_FALSE(in_service(0x60));
  raise(0x60);
  EXPECT_EQ(apic.acknowledge(), 0x60);
  apic.reset();
  apic.io_write(kSpurious, 4, 0x1ff);
  raise(0x30);
  EXPECT_EQ(apic.acknowledge(), 0x30) << "nothing is left of the offer";
}

// Interrupts of two vectors from another thread, while the "guest" ends each in memory: whatever is in IRR at
// the end of a round must be found.
TEST_F(LocalApicEoiTest, NoArrivalIsMissed) {
  constexpr int kRounds = 40, kArrivals = 500;
  constexpr uint64_t kIrrOf0x60 = 0x200 + 0x60 / 32 * 16;
  for (int round = 0; round < kRounds; ++round) {
    std::atomic<bool> sent{false};
    std::thread sender([&] {
      for (int i = 0; i < kArrivals; ++i) raise(i % 3 == 0 ? 0x60 : 0x61);
      sent.store(true);
    });
    for (bool last = false; !last || apic.pending();) {
      last = sent.load();
      if (apic.pending() && apic.acknowledge()) guest_ends();
    }
    sender.join();
    ASSERT_EQ(apic.io_read(kIrrOf0x60, 4), 0u) << round;
  }
}

}  // namespace
}  // namespace ostler::chipset
