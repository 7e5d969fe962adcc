#include "devices/chipset/kvm_clock.h"

#include <gtest/gtest.h>

#include "bench.h"
#include "memory/address_space.h"
#include "memory/ram_block.h"

namespace ostler::chipset {
namespace {

constexpr uint32_t kMsrWall = 0x4b564d00, kMsrTime = 0x4b564d01;
constexpr int64_t kWall = 1'774'915'199'123'456'789;
__extension__ using Wide = unsigned __int128;

// The guest's side of the protocol: pvclock_read of Linux, in our words.
uint64_t guest_time(KvmClock::Scale scale, uint64_t ticks, uint64_t system_time) {
  const uint64_t shifted = scale.shift >= 0 ? ticks << scale.shift : ticks >> -scale.shift;
  return system_time + static_cast<uint64_t>(static_cast<Wide>(shifted) * scale.multiplier >> 32);
}

struct KvmClockTest : ::testing::Test {
  Bench bench;
  FakeTsc tsc{bench.clock}, other_tsc{bench.clock};
  memory::AddressSpace space{"memory", memory::AddressSpace::kMemorySize};
  std::shared_ptr<memory::RamBlock> block = *memory::RamBlock::create({.name = "ram", .size = 0x4000});
  memory::RamRegion ram{"ram", block};
  KvmClockBase base{bench.clock, kWall};
  KvmClock clock{base, tsc, space}, other{base, other_tsc, space};
  memory::Dma dma{space};

  KvmClockTest() {
    memory::Transaction change(space);
    change.add(space.root(), 0, ram);
  }
  uint64_t read(uint64_t at, unsigned size) {
    uint64_t value = 0;
    EXPECT_TRUE(dma.read({at}, std::as_writable_bytes(std::span(&value, 1)).first(size)));
    return value;
  }
  // What a guest would compute from the page.
  uint64_t time_at(uint64_t page, const FakeTsc& guest_tsc) {
    KvmClock::Scale scale{};
    scale.multiplier = static_cast<uint32_t>(read(page + 24, 4));
    scale.shift = static_cast<int8_t>(read(page + 28, 1));
    return guest_time(scale, guest_tsc.guest_tsc() - read(page + 8, 8), read(page + 16, 8));
  }
};

TEST_F(KvmClockTest, PageFollowsTheVirtualClock) {
  bench.advance(5'000);
  EXPECT_TRUE(clock.write_msr(kMsrTime, 0x1001));
  EXPECT_EQ(clock.read_msr(kMsrTime), 0x1001u);
  EXPECT_EQ(read(0x1000, 4) % 2, 0u);
  EXPECT_EQ(read(0x101d, 1), 1u);  // stable
  bench.advance(1'000'000'000);
  EXPECT_EQ(time_at(0x1000, tsc), static_cast<uint64_t>(bench.now()));
}

TEST_F(KvmClockTest, VcpusShareOnePair) {
  clock.write_msr(kMsrTime, 0x1001);
  bench.advance(1'234'567);
  other.write_msr(kMsrTime, 0x1041);
  EXPECT_EQ(read(0x1008, 8), read(0x1048, 8));
  EXPECT_EQ(read(0x1010, 8), read(0x1050, 8));
}

TEST_F(KvmClockTest, VcpuWithAnotherTscIsNotStable) {
  clock.write_msr(kMsrTime, 0x1001);
  other_tsc.offset += uint64_t{1} << 40;
  bench.advance(1000);
  other.write_msr(kMsrTime, 0x1041);
  EXPECT_EQ(read(0x105d, 1), 0u);
  EXPECT_EQ(time_at(0x1040, other_tsc), 1000u);
}

TEST_F(KvmClockTest, ResyncTakesANewPair) {
  clock.write_msr(kMsrTime, 0x1001);
  const uint64_t version = read(0x1000, 4);
  tsc.offset += 1 << 30;  // the TSC went on while the guest was paused
  base.resync();
  clock.update();
  EXPECT_EQ(read(0x1000, 4), version + 2);
  EXPECT_EQ(time_at(0x1000, tsc), static_cast<uint64_t>(bench.now()));
}

TEST_F(KvmClockTest, WallClock) {
  EXPECT_TRUE(clock.write_msr(kMsrWall, 0x2000));
  EXPECT_EQ(read(0x2000, 4), 2u);
  EXPECT_EQ(read(0x2004, 4), 1'774'915'199u);
  EXPECT_EQ(read(0x2008, 4), 123'456'789u);
}

TEST_F(KvmClockTest, OldMsrsAreTheSame) {
  EXPECT_TRUE(clock.write_msr(0x12, 0x1001));
  EXPECT_EQ(clock.read_msr(kMsrTime), 0x1001u);
  EXPECT_TRUE(clock.write_msr(0x11, 0x2000));
  EXPECT_EQ(read(0x2000, 4), 2u);
}

TEST_F(KvmClockTest, DisabledWritesNothing) {
  clock.write_msr(kMsrTime, 0x1000);
  EXPECT_EQ(read(0x1000, 8), 0u);
}

TEST_F(KvmClockTest, AddressesOutsideRamAreIgnored) {
  EXPECT_TRUE(clock.write_msr(kMsrTime, 0xffff'ffff'ffff'ffff));
  EXPECT_TRUE(clock.write_msr(kMsrTime, 0x3ff1));  // crosses the end of RAM
  EXPECT_TRUE(clock.write_msr(kMsrWall, 0xffff'ffff'ffff'fffc));
  EXPECT_TRUE(clock.write_msr(kMsrWall, 3));
  EXPECT_FALSE(clock.write_msr(0x4b564d02, 1));
  EXPECT_EQ(clock.read_msr(0x4b564d02), std::nullopt);
}

TEST(KvmClockScale, IsExactOverADay) {
  for (const uint64_t hertz :
       {uint64_t{1'000'000}, uint64_t{999'999'937}, uint64_t{1'000'000'000}, uint64_t{2'400'000'000},
        uint64_t{2'893'202'000}, uint64_t{3'600'000'000}, uint64_t{5'000'000'000}}) {
    const KvmClock::Scale scale = KvmClock::scale_of(hertz);
    EXPECT_GE(scale.multiplier, 1u << 31) << hertz;
    constexpr uint64_t kHour = 3600;
    const uint64_t time = guest_time(scale, hertz * kHour, 0);
    const uint64_t want = kHour * 1'000'000'000;
    EXPECT_LE(want - time, want >> 31) << hertz;
    EXPECT_LE(time, want) << hertz;
  }
}

}  // namespace
}  // namespace ostler::chipset
