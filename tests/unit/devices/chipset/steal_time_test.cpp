#include "devices/chipset/steal_time.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>
#include <vector>

namespace ostler::chipset {
namespace {

constexpr uint64_t kRecord = 0x1040, kVersion = kRecord + 8, kPreempted = kRecord + 16;

struct StealTimeTest : ::testing::Test {
  memory::AddressSpace space{"memory", memory::AddressSpace::kMemorySize};
  std::shared_ptr<memory::RamBlock> block = *memory::RamBlock::create({.name = "ram", .size = 0x4000});
  memory::RamRegion ram{"ram", block};
  uint64_t delay = 5000;
  StealTime steal{space, [this] { return delay; }};

  StealTimeTest() {
    memory::Transaction change(space);
    change.add(space.root(), 0, ram);
  }
  template <class T>
  T read(uint64_t at) {
    return memory::guest_load<T>(block->host() + at);
  }
};

TEST_F(StealTimeTest, CountsFromWhenTheGuestAsksForIt) {
  ASSERT_TRUE(steal.set_msr(kRecord | 1));
  EXPECT_EQ(steal.msr(), kRecord | 1);
  EXPECT_EQ(read<uint64_t>(kRecord), 0u) << "what was before is not the guest's";
  const auto version = read<uint32_t>(kVersion);
  EXPECT_EQ(version % 2, 0u);
  delay += 700;
  steal.update();
  EXPECT_EQ(read<uint64_t>(kRecord), 700u);
  EXPECT_EQ(read<uint32_t>(kVersion), version + 2);
  delay = 10;  // another thread
  steal.update();
  EXPECT_EQ(read<uint64_t>(kRecord), 700u) << "never back";
  delay += 1;
  steal.update();
  EXPECT_EQ(read<uint64_t>(kRecord), 701u);
}

TEST_F(StealTimeTest, AVersionThatTheGuestMadeOddBecomesEven) {
  memory::guest_store<uint32_t>(block->host() + kVersion, 7);
  ASSERT_TRUE(steal.set_msr(kRecord | 1));
  EXPECT_EQ(read<uint32_t>(kVersion), 8u);
}

TEST_F(StealTimeTest, AHaltedVcpuIsAskedInItsRecordToFlush) {
  block->host()[kPreempted] = std::byte{3};
  ASSERT_TRUE(steal.set_msr(kRecord | 1));
  EXPECT_FALSE(steal.running()) << "what lay there before is no request";
  steal.halted();
  EXPECT_EQ(read<uint8_t>(kPreempted), 1);
  EXPECT_FALSE(steal.running());
  EXPECT_EQ(read<uint8_t>(kPreempted), 0);
  steal.halted();
  block->host()[kPreempted] |= std::byte{2};  // as another vCPU of the guest does
  EXPECT_TRUE(steal.running());
  EXPECT_FALSE(steal.running());
}

TEST_F(StealTimeTest, NothingIsWrittenUnlessTheGuestAskedForIt) {
  ASSERT_TRUE(steal.set_msr(kRecord));
  steal.halted();
  steal.update();
  EXPECT_FALSE(steal.running());
  EXPECT_EQ(read<uint8_t>(kPreempted), 0);
  EXPECT_EQ(read<uint32_t>(kVersion), 0u);
  EXPECT_FALSE(steal.set_msr(kRecord | 3)) << "reserved";
  EXPECT_EQ(steal.msr(), kRecord);
}

TEST_F(StealTimeTest, ARecordOutsideMemoryIsNoRecord) {
  ASSERT_TRUE(steal.set_msr(0x100001));
  steal.halted();
  steal.update();
  EXPECT_TRUE(steal.running()) << "whoever asked for a flush could not be heard";
}

TEST_F(StealTimeTest, IsSaved) {
  ASSERT_TRUE(steal.set_msr(kRecord | 1));
  delay += 90;
  steal.update();
  state::Saver saver;
  steal.state(saver);
  const auto bytes = saver.take();
  StealTime other{space, [this] { return delay; }};
  state::Loader loader(bytes);
  other.state(loader);
  ASSERT_TRUE(loader.finish());
  EXPECT_EQ(other.msr(), kRecord | 1);
  delay += 10;
  other.update();
  EXPECT_EQ(read<uint64_t>(kRecord), 90u) << "the time in between is nobody's";
  delay += 10;
  other.update();
  EXPECT_EQ(read<uint64_t>(kRecord), 100u);
}

TEST(SchedulingDelay, GrowsOnlyAsTheSchedulerSays) {
  const uint64_t before = scheduling_delay_ns();
  uint64_t inside = 1;
  std::thread([&] { inside = scheduling_delay_ns(); }).join();
  EXPECT_GE(scheduling_delay_ns(), before);
  EXPECT_LT(inside, uint64_t{3600} * 1'000'000'000) << "a thread of its own has its own account";
}

}  // namespace
}  // namespace ostler::chipset
