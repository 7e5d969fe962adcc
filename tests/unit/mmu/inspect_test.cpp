// Guest memory as a debugger looks at it.
#include "mmu/inspect.h"

#include <array>

#include "fixtures.h"

namespace ostler::mmu {
namespace {

struct InspectTest : ::testing::Test {
  InspectTest() { cpu.long_mode(tables.cr3()); }
  Machine machine;
  Tables tables{machine};
  Vcpu cpu{machine};
  Inspector inspector{cpu.state, machine.space, 40, true};

  size_t read(uint64_t linear, size_t size) {
    bytes.assign(size, std::byte{0xcc});
    return inspector.read(linear, bytes);
  }
  bool write(uint64_t linear, size_t size) {
    return inspector.write(linear, std::vector<std::byte>(size, std::byte{0x55}));
  }
  std::vector<std::byte> bytes;
};

TEST_F(InspectTest, ReadsThroughTheTablesWithoutATrace) {
  tables.map(0x7fff12345000, 0x5001);
  machine.poke<uint32_t>(0x5678, 0xdeadbeef);
  EXPECT_EQ(read(0x7fff12345678, 4), 4u);
  EXPECT_EQ(load_le<uint32_t>(bytes.data()), 0xdeadbeefu);
  EXPECT_EQ(machine.peek<uint64_t>(tables.entry(0x7fff12345000)), 0x5001u) << "neither accessed nor dirty";
  EXPECT_EQ(machine.peek<uint64_t>(tables.entry(0x7fff12345000, 2)) & pte::kAccessed, 0u);
}

TEST_F(InspectTest, WritesWhatTheGuestMayNotAndLeavesNoTrace) {
  tables.map(0x10000, 0x5001);  // read-only, and CR0.WP is set
  EXPECT_TRUE(write(0x10010, 2));
  EXPECT_EQ(machine.peek<uint32_t>(0x5010), 0x5555u);
  EXPECT_EQ(machine.peek<uint64_t>(tables.entry(0x10000)), 0x5001u);
}

TEST_F(InspectTest, ReadsPagesOfTheUserUnderSmap) {
  cpu.set_cr4(x86::cr4::kSmap);
  tables.map(0x10000, 0x5007);
  EXPECT_EQ(read(0x10000, 1), 1u);
}

TEST_F(InspectTest, StopsWhereNothingIsMapped) {
  tables.map(0x10000, 0x5003);
  EXPECT_EQ(read(0x10ff0, 0x20), 0x10u);
  EXPECT_EQ(read(0x11000, 1), 0u);
  EXPECT_FALSE(write(0x10ff0, 0x20));
  EXPECT_EQ(machine.peek<uint8_t>(0x5ff0), 0) << "all or nothing";
}

TEST_F(InspectTest, AddressesThatAreNone) {
  EXPECT_EQ(read(uint64_t{1} << 47, 1), 0u);
  tables.map(~uint64_t{0} << 12, 0x5003);
  EXPECT_EQ(read(~uint64_t{0}, 1), 1u);
  EXPECT_EQ(read(~uint64_t{0}, 2), 1u) << "the address after the last is 0, where nothing is";
}

TEST_F(InspectTest, DevicesAreNotTouched) {
  tables.map(0x10000, kDevice | 3);
  EXPECT_EQ(read(0x10000, 4), 0u);
  EXPECT_FALSE(write(0x10000, 4));
  EXPECT_TRUE(machine.device.reads.empty());
  EXPECT_TRUE(machine.device.writes.empty());
}

TEST_F(InspectTest, RomIsReadAndNotWritten) {
  tables.map(0x10000, kRom | 3);
  EXPECT_EQ(read(0x10000, 4), 4u);
  EXPECT_FALSE(write(0x10000, 4));
}

TEST_F(InspectTest, TablesThatAreNotInRamMapNothing) {
  cpu.set_cr3(kDevice);
  EXPECT_EQ(read(0x10000, 4), 0u);
  EXPECT_TRUE(machine.device.reads.empty());
}

TEST(InspectWithoutPaging, AddressesHave32Bits) {
  Machine machine;
  Vcpu cpu(machine);
  const Inspector inspector(cpu.state, machine.space, 40, true);
  std::array<std::byte, 4> bytes{};
  EXPECT_EQ(inspector.read(0x1000, bytes), 4u);
  EXPECT_EQ(inspector.read(uint64_t{1} << 32, bytes), 0u);
}

// ---- watchpoints ----

struct WatchTest : InspectTest {
  WatchTest() {
    tables.map(0x10000, 0x5003);
    tables.map(0x11000, 0x6003);
  }
  SoftMmu& mmu = cpu.mmu;
  int hits = 0;

