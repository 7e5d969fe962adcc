#include "memory/address_space.h"

#include <random>

#include "fixtures.h"

namespace ostler::memory {
namespace {

constexpr uint64_t kSize = uint64_t{1} << 40;

class AddressSpaceTest : public ::testing::Test {
 protected:
  Lines lines() { return describe(*space.view()); }
  AddressSpace space{"memory", kSize};
  RecordingHandler io;
};

TEST_F(AddressSpaceTest, IsUnassignedAtFirst) {
  AddressSpace::Reader reader(space);
  EXPECT_EQ(reader.read({0}, 4), 0xffffffffu);
  EXPECT_EQ(reader.read({kSize - 1}, 8), ~uint64_t{0});
  EXPECT_EQ(reader.read({~uint64_t{0}}, 8), ~uint64_t{0});
  reader.write({0x1000}, 8, 1);
}

TEST_F(AddressSpaceTest, HigherPriorityHidesWhatItOverlaps) {
  RamRegion ram("ram", ram_of(0x10000));
  IoRegion window("window", io, 0x1000);
  {
    Transaction change(space);
    change.add(space.root(), 0, ram);
    change.add(space.root(), 0x4000, window, 1);
  }
  EXPECT_EQ(lines(), (Lines{"0-3fff:ram+0", "4000-4fff:io+0", "5000-ffff:ram+5000"}));
}

TEST_F(AddressSpaceTest, LowerPriorityShowsOnlyInGaps) {
  RamRegion ram("ram", ram_of(0x2000));
  IoRegion window("window", io, 0x10000);
  {
    Transaction change(space);
    change.add(space.root(), 0x4000, ram);
    change.add(space.root(), 0, window, -1);
  }
  EXPECT_EQ(lines(), (Lines{"0-3fff:io+0", "4000-5fff:ram+0", "6000-ffff:io+6000"}));
}

TEST_F(AddressSpaceTest, LatestWinsAmongEquals) {
  IoRegion first("first", io, 0x2000);
  RamRegion second("second", ram_of(0x2000));
  {
    Transaction change(space);
    change.add(space.root(), 0, first);
    change.add(space.root(), 0x1000, second);
  }
  EXPECT_EQ(lines(), (Lines{"0-fff:io+0", "1000-2fff:ram+0"}));
}

TEST_F(AddressSpaceTest, PriorityIsLocalToTheContainer) {
  ContainerRegion low("low", 0x10000), high("high", 0x1000);
  RamRegion ram("ram", ram_of(0x10000));
  IoRegion window("window", io, 0x1000);
  {
    Transaction change(space);
    change.add(low, 0, ram, 100);
    change.add(high, 0, window, -100);
    change.add(space.root(), 0, low, 0);
    change.add(space.root(), 0x2000, high, 1);
  }
  EXPECT_EQ(lines(), (Lines{"0-1fff:ram+0", "2000-2fff:io+0", "3000-ffff:ram+3000"}));
}

TEST_F(AddressSpaceTest, ContainersLetThroughWhatIsBelow) {
  ContainerRegion hole("hole", 0x4000);
  RamRegion ram("ram", ram_of(0x4000));
  IoRegion window("window", io, 0x1000);
  {
    Transaction change(space);
    change.add(space.root(), 0, ram);
    change.add(hole, 0x1000, window);
    change.add(space.root(), 0, hole, 5);
  }
  EXPECT_EQ(lines(), (Lines{"0-fff:ram+0", "1000-1fff:io+0", "2000-3fff:ram+2000"}));
}

TEST_F(AddressSpaceTest, AliasesShowAWindowOfTheirTarget) {
  RomRegion rom("rom", ram_of(0x10000));
  AliasRegion shadow("shadow", rom, 0xc000, 0x4000);
  {
    Transaction change(space);
    change.add(space.root(), 0xffff0000, rom);
    change.add(space.root(), 0xfc000, shadow);
  }
  EXPECT_EQ(lines(), (Lines{"fc000-fffff:rom+c000", "ffff0000-ffffffff:rom+0"}));
}

TEST_F(AddressSpaceTest, AliasesOfContainersFollowTheirContents) {
  ContainerRegion pci("pci", 0x10000);
  AliasRegion hole("hole", pci, 0x4000, 0x8000);
  IoRegion bar("bar", io, 0x2000);
  {
    Transaction change(space);
    change.add(space.root(), 0x100000, hole);
    change.add(pci, 0x3000, bar);
  }
  EXPECT_EQ(lines(), (Lines{"100000-100fff:io+1000"}));
  { Transaction(space).move(bar, 0xb000); }
  EXPECT_EQ(lines(), (Lines{"107000-107fff:io+0"}));
  { Transaction(space).move(bar, 0xe000); }
  EXPECT_EQ(lines(), Lines{});
}

TEST_F(AddressSpaceTest, DisabledRegionsAndTheirChildrenAreNotThere) {
  ContainerRegion box("box", 0x4000);
  IoRegion window("window", io, 0x1000);
  {
    Transaction change(space);
    change.add(box, 0, window);
    change.add(space.root(), 0x1000, box);
    change.set_enabled(box, false);
  }
  EXPECT_EQ(lines(), Lines{});
  { Transaction(space).set_enabled(box, true); }
  EXPECT_EQ(lines(), (Lines{"1000-1fff:io+0"}));
}

TEST_F(AddressSpaceTest, WhatStandsOutOfTheParentIsCutOff) {
  IoRegion window("window", io, 0x4000);
  ContainerRegion box("box", 0x3000);
  {
    Transaction change(space);
    change.add(box, 0x2000, window);
    change.add(space.root(), 0x10000, box);
  }
  EXPECT_EQ(lines(), (Lines{"12000-12fff:io+0"}));
}

// A guest may write any 64-bit address into a BAR.
TEST_F(AddressSpaceTest, OffsetsNearTheEndOf64BitsDoNotWrapAround) {
  IoRegion bar("bar", io, 0x4000);
  {
    Transaction change(space);
    change.add(space.root(), ~uint64_t{0} - 0xfff, bar);
  }
  EXPECT_EQ(lines(), Lines{});
  { Transaction(space).move(bar, kSize - 0x1000); }
  EXPECT_EQ(lines(), (Lines{"fffffff000-ffffffffff:io+0"}));
}

TEST_F(AddressSpaceTest, DestroyedRegionsLeaveTheTree) {
  {
    IoRegion window("window", io, 0x1000);
    Transaction(space).add(space.root(), 0, window);
    EXPECT_EQ(lines().size(), 1u);
  }
  EXPECT_EQ(lines(), Lines{});
}

TEST_F(AddressSpaceTest, AccessesThatStraddleRangesAreSplit) {
  const auto block = ram_of(0x1000);
  RamRegion ram("ram", block);
  IoRegion window("window", io, 0x1000);
  {
    Transaction change(space);
    change.add(space.root(), 0, ram);
    change.add(space.root(), 0x1000, window);
  }
  block->host()[0xfff] = std::byte{0xab};
  AddressSpace::Reader reader(space);
  EXPECT_EQ(reader.read({0xfff}, 4), 0x020100abu);
  EXPECT_EQ(io.accesses, (std::vector<RecordingHandler::Access>{{false, 0, 2, 0x0100}, {false, 2, 1, 2}}));
  io.accesses.clear();
  reader.write({0xffe}, 4, 0x44332211);
  EXPECT_EQ(block->host()[0xffe], std::byte{0x11});
  EXPECT_EQ(block->host()[0xfff], std::byte{0x22});
  EXPECT_EQ(io.accesses, (std::vector<RecordingHandler::Access>{{true, 0, 2, 0x4433}}));
  EXPECT_EQ(reader.read({0x1ffe}, 8), 0xfffffffffffffffeu) << "the tail lies in nothing: all ones";
}

TEST_F(AddressSpaceTest, LargeAccessesReachSmallHandlersInPieces) {
  IoRegion window("window", io, 0x100, 2);
  Transaction(space).add(space.root(), 0, window);
  AddressSpace::Reader reader(space);
  EXPECT_EQ(reader.read({0x10}, 8), 0x1716151413121110u);
  reader.write({0x20}, 4, 0xddccbbaa);
  EXPECT_EQ(io.accesses.size(), 6u);
  EXPECT_EQ(io.accesses.back(), (RecordingHandler::Access{true, 0x22, 2, 0xddcc}));
}

TEST_F(AddressSpaceTest, WritesToRomAreDroppedOrGoToItsHandler) {
  const auto block = ram_of(0x1000);
  RomRegion rom("rom", block), flash("flash", block, &io);
  {
    Transaction change(space);
    change.add(space.root(), 0, rom);
    change.add(space.root(), 0x1000, flash);
  }
  AddressSpace::Reader reader(space);
  reader.write({0x10}, 4, 1);
  reader.write({0x1020}, 2, 0x1234);
  EXPECT_EQ(reader.read({0x10}, 4), 0u);
  EXPECT_EQ(reader.read({0x1020}, 4), 0u);
  EXPECT_EQ(io.accesses, (std::vector<RecordingHandler::Access>{{true, 0x20, 2, 0x1234}}));
}

class RecordingListener : public Listener {
 public:
  void view_changed(const ViewChange& change) override {
    ++calls;
    removed = describe(FlatView({change.removed.begin(), change.removed.end()}));
    added = describe(FlatView({change.added.begin(), change.added.end()}));
  }
  unsigned calls = 0;
  Lines removed, added;
};

TEST_F(AddressSpaceTest, ListenersHearOnlyOfDifferences) {
  RamRegion ram("ram", ram_of(0x1000));
  IoRegion a("a", io, 0x1000), b("b", io, 0x1000);
  Transaction(space).add(space.root(), 0, ram);
  RecordingListener listener;
  space.add_listener(listener);
  EXPECT_EQ(listener.added, (Lines{"0-fff:ram+0"}));
  {
    Transaction change(space);
    change.add(space.root(), 0x1000, a);
    change.add(space.root(), 0x2000, b);
  }
  EXPECT_EQ(listener.calls, 2u) << "one commit, one call";
  EXPECT_EQ(listener.added, (Lines{"1000-1fff:io+0", "2000-2fff:io+0"}));
  EXPECT_EQ(listener.removed, Lines{});
  { Transaction(space).move(a, 0x3000); }
  EXPECT_EQ(listener.removed, (Lines{"1000-1fff:io+0"}));
  EXPECT_EQ(listener.added, (Lines{"3000-3fff:io+0"}));
  { Transaction(space).move(a, 0x3000); }
  EXPECT_EQ(listener.calls, 3u) << "nothing changed, nobody is told";
  space.remove_listener(listener);
}

TEST_F(AddressSpaceTest, PortsAreASpaceToo) {
  AddressSpace ports("ports", AddressSpace::kPortSize);
  IoRegion serial("serial", io, 8, 1);
  Transaction(ports).add(ports.root(), 0x3f8, serial);
  AddressSpace::Reader reader(ports);
  EXPECT_EQ(reader.read({0x3fd}, 1), 5u);
  EXPECT_EQ(reader.read({0x3fe}, 4), 0xffff0706u);
  EXPECT_EQ(reader.read({0xffff}, 4), 0xffffffffu);
}

// Random trees of overlapping regions against a map painted byte by byte.
TEST_F(AddressSpaceTest, RandomTreesMatchAPaintedMap) {
  std::mt19937_64 random(20261120);
  for (int round = 0; round < 300; ++round) {
    constexpr uint64_t kSpan = 256;
    AddressSpace small("small", kSpan);
    struct Placed {
      std::unique_ptr<IoRegion> region;
      uint64_t offset;
      int priority;
    };
    std::vector<Placed> placed;
    std::vector<RecordingHandler> handlers(8);
    {
      Transaction change(small);
      for (auto& handler : handlers) {
        Placed one{std::make_unique<IoRegion>("r", handler, 1 + random() % 100), random() % 300,
                   static_cast<int>(random() % 4)};
        change.add(small.root(), one.offset, *one.region, one.priority);
        placed.push_back(std::move(one));
      }
    }
    const auto view = small.view();
    for (uint64_t address = 0; address < kSpan; ++address) {
      const Placed* expected = nullptr;
      size_t index = 0;
      for (size_t i = 0; i < placed.size(); ++i) {
        const Placed& p = placed[i];
        if (address < p.offset || address >= p.offset + p.region->size()) continue;
        if (expected == nullptr || p.priority >= expected->priority) expected = &p, index = i;
      }
      const FlatRange* range = view->find({address});
      ASSERT_EQ(range != nullptr, expected != nullptr) << "round " << round << " address " << address;
      if (range == nullptr) continue;
      ASSERT_EQ(range->handler, &handlers[index]) << "round " << round << " address " << address;
      ASSERT_EQ(range->offset_of({address}), address - expected->offset);
    }
  }
}

}  // namespace
}  // namespace ostler::memory
