#include "machine/paravirt.h"

#include <gtest/gtest.h>

#include "../devices/chipset/bench.h"

namespace ostler::machine {
namespace {

using chipset::LocalApic;

constexpr uint64_t kSpurious = 0xf0, kNoSuchCall = static_cast<uint64_t>(-1000);
constexpr uint64_t kNmi = 0x400;

struct ParavirtTest : ::testing::Test {
  static constexpr unsigned kCpus = 4;
  static constexpr uint32_t kIds[kCpus] = {0, 1, 40, 100};
  chipset::Bench bench;
  chipset::FakeTsc tsc{bench.clock};
  chipset::ApicBus bus;
  chipset::FakeCpu cpus[kCpus];
  memory::AddressSpace space{"memory", memory::AddressSpace::kMemorySize};
  std::shared_ptr<memory::RamBlock> block = *memory::RamBlock::create({.name = "ram", .size = 0x4000});
  memory::RamRegion ram{"ram", block};
  chipset::KvmClockBase base{bench.clock, 0};
  Paravirt paravirt{base, tsc, space, bus};
  std::unique_ptr<LocalApic> apics[kCpus];

  ParavirtTest() {
    memory::Transaction change(space);
    change.add(space.root(), 0, ram);
    for (unsigned i = 0; i < kCpus; ++i) {
      apics[i] = std::make_unique<LocalApic>(LocalApic::Options{.id = kIds[i]}, bus, bench.loop, tsc);
      apics[i]->attach(cpus[i]);
      apics[i]->io_write(kSpurious, 4, 0x1ff);
    }
    paravirt.attach(*apics[0]);
  }
  uint64_t send(uint64_t low, uint64_t high, uint64_t first, uint64_t icr, bool wide = true) {
    return paravirt.hypercall({.number = 10, .arguments = {low, high, first, icr}, .wide = wide});
  }
};

TEST_F(ParavirtTest, AnIpiGoesToASetOfApicIds) {
  EXPECT_EQ(send(0b11, uint64_t{1} << 36, 0, 0x55), 3u);
  EXPECT_EQ(apics[0]->acknowledge(), 0x55);
  EXPECT_EQ(apics[1]->acknowledge(), 0x55);
  EXPECT_EQ(apics[2]->acknowledge(), std::nullopt);
  EXPECT_EQ(apics[3]->acknowledge(), 0x55);
  EXPECT_EQ(send(1, 0, 40, kNmi), 1u);
  EXPECT_EQ(cpus[2].nmis, 1);
}

TEST_F(ParavirtTest, SetsOf32BitGuestsAreHalfAsWide) {
  EXPECT_EQ(send(0, 1u << 8, 0, 0x55, false), 1u);
  EXPECT_EQ(apics[2]->acknowledge(), 0x55);
}

TEST_F(ParavirtTest, IdsThatNobodyHasAreNotCounted) {
  EXPECT_EQ(send(~uint64_t{0}, ~uint64_t{0}, 2, 0x55), 2u);
  EXPECT_EQ(send(~uint64_t{0}, ~uint64_t{0}, 0xfffffff0, 0x55), 0u) << "not even the one that means all";
  EXPECT_EQ(send(~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0} - 5, 0x55), 0u) << "nor after the last";
  EXPECT_EQ(send(1, 0, 0, 0x80000 | 0x55), static_cast<uint64_t>(-22)) << "shorthands are not for this";
  EXPECT_EQ(send(1, 0, 0, 0x800 | 0x55), static_cast<uint64_t>(-22)) << "logical destinations neither";
  EXPECT_EQ(send(1, 0, 0, 0x300 | 0x55), 1u) << "the reserved mode reaches an APIC that does not answer";
}

TEST_F(ParavirtTest, AKickEndsTheHaltOfOne) {
  EXPECT_EQ(paravirt.hypercall({.number = 5, .arguments = {0, 40, 0, 0}}), 0u);
  EXPECT_EQ(cpus[2].unhalts, 1);
  EXPECT_EQ(paravirt.hypercall({.number = 5, .arguments = {0, uint64_t{1} << 40, 0, 0}}), 0u);
  EXPECT_EQ(paravirt.hypercall({.number = 5, .arguments = {0, 255, 0, 0}}), 0u);
  EXPECT_EQ(cpus[0].unhalts + cpus[1].unhalts + cpus[2].unhalts + cpus[3].unhalts, 1);
}

TEST_F(ParavirtTest, OtherCallsAreRefused) {
  EXPECT_EQ(paravirt.hypercall({.number = 11, .arguments = {40, 0, 0, 0}}), 0u);
  for (const uint64_t number : {1, 2, 3, 4, 6, 9, 12, 1000})
    EXPECT_EQ(paravirt.hypercall({.number = number}), kNoSuchCall) << number;
}

TEST_F(ParavirtTest, MsrsAreKeptUntilAReset) {
  const std::pair<uint32_t, uint64_t> msrs[] = {
      {0x4b564d01, 0x1001}, {0x4b564d03, 0x1041}, {0x4b564d04, 0x1081}};
  for (const auto& [index, value] : msrs) {
    EXPECT_TRUE(paravirt.write_msr(index, value));
    EXPECT_EQ(paravirt.read_msr(index), value);
  }
  EXPECT_FALSE(paravirt.write_msr(0x4b564d02, 1)) << "asynchronous page faults are not offered";
  EXPECT_FALSE(paravirt.read_msr(0x4b564d02));
  state::Saver saver;
  paravirt.state(saver);
  const auto bytes = saver.take();
  paravirt.reset();
  for (const auto& msr : msrs) EXPECT_EQ(paravirt.read_msr(msr.first), 0u);
  state::Loader loader(bytes);
  paravirt.state(loader);
  ASSERT_TRUE(loader.finish());
  for (const auto& [index, value] : msrs) EXPECT_EQ(paravirt.read_msr(index), value);
}

TEST_F(ParavirtTest, TheOtherEndOfAnOfferIsSettledBeforeItMoves) {
  ASSERT_TRUE(paravirt.write_msr(0x4b564d04, 0x1081));
  bus.send({.destination = 0, .vector = 0x60});
  EXPECT_EQ(apics[0]->acknowledge(), 0x60);
  block->host()[0x1080] = std::byte{0};  // the guest ends it
  ASSERT_TRUE(paravirt.write_msr(0x4b564d04, 0x2081));
  EXPECT_EQ(apics[0]->processor_priority(), 0);
}

TEST_F(ParavirtTest, AHaltedVcpuIsMarkedAndFlushedOnRequest) {
  ASSERT_TRUE(paravirt.write_msr(0x4b564d03, 0x1041));
  paravirt.halted();
  EXPECT_EQ(block->host()[0x1050], std::byte{1});
  block->host()[0x1050] = std::byte{3};
  EXPECT_TRUE(paravirt.running());
  EXPECT_EQ(block->host()[0x1050], std::byte{0});
  EXPECT_FALSE(paravirt.running());
}

}  // namespace
}  // namespace ostler::machine