  void watch(uint64_t first, uint64_t last, bool reads, bool writes) {
    mmu.set_watches({{.first = first, .last = last, .reads = reads, .writes = writes}}, [this] { ++hits; });
  }
};

TEST_F(WatchTest, AccessesAreSeenEachTimeAndOnlyThere) {
  mmu.write<uint32_t>(0x10100, 1);  // in the TLB before
  watch(0x10100, 0x10103, true, true);
  for (int i = 1; i <= 3; ++i) {
    mmu.write<uint8_t>(0x10103, 1);
    EXPECT_EQ(hits, 2 * i - 1);
    EXPECT_EQ(mmu.watch_hit().access, Access::kWrite);
    mmu.read<uint64_t>(0x100fe);
    EXPECT_EQ(hits, 2 * i);
    EXPECT_EQ(mmu.watch_hit().address, 0x10100u);
    EXPECT_EQ(mmu.watch_hit().access, Access::kRead);
  }
  mmu.write<uint32_t>(0x10104, 1);
  mmu.write<uint32_t>(0x100fc, 1);
  EXPECT_EQ(hits, 6);

  mmu.set_watches({}, {});
  mmu.write<uint32_t>(0x10100, 1);
  EXPECT_NE(mmu.hit_write<uint32_t>(0x10100), nullptr);
  EXPECT_EQ(hits, 6);
}

TEST_F(WatchTest, OtherPagesStayFast) {
  watch(0x10100, 0x10103, true, true);
  mmu.write<uint32_t>(0x11000, 1);
  EXPECT_NE(mmu.hit_write<uint32_t>(0x11000), nullptr);
}

TEST_F(WatchTest, AnAccessThatFaultsIsNone) {
  watch(0x11fff, 0x11fff, true, true);
  EXPECT_TRUE(cpu.fault([&] { mmu.write<uint32_t>(0x11ffe, 1); }));
  EXPECT_EQ(hits, 0);
}

TEST_F(WatchTest, BlocksAndExclusiveAccessesAreSeen) {
  watch(0x11000, 0x11000, false, true);
  const std::array<uint8_t, 32> block{};
  mmu.write_bytes(0x10ff0, block);
  EXPECT_EQ(hits, 1);
  mmu.exclusive_rmw<uint16_t>(0x10fff, [](uint16_t value) { return value; });
  EXPECT_EQ(hits, 2);
  EXPECT_NE(mmu.rmw_pointer(0x11000, 4), nullptr);
  EXPECT_EQ(hits, 3);
  EXPECT_NE(mmu.read_pointer(0x11000, 4), nullptr);
  EXPECT_EQ(hits, 3);
}

TEST(Watches, MayReachTheEndsOfTheAddressSpace) {
  Watches watches;
  watches.set({{.first = 0, .last = 1, .reads = true, .writes = true},
               {.first = ~uint64_t{7}, .last = ~uint64_t{0}, .reads = true, .writes = true}});
  EXPECT_TRUE(watches.find(~uint64_t{0}, 1, Access::kRead).present);
  EXPECT_TRUE(watches.find(1, 1, Access::kRead).present);
  EXPECT_FALSE(watches.find(2, 8, Access::kRead).present);
  EXPECT_FALSE(watches.find(0, 1, Access::kFetch).present);
}

}  // namespace
}  // namespace ostler::mmu
