#include "mmu/soft_mmu.h"

#include <array>
#include <memory>
#include <random>
#include <vector>

#include "fixtures.h"

namespace ostler::mmu {
namespace {

namespace cr4 = x86::cr4;
namespace pf = x86::pf_error;

class SoftMmuTest : public ::testing::Test {
 protected:
  SoftMmuTest() { cpu.long_mode(tables.cr3()); }
  std::optional<x86::Exception> read_fault(uint64_t linear) {
    return cpu.fault([&] { cpu.mmu.read<uint32_t>(linear); });
  }
  std::optional<x86::Exception> write_fault(uint64_t linear) {
    return cpu.fault([&] { cpu.mmu.write<uint32_t>(linear, 1); });
  }
  Machine machine;
  Tables tables{machine};
  Vcpu cpu{machine};
  SoftMmu& mmu = cpu.mmu;
};

TEST(SoftMmuWithoutPaging, LinearIsPhysical) {
  Machine machine;
  Vcpu cpu(machine);
  cpu.mmu.write<uint32_t>(0x1234, 0xdeadbeef);
  EXPECT_EQ(machine.peek<uint32_t>(0x1234), 0xdeadbeefu);
  EXPECT_EQ(cpu.mmu.read<uint16_t>(0x1236), 0xdead);
  EXPECT_EQ(cpu.mmu.translate_fetch(0xfff0).value, 0xfff0u);
}

TEST_F(SoftMmuTest, ReadsAndWritesThroughTheTables) {
  tables.map(0x7fff12345000, 0x5003);
  mmu.write<uint64_t>(0x7fff12345678, 0x1122334455667788);
  EXPECT_EQ(machine.peek<uint64_t>(0x5678), 0x1122334455667788u);
  ASSERT_NE(mmu.hit_write<uint64_t>(0x7fff12345678), nullptr);
  EXPECT_EQ(*mmu.hit_read<uint32_t>(0x7fff12345678), 0x55667788u);
  EXPECT_EQ(machine.peek<uint64_t>(tables.entry(0x7fff12345000)), 0x5063u) << "accessed and dirty";
}

TEST_F(SoftMmuTest, AReadDoesNotMakeThePageWritable) {
  tables.map(0x10000, 0x5003);
  mmu.read<uint8_t>(0x10000);
  EXPECT_EQ(machine.peek<uint64_t>(tables.entry(0x10000)), 0x5023u);
  EXPECT_EQ(mmu.hit_write<uint8_t>(0x10000), nullptr) << "the dirty bit is clear";
  mmu.write<uint8_t>(0x10000, 1);
  EXPECT_EQ(machine.peek<uint64_t>(tables.entry(0x10000)), 0x5063u);
}

TEST_F(SoftMmuTest, AReadOfAWrittenPageIsEnoughToWriteIt) {
  tables.map(0x10000, 0x5003);
  mmu.write<uint8_t>(0x10000, 1);
  tables.map(0x20000, 0x5063);  // the same page, its dirty bit is set
  tables.map(0x30000, 0x5023);  // clear
  tables.map(0x40000, 0x5061);  // read-only
  tables.map(0x50000, 0x6063);  // another page, to which nobody has written
  for (uint64_t at = 0x20000; at <= 0x50000; at += 0x10000) mmu.read<uint8_t>(at);
  EXPECT_NE(mmu.hit_write<uint8_t>(0x20000), nullptr);
  EXPECT_EQ(mmu.hit_write<uint8_t>(0x30000), nullptr);
  EXPECT_EQ(mmu.hit_write<uint8_t>(0x40000), nullptr);
  EXPECT_EQ(mmu.hit_write<uint8_t>(0x50000), nullptr);
}

TEST_F(SoftMmuTest, AReadOfAPageWithCodeDoesNotOpenIt) {
  tables.map(0x10000, 0x5063);
  mmu.write<uint8_t>(0x10000, 1);
  uint8_t bytes[8];
  mmu.read_code({0x5000}, bytes);
  tables.map(0x20000, 0x5063);
  mmu.read<uint8_t>(0x20000);
  EXPECT_EQ(mmu.hit_write<uint8_t>(0x20000), nullptr);
}

TEST_F(SoftMmuTest, FaultsTellAddressAndReason) {
  tables.map(0x10000, 0x5001);  // read-only, supervisor
  const auto absent = read_fault(0x20004);
  ASSERT_TRUE(absent);
  EXPECT_EQ(absent->vector, x86::Vector::kPf);
  EXPECT_EQ(absent->cr2, 0x20004u);
  EXPECT_EQ(absent->error, 0u);
  EXPECT_FALSE(read_fault(0x10000));
  EXPECT_EQ(write_fault(0x10008)->error, pf::kPresent | pf::kWrite);
  cpu.set_cpl(3);
  EXPECT_EQ(read_fault(0x10000)->error, pf::kPresent | pf::kUser);
  EXPECT_EQ(cpu.fault([&] { mmu.translate_fetch(0x10000); })->error, pf::kPresent | pf::kUser | pf::kFetch);
  EXPECT_EQ(mmu.read<uint8_t>(0x10000, Privilege::kSupervisor), 0) << "implicit accesses are not the user's";
}

TEST_F(SoftMmuTest, UnmappedNonCanonicalAddressesNeverHit) {
  tables.map(0, 0x5003);
  mmu.read<uint8_t>(0);
  for (uint64_t linear = 0x8000000000000000; linear != 0; linear >>= 1) {
    if (linear < 0x1000) break;
    EXPECT_EQ(mmu.hit_read<uint8_t>(linear), nullptr) << std::hex << linear;
    EXPECT_EQ(mmu.hit_write<uint8_t>(~linear), nullptr) << std::hex << linear;
  }
  EXPECT_EQ(read_fault(0x800000000000)->vector, x86::Vector::kGp);
}

// ---- crossing pages ----

TEST_F(SoftMmuTest, CrossingAccessesUseBothPages) {
  tables.map(0x10000, 0x5003);
  tables.map(0x11000, 0x9003);
  mmu.write<uint64_t>(0x10ffd, 0x8877665544332211);
  EXPECT_EQ(machine.peek<uint16_t>(0x5ffd), 0x2211);
  EXPECT_EQ(machine.peek<uint8_t>(0x5fff), 0x33);
  EXPECT_EQ(machine.peek<uint32_t>(0x9000), 0x77665544u);
  EXPECT_EQ(mmu.read<uint64_t>(0x10ffd), 0x8877665544332211u);
  EXPECT_EQ(mmu.hit_read<uint64_t>(0x10ffd), nullptr);
  EXPECT_NE(mmu.hit_read<uint64_t>(0x10ff8), nullptr);
}

TEST_F(SoftMmuTest, NothingIsWrittenWhenTheSecondPageFaults) {
  tables.map(0x10000, 0x5003);
  const auto fault = cpu.fault([&] { mmu.write<uint32_t>(0x10ffe, 0xffffffff); });
  ASSERT_TRUE(fault);
  EXPECT_EQ(fault->cr2, 0x11000u);
  EXPECT_EQ(fault->error, pf::kWrite);
  EXPECT_EQ(machine.peek<uint16_t>(0x5ffe), 0);
}

TEST_F(SoftMmuTest, ThirtyTwoBitAddressesWrapAround) {
  cpu.state.seg[x86::kCs].attributes = x86::Segment::kPresent;  // compatibility mode
  mmu.mode_changed();
  tables.map(0xfffff000, 0x5003);
  tables.map(0, 0x6003);
  mmu.write<uint32_t>(0xfffffffe, 0x44332211);
  EXPECT_EQ(machine.peek<uint16_t>(0x5ffe), 0x2211);
  EXPECT_EQ(machine.peek<uint16_t>(0x6000), 0x4433);
}

TEST_F(SoftMmuTest, BytesOfAnyLengthAreCheckedFirst) {
  tables.map(0x10000, 0x5003);
  tables.map(0x11000, 0x9001);
  std::vector<uint8_t> bytes(600, 0xee);
  EXPECT_EQ(cpu.fault([&] { mmu.write_bytes(0x10f00, bytes); })->cr2, 0x11000u);
  EXPECT_EQ(machine.peek<uint8_t>(0x5f00), 0);
  tables.map(0x11000, 0x9003);
  mmu.write_bytes(0x10f00, bytes);
  EXPECT_EQ(machine.peek<uint8_t>(0x9000 + 600 - 256 - 1), 0xee);
  EXPECT_EQ(machine.peek<uint8_t>(0x9000 + 600 - 256), 0);
  std::vector<uint8_t> back(600);
  mmu.read_bytes(0x10f00, back);
  EXPECT_EQ(back, bytes);
}

// Streams that are further apart than the TLB reaches share slots.
TEST_F(SoftMmuTest, PagesThatShareASlotDoNotMixUp) {
  const uint64_t distances[] = {4 << 20, 16 << 20, Tlb::kEntries * kPageSize, uint64_t{1} << 39};
  for (const uint64_t distance : distances) {
    const uint64_t a = 0x40000000, b = a + distance;
    for (unsigned i = 0; i < 4; ++i) {
      tables.map(a + i * kPageSize, 0x400003 + i * kPageSize);
      tables.map(b + i * kPageSize, 0x500003 + i * kPageSize);
    }
    for (unsigned round = 0; round < 3; ++round) {
      for (uint64_t i = 0; i < 4 * kPageSize - 8; i += 1021) {
        mmu.write<uint64_t>(a + i, i ^ 0xaaaa);
        mmu.write<uint64_t>(b + i, i ^ 0xbbbb);
        ASSERT_EQ(mmu.read<uint64_t>(a + i), i ^ 0xaaaa);
        ASSERT_EQ(mmu.read<uint64_t>(b + i), i ^ 0xbbbb);
      }
    }
  }
}

// ---- devices and ROM ----

TEST_F(SoftMmuTest, DevicesAreReachedOnEveryAccess) {
  tables.map(0x10000, kDevice | 3);
  EXPECT_EQ(mmu.read<uint32_t>(0x10010), 0x44332211u);
  EXPECT_EQ(mmu.read<uint32_t>(0x10010), 0x44332211u);
  mmu.write<uint16_t>(0x10020, 0xabcd);
  EXPECT_EQ(machine.device.reads, (std::vector<FakeDevice::Read>{{0x10, 4}, {0x10, 4}}));
  EXPECT_EQ(machine.device.writes, (std::vector<FakeDevice::Write>{{0x20, 2, 0xabcd}}));
  EXPECT_EQ(mmu.rmw_pointer(0x10020, 4), nullptr);
  EXPECT_EQ(mmu.read_pointer(0x10020, 4), nullptr);
}

TEST_F(SoftMmuTest, AnAccessFromMemoryIntoADeviceIsSplit) {
  tables.map(0x10000, 0x5003);
  tables.map(0x11000, kDevice | 3);
  mmu.write<uint32_t>(0x10ffe, 0x44332211);
  EXPECT_EQ(machine.peek<uint16_t>(0x5ffe), 0x2211);
  EXPECT_EQ(machine.device.writes, (std::vector<FakeDevice::Write>{{0, 2, 0x4433}}));
  EXPECT_EQ(mmu.read<uint32_t>(0x10ffe), 0x22112211u);
}

TEST_F(SoftMmuTest, RomIsReadAndItsWritesAreDropped) {
  tables.map(0x10000, kRom | 3);
  machine.rom_block->host()[4] = std::byte{0x5a};
  EXPECT_EQ(mmu.read<uint8_t>(0x10004), 0x5a);
  EXPECT_NE(mmu.hit_read<uint8_t>(0x10004), nullptr);
  mmu.write<uint8_t>(0x10004, 1);
  EXPECT_EQ(mmu.hit_write<uint8_t>(0x10004), nullptr);
  EXPECT_EQ(mmu.read<uint8_t>(0x10004), 0x5a);
}

TEST_F(SoftMmuTest, UnassignedMemoryReadsAsOnes) {
  tables.map(0x10000, 0xd0000003);
  EXPECT_EQ(mmu.read<uint64_t>(0x10000), ~uint64_t{0});
  mmu.write<uint64_t>(0x10000, 1);
}

TEST_F(SoftMmuTest, TablesOutsideRamReadAsOnes) {
  cpu.set_cr3(kDevice);
  EXPECT_EQ(read_fault(0x1000)->error, pf::kPresent | pf::kReserved);
  EXPECT_TRUE(machine.device.reads.empty()) << "a walk never enters a device";
}

// ---- what must be forgotten, and when ----

constexpr uint64_t kAt = 0x10000;

TEST_F(SoftMmuTest, InvlpgDropsThePage) {
  tables.map(kAt, 0x5003);
  tables.map(kAt + kPageSize, 0x7003);
  machine.poke<uint32_t>(0x5000, 0x55);
  machine.poke<uint32_t>(0x6000, 0x66);
  EXPECT_EQ(mmu.read<uint32_t>(kAt), 0x55u);
  mmu.translate_fetch(kAt);
  const uint64_t epoch = mmu.fetch_epoch();
  tables.map(kAt, 0x6003);
  EXPECT_EQ(mmu.read<uint32_t>(kAt), 0x55u) << "stale, as the architecture allows: else this shows nothing";
  mmu.invlpg(kAt + 0x123);
  EXPECT_EQ(mmu.read<uint32_t>(kAt), 0x66u);
  EXPECT_EQ(mmu.translate_fetch(kAt).value, 0x6000u);
  EXPECT_NE(mmu.fetch_epoch(), epoch);
}

// An interpreter looks up all of its blocks anew when the epoch grows.
TEST_F(SoftMmuTest, TheFetchEpochGrowsForCodeAndNotForData) {
  tables.map(kAt, 0x5003);
  tables.map(kAt + kPageSize, 0x6003);
  tables.map(kAt + 2 * kPageSize, 0x7103);
  tables.map(0x40000000, 0x200083, 2);
  mmu.translate_fetch(kAt);
  mmu.translate_fetch(kAt + 2 * kPageSize);
  EXPECT_FALSE((mmu.translate_fetch(kAt), mmu.fetched_global(kAt)));
  EXPECT_TRUE((mmu.translate_fetch(kAt + 2 * kPageSize), mmu.fetched_global(kAt + 2 * kPageSize)));
  mmu.read<uint8_t>(kAt + kPageSize);
  uint64_t epoch = mmu.fetch_epoch(), global = mmu.fetch_epoch(true);
  const auto grew = [&] {
    const bool any = mmu.fetch_epoch() > epoch, globals = mmu.fetch_epoch(true) > global;
    epoch = mmu.fetch_epoch(), global = mmu.fetch_epoch(true);
    return std::pair(any, globals);
  };
  using Grew = std::pair<bool, bool>;
  mmu.invlpg(kAt + kPageSize);
  EXPECT_EQ(grew(), Grew(false, false)) << "data";
  mmu.invlpg(kAt);
  EXPECT_EQ(grew(), Grew(true, true)) << "code";
  mmu.translate_fetch(0x40000000 + 0x3000);
  mmu.invlpg(0x40000000 + 0x9000);
  EXPECT_EQ(grew(), Grew(true, true)) << "another part of a large page with code";
  cpu.set_cr3(tables.cr3());
  EXPECT_EQ(grew(), Grew(true, false));
  mmu.flush_all();
  EXPECT_EQ(grew(), Grew(true, true));
}

TEST_F(SoftMmuTest, CodeIsNoticedThoughItsTlbEntryWasReplaced) {
  tables.map(kAt, 0x5003);
  tables.map(kAt + (16 << 20), 0x6003);  // the same slot
  mmu.translate_fetch(kAt);
  mmu.translate_fetch(kAt + (16 << 20));
  const uint64_t epoch = mmu.fetch_epoch();
  mmu.invlpg(kAt);
  EXPECT_GT(mmu.fetch_epoch(), epoch);
}

TEST_F(SoftMmuTest, InvlpgDropsAllOfALargePage) {
  constexpr uint64_t k2M = 2 << 20;
  tables.map(0x40000000, 0x200083, 2);
  for (uint64_t at = 0; at < k2M; at += kPageSize) mmu.write<uint32_t>(0x40000000 + at, 1);
  tables.map(0x40000000, 0, 2);
  mmu.invlpg(0x40000000 + 0x5000);
  for (uint64_t at = 0; at < k2M; at += kPageSize) ASSERT_TRUE(read_fault(0x40000000 + at)) << std::hex << at;
}

TEST_F(SoftMmuTest, InvlpgDropsAllOfAHugePage) {
  tables.map(0, 0x83, 3);
  for (uint64_t at = 0; at < kRamSize; at += kPageSize) mmu.read<uint32_t>(at);
  tables.map(0, 0, 3);
  mmu.invlpg(0x3fffffff);
  for (uint64_t at = 0; at < kRamSize; at += kPageSize) ASSERT_TRUE(read_fault(at)) << std::hex << at;
}

TEST_F(SoftMmuTest, InvlpgReachesEveryPrivilege) {
  cpu.set_cr4(cr4::kSmap);
  tables.map(kAt, 0x5007);
  cpu.set_cpl(3);
  mmu.read<uint32_t>(kAt);
  cpu.set_cpl(0);
  cpu.set_ac(true);
  mmu.read<uint32_t>(kAt);
  tables.map(kAt, 0);
  mmu.invlpg(kAt);
  EXPECT_TRUE(read_fault(kAt));
  cpu.set_cpl(3);
  EXPECT_TRUE(read_fault(kAt));
}

TEST_F(SoftMmuTest, Cr3WritesKeepOnlyGlobalPages) {
  tables.map(kAt, 0x5003);
  tables.map(kAt + kPageSize, 0x6103);
  Tables other(machine, 0x200000);
  mmu.read<uint32_t>(kAt);
  mmu.read<uint32_t>(kAt + kPageSize);
  cpu.set_cr3(other.cr3());
  EXPECT_TRUE(read_fault(kAt));
  EXPECT_FALSE(read_fault(kAt + kPageSize)) << "global, and the other tables do not map it";
  mmu.invlpg(kAt + kPageSize);
  EXPECT_TRUE(read_fault(kAt + kPageSize)) << "INVLPG drops global pages too";
}

TEST_F(SoftMmuTest, GlobalMeansNothingWithoutPge) {
  cpu.set_cr4(0, cr4::kPge);
  tables.map(kAt, 0x5103);
  mmu.read<uint32_t>(kAt);
  cpu.set_cr3(Tables(machine, 0x200000).cr3());
  EXPECT_TRUE(read_fault(kAt));
}

TEST_F(SoftMmuTest, TogglingPgeDropsGlobalPages) {
  tables.map(kAt, 0x5103);
  mmu.read<uint32_t>(kAt);
  tables.map(kAt, 0);
  cpu.set_cr4(0, cr4::kPge);
  cpu.set_cr4(cr4::kPge);
  EXPECT_TRUE(read_fault(kAt));
}

TEST_F(SoftMmuTest, ManyPagesAreForgottenTogether) {
  for (unsigned i = 0; i < 3000; ++i)
    tables.map(0x40000000 + i * kPageSize, (0x400000 + i % 64 * kPageSize) | 3);
  for (unsigned i = 0; i < 3000; ++i) mmu.read<uint8_t>(0x40000000 + i * kPageSize);
  cpu.set_cr3(Tables(machine, 0xf00000).cr3());
  for (unsigned i = 0; i < 3000; ++i)
    ASSERT_EQ(mmu.hit_read<uint8_t>(0x40000000 + i * kPageSize), nullptr) << i;
}

struct PcidTest : SoftMmuTest {
  PcidTest() {
    cpu.set_cr4(cr4::kPcide);
    cpu.set_cr3(tables.cr3() | 1);
    tables.map(kAt, 0x5003);
    tables.map(kAt + kPageSize, 0x6103);
    mmu.read<uint32_t>(kAt);
    mmu.read<uint32_t>(kAt + kPageSize);
    tables.map(kAt, 0);
    tables.map(kAt + kPageSize, 0);
  }
};

TEST_F(PcidTest, OtherPcidsSeeTheirOwnTranslations) {
  Tables other(machine, 0x200000);
  other.map(kAt, 0x7003);
  machine.poke<uint32_t>(0x7000, 0x77);
  cpu.state.cr3 = other.cr3() | 2;
  mmu.cr3_written(cpu.state.cr3 | uint64_t{1} << 63);
  EXPECT_EQ(mmu.read<uint32_t>(kAt), 0x77u) << "bit 63 keeps translations, but not for another PCID";
  cpu.set_cr3(tables.cr3() | 1);
  EXPECT_TRUE(read_fault(kAt)) << "a CR3 write without bit 63 invalidates its PCID";
}

TEST_F(PcidTest, InvpcidOfOneAddress) {
  mmu.invpcid(0, 1, kAt);
  EXPECT_TRUE(read_fault(kAt));
}

TEST_F(PcidTest, InvpcidOfOnePcidKeepsGlobalPages) {
  mmu.invpcid(1, 1, 0);
  EXPECT_TRUE(read_fault(kAt));
  EXPECT_FALSE(read_fault(kAt + kPageSize));
}

TEST_F(PcidTest, InvpcidOfEverything) {
  mmu.invpcid(2, 0, 0);
  EXPECT_TRUE(read_fault(kAt));
  EXPECT_TRUE(read_fault(kAt + kPageSize));
}

TEST_F(PcidTest, InvpcidOfEverythingButGlobalPages) {
  mmu.invpcid(3, 0, 0);
  EXPECT_TRUE(read_fault(kAt));
  EXPECT_FALSE(read_fault(kAt + kPageSize));
}

struct PcidUserTest : SoftMmuTest {
  PcidUserTest() {
    cpu.set_cr4(cr4::kPcide);
    for (uint64_t pcid = 0; pcid < kSpaces; ++pcid) {
      spaces.push_back(std::make_unique<Tables>(machine, 0x200000 + pcid * 0x10000));
      machine.poke<uint64_t>(0x800000 + pcid * kPageSize, pcid);
      spaces.back()->map(kAt, (0x800000 + pcid * kPageSize) | 7);
    }
    cpu.set_cpl(3);
  }
  void enter(uint64_t pcid, bool keep) {
    cpu.state.cr3 = spaces[pcid]->cr3() | pcid;
    mmu.cr3_written(cpu.state.cr3 | uint64_t{keep} << 63);
  }
  static constexpr uint64_t kSpaces = 10;  // more than are kept
  std::vector<std::unique_ptr<Tables>> spaces;
};

TEST_F(PcidUserTest, EachSpaceSeesItsOwnPage) {
  for (unsigned round = 0; round < 3; ++round) {
    for (uint64_t pcid = 0; pcid < kSpaces; ++pcid) {
      enter(pcid, true);
      EXPECT_EQ(mmu.read<uint64_t>(kAt), pcid);
      EXPECT_EQ(mmu.translate_fetch(kAt).value, 0x800000 + pcid * kPageSize);
    }
  }
}

TEST_F(PcidUserTest, TranslationsAndEpochsAreKeptOnRequest) {
  enter(1, false);
  mmu.read<uint64_t>(kAt);
  mmu.translate_fetch(kAt);
  const uint64_t epoch = mmu.fetch_epoch();
  enter(2, true);
  EXPECT_NE(mmu.fetch_epoch(), epoch);
  EXPECT_EQ(mmu.hit_read<uint64_t>(kAt), nullptr);
  enter(1, true);
  EXPECT_EQ(mmu.fetch_epoch(), epoch);
  EXPECT_NE(mmu.hit_read<uint64_t>(kAt), nullptr);
  enter(2, true);
  enter(1, false);
  EXPECT_NE(mmu.fetch_epoch(), epoch);
  EXPECT_EQ(mmu.hit_read<uint64_t>(kAt), nullptr);
}

TEST_F(PcidUserTest, InvpcidReachesSpacesThatAreNotCurrent) {
  for (uint64_t type = 0; type < 4; ++type) {
    enter(1, false);
    mmu.read<uint64_t>(kAt);
    mmu.translate_fetch(kAt);
    const uint64_t epoch = mmu.fetch_epoch();
    enter(2, true);
    mmu.invpcid(type, 1, kAt);
    enter(1, true);
    EXPECT_EQ(mmu.hit_read<uint64_t>(kAt), nullptr) << type;
    EXPECT_NE(mmu.fetch_epoch(), epoch) << type;
  }
}

TEST_F(PcidUserTest, InvlpgOfAGlobalPageReachesAllSpaces) {
  spaces[1]->map(kAt, 0x800107);
  enter(1, false);
  mmu.read<uint64_t>(kAt);
  enter(2, true);
  mmu.invlpg(kAt);
  enter(1, true);
  EXPECT_EQ(mmu.hit_read<uint64_t>(kAt), nullptr);
}

TEST_F(PcidUserTest, CodeProtectionReachesSpacesThatAreNotCurrent) {
  enter(1, false);
  mmu.write<uint64_t>(kAt, 1);
  ASSERT_NE(mmu.hit_write<uint64_t>(kAt), nullptr);
  enter(2, true);
  uint8_t bytes[8];
  mmu.read_code({0x801000}, bytes);
  enter(1, true);
  EXPECT_EQ(mmu.hit_write<uint64_t>(kAt), nullptr);
}

// A guest that invalidates as the manual asks must never see an old page, whatever we keep.
TEST_F(PcidUserTest, ACorrectGuestNeverSeesAStalePage) {
  const uint64_t seed = std::random_device{}();
  std::mt19937_64 random(seed);
  printf("seed %lu\n", seed);
  constexpr uint64_t kPages = 4;
  constexpr uint64_t kFrames = 64;
  for (uint64_t i = 0; i < kFrames; ++i) machine.poke<uint64_t>(0x800000 + i * kPageSize, i);
  std::vector<std::array<uint64_t, kPages>> frame(kSpaces);
  const auto remap = [&](uint64_t space, uint64_t page) {
    frame[space][page] = random() % kFrames;
    // The third page is the supervisor's.
    spaces[space]->map(kAt + page * kPageSize,
                       (0x800000 + frame[space][page] * kPageSize) | (page == 2 ? 3 : 7));
  };
  for (uint64_t space = 0; space < kSpaces; ++space) {
    for (uint64_t page = 0; page < kPages; ++page) remap(space, page);
    enter(space, false);
  }
  uint64_t now = kSpaces - 1;
  std::vector<bool> needs_flush(kSpaces);
  for (unsigned step = 0; step < 50000; ++step) {
    const uint64_t space = random() % kSpaces, page = random() % kPages;
    switch (random() % 8) {
      case 0:
        enter(now = space, !needs_flush[space]);
        needs_flush[space] = false;
        break;
      case 1:
        remap(now, page);
        mmu.invlpg(kAt + page * kPageSize);
        break;
      case 2:
        remap(space, page);
        mmu.invpcid(random() % 4 < 2 ? 0 : 1 + random() % 3, space, kAt + page * kPageSize);
        break;
      case 3:
        if (space == now) break;
        remap(space, page);
        needs_flush[space] = true;
        break;
      default: {
        cpu.set_cpl(page == 2 || random() % 2 != 0 ? 0 : 3);
        const uint64_t at = kAt + page * kPageSize;
        ASSERT_EQ(mmu.read<uint64_t>(at), frame[now][page]) << "seed " << seed << " step " << step;
        ASSERT_EQ(mmu.translate_fetch(at).value, 0x800000 + frame[now][page] * kPageSize) << "seed " << seed;
      }
    }
  }
}

// ---- permissions that change without the tables ----

TEST_F(SoftMmuTest, TogglingWpActsAtOnce) {
  tables.map(kAt, 0x5001);
  EXPECT_TRUE(write_fault(kAt));
  cpu.state.cr0 &= ~x86::cr0::kWp;
  mmu.mode_changed();
  EXPECT_FALSE(write_fault(kAt));
  cpu.state.cr0 |= x86::cr0::kWp;
  mmu.mode_changed();
  EXPECT_TRUE(write_fault(kAt));
}

TEST_F(SoftMmuTest, TogglingAcOpensAndClosesUserPages) {
  cpu.set_cr4(cr4::kSmap);
  tables.map(kAt, 0x5007);
  EXPECT_EQ(read_fault(kAt)->error, pf::kPresent);
  cpu.set_ac(true);
  EXPECT_FALSE(write_fault(kAt));
  EXPECT_THROW(mmu.read<uint8_t>(kAt, Privilege::kSupervisor), x86::Exception)
      << "AC is not for implicit accesses";
  cpu.set_ac(false);
  EXPECT_EQ(write_fault(kAt)->error, pf::kPresent | pf::kWrite);
  cpu.set_cpl(3);
  EXPECT_FALSE(read_fault(kAt));
}

TEST_F(SoftMmuTest, WhatTheUserMayDoTheSupervisorMayUnderAcAndNoMore) {
  cpu.set_cr4(cr4::kSmap);
  tables.map(kAt, 0x5005);  // the user may only read
  cpu.set_cpl(3);
  EXPECT_FALSE(read_fault(kAt));
  cpu.set_cpl(0);
  EXPECT_TRUE(read_fault(kAt));
  cpu.set_ac(true);
  EXPECT_FALSE(read_fault(kAt));
  EXPECT_TRUE(write_fault(kAt));
}

TEST_F(SoftMmuTest, SmepForbidsRunningUserPages) {
  tables.map(kAt, 0x5007);
  EXPECT_FALSE(cpu.fault([&] { mmu.translate_fetch(kAt); }));
  cpu.set_cr4(cr4::kSmep);
  EXPECT_EQ(cpu.fault([&] { mmu.translate_fetch(kAt); })->error, pf::kPresent | pf::kFetch);
  EXPECT_FALSE(read_fault(kAt));
}

TEST_F(SoftMmuTest, NoExecuteHidesCodeOnly) {
  tables.map(kAt, 0x5003 | uint64_t{1} << 63);
  EXPECT_FALSE(read_fault(kAt));
  EXPECT_EQ(cpu.fault([&] { mmu.translate_fetch(kAt); })->error, pf::kPresent | pf::kFetch);
}

// ---- PAE ----

TEST(SoftMmuPae, LoadsAndChecksPointers) {
  Machine machine;
  Vcpu cpu(machine);
  machine.poke<uint64_t>(0x1020, 0x2001);
  machine.poke<uint64_t>(0x1028, 0x4);  // reserved bits of entries that are not present do not matter
  cpu.mmu.load_pdptes(0x1020);
  EXPECT_EQ(cpu.state.pdpte[0], 0x2001u);
  machine.poke<uint64_t>(0x1030, 0x2003);
  const auto fault = cpu.fault([&] { cpu.mmu.load_pdptes(0x1020); });
  ASSERT_TRUE(fault);
  EXPECT_EQ(fault->vector, x86::Vector::kGp);
  machine.poke<uint64_t>(0x1030, uint64_t{1} << 40 | 1);
  EXPECT_TRUE(cpu.fault([&] { cpu.mmu.load_pdptes(0x1020); })) << "beyond MAXPHYADDR";
}

// SDM 3A §4.4.1: MOV to CR0 that changes CD or NW loads them too, and no translation needs to be dropped.
TEST(SoftMmuPae, WalksUseThePointersThatWereLoadedLast) {
  Machine machine;
  Vcpu cpu(machine);
  machine.poke<uint64_t>(0x1000, 0x2001);
  machine.poke<uint64_t>(0x2000, 0x3003);
  machine.poke<uint64_t>(0x6000, 0x7003);
  for (const uint64_t page : {uint64_t{0}, uint64_t{1}}) {
    machine.poke<uint64_t>(0x3000 + 8 * page, (0x8000 + page * kPageSize) | 3);
    machine.poke<uint64_t>(0x7000 + 8 * page, (0xa000 + page * kPageSize) | 3);
  }
  machine.poke<uint32_t>(0x9000, 1);
  machine.poke<uint32_t>(0xb000, 2);
  cpu.state.cr0 = x86::cr0::kPe | x86::cr0::kPg | x86::cr0::kWp;
  cpu.state.cr4 = x86::cr4::kPae;
  cpu.mmu.load_pdptes(0x1000);
  cpu.set_cr3(0x1000);
  cpu.mmu.mode_changed();
  cpu.mmu.read<uint32_t>(0);
  machine.poke<uint64_t>(0x1000, 0x6001);
  cpu.mmu.load_pdptes(0x1000);
  EXPECT_EQ(cpu.mmu.read<uint32_t>(kPageSize), 2u);
}

// ---- in place ----

TEST_F(SoftMmuTest, PointersForReadModifyWrite) {
  tables.map(kAt, 0x5003);
  auto* value = static_cast<uint32_t*>(mmu.rmw_pointer(kAt + 4, 4));
  ASSERT_NE(value, nullptr);
  *value = 7;
  EXPECT_EQ(machine.peek<uint32_t>(0x5004), 7u);
  EXPECT_EQ(machine.peek<uint64_t>(tables.entry(kAt)), 0x5063u);
  tables.map(kAt + kPageSize, 0x7003);
  EXPECT_EQ(mmu.rmw_pointer(kAt + 0xffe, 4), nullptr) << "crosses";
  EXPECT_TRUE(cpu.fault([&] { mmu.rmw_pointer(kAt + 0x1ffe, 4); }));
}

TEST_F(SoftMmuTest, ExclusiveReadModifyWriteTakesAnyMemory) {
  tables.map(kAt, 0x5003);
  tables.map(kAt + kPageSize, kDevice | 3);
  machine.poke<uint16_t>(0x5ffe, 0x1111);
  const uint32_t old = mmu.exclusive_rmw<uint32_t>(kAt + 0xffe, [](uint32_t value) { return value + 1; });
  EXPECT_EQ(old, 0x22111111u);
  EXPECT_EQ(machine.peek<uint16_t>(0x5ffe), 0x1112);
  EXPECT_EQ(machine.device.writes, (std::vector<FakeDevice::Write>{{0, 2, 0x2211}}));
  EXPECT_TRUE(cpu.fault([&] { mmu.exclusive_rmw<uint32_t>(kAt + 0x10000, [](uint32_t v) { return v; }); }));
  EXPECT_FALSE(cpu.fault([&] { mmu.exclusive_rmw<uint32_t>(kAt, [](uint32_t v) { return v; }); }))
      << "the section ended when it threw";
}

TEST_F(SoftMmuTest, ProbeSetsBitsAndRaises) {
  tables.map(kAt, 0x5003);
  mmu.probe(kAt, 8, Access::kWrite);
  EXPECT_EQ(machine.peek<uint64_t>(tables.entry(kAt)), 0x5063u);
  EXPECT_EQ(cpu.fault([&] { mmu.probe(kAt + 0xffc, 8, Access::kWrite); })->cr2, kAt + kPageSize);
}

// ---- memory that goes away, and the dirty log ----

TEST_F(SoftMmuTest, RemovedMemoryIsGoneWhenTheCommitReturns) {
  tables.map(kAt, 0x40000003);
  auto extra_block = ram_of(0x1000);
  memory::RamRegion extra("extra", extra_block);
  memory::Transaction(machine.space).add(machine.space.root(), 0x40000000, extra);
  mmu.write<uint32_t>(kAt, 0x1234);
  EXPECT_EQ(load_le<uint32_t>(extra_block->host()), 0x1234u);
  memory::Transaction(machine.space).remove(extra);
  EXPECT_EQ(mmu.hit_read<uint32_t>(kAt), nullptr);
  EXPECT_EQ(mmu.read<uint32_t>(kAt), 0xffffffffu);
  memory::Transaction(machine.space).add(machine.space.root(), 0x40000000, extra);
  EXPECT_EQ(mmu.read<uint32_t>(kAt), 0x1234u);
}

// A commit publishes the new view before vCPUs forget the old one. What one of them still knows then is not
// taken for a right to memory that has come to the same address.
TEST_F(SoftMmuTest, WhatIsKnownOfMemoryThatGoesIsNoRightToWhatComes) {
  auto extra_block = ram_of(0x2000), firmware_block = ram_of(0x2000);
  memory::RamRegion extra("extra", extra_block);
  memory::RomRegion firmware("firmware", firmware_block);
  {
    memory::Transaction change(machine.space);
    change.add(machine.space.root(), 0x40000000, firmware);
    change.add(machine.space.root(), 0x40000000, extra, 1);
  }
  tables.map(kAt, 0x40000003);
  cpu.set_cr4(x86::cr4::kSmap);
  mmu.write<uint32_t>(kAt, 1);
  cpu.set_ac(true);  // the other context of the supervisor, which learns from this one

  struct Meanwhile : SharedCodeObserver {
    explicit Meanwhile(SoftMmu& m) : mmu(m) {}
    void shared_code_written(GuestPhys, unsigned, unsigned) override {
      ++calls;
      mmu.write<uint32_t>(kAt, 0x1234);
    }
    SoftMmu& mmu;
    unsigned calls = 0;
  } meanwhile(mmu);
  machine.code.set_shared_observer(&meanwhile);
  uint8_t code[4];
  ASSERT_TRUE(mmu.read_code({0x40001000}, code, true));
  memory::Transaction(machine.space).remove(extra);
  EXPECT_EQ(meanwhile.calls, 1u);
  EXPECT_EQ(load_le<uint32_t>(firmware_block->host()), 0u);
  machine.code.set_shared_observer(nullptr);
}

TEST_F(SoftMmuTest, TheDirtyLogSeesTheFirstWriteOfEachEpoch) {
  tables.map(kAt, 0x5003);
  tables.map(kAt + kPageSize, 0x7003);
  mmu.write<uint32_t>(kAt, 1);
  machine.block->start_dirty_log();
  machine.group.drop_write_access(nullptr);
  mmu.participant().service();
  const auto dirty = [&] {
    std::vector<uint64_t> bitmap;
    machine.block->collect_dirty(bitmap);
    machine.group.drop_write_access(nullptr);
    return bitmap[0];
  };
  mmu.write<uint32_t>(kAt, 2);
  mmu.write<uint32_t>(kAt, 3);
  EXPECT_EQ(dirty(), 1u << 5);
  mmu.read<uint32_t>(kAt);
  EXPECT_EQ(dirty(), 0u);
  mmu.write<uint64_t>(kAt + 0xffc, 3);
  EXPECT_EQ(dirty(), 1u << 5 | 1u << 7);
  EXPECT_NE(mmu.rmw_pointer(kAt, 4), nullptr);
  EXPECT_EQ(dirty(), 1u << 5);
  tables.map(kAt + 2 * kPageSize, 0x9003);
  dirty();
  mmu.read<uint32_t>(kAt + 2 * kPageSize);
  EXPECT_EQ(dirty(), 0u) << "the accessed bit is a write too, but its table lies beyond the first 64 pages";
}

}  // namespace
}  // namespace ostler::mmu
