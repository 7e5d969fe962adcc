// Links, overwritten code and flushes, on blocks whose code is never run.
#include "bt/code_cache.h"

#include <gtest/gtest.h>

#include "rig.h"

namespace ostler::bt {
namespace {

class CodeCacheTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(cache.take_arena(arena)); }

  // A block at `rip` that ends with one jump, to `target`.
  uint32_t add(uint64_t rip, uint64_t phys, uint64_t target = 0, bool shared = false) {
    const std::lock_guard lock(cache.mutex());
    const Offset at = arena.hot.next;
    Draft draft{.guest_bytes = 7, .hot = {at, at + 64}, .cold = {arena.cold.next, arena.cold.next + 16}};
    Block& block = draft.block;
    block = {.rip = rip, .phys = phys, .first_exit = arena.exits.next, .exits = 1, .shared = shared};
    block.page = shared ? cache.shared_page(phys) : cache.own_page(rip, phys);
    block.start = block.checked = at;
    block.entry = at + 16;
    block.id_field = at + 8;
    Exit& exit = cache.exit(block.first_exit);
    exit = {.target = target, .field = at + 40, .unlinked = draft.cold.next, .block = arena.blocks.next};
    exit.same_page = rip >> 12 == target >> 12;
    const uint32_t to_cold = exit.unlinked - (exit.field + 4);
    std::memcpy(cache.writable(exit.field), &to_cold, 4);
    draft.exits_end = arena.exits.next + 1;
    const InsnMap insns[] = {{.host = at + 20, .guest = 0},
                             {.host = at + 40, .guest = 5, .host_flags = true}};
    return enter(draft, insns);
  }
  uint32_t enter(Draft& draft, std::span<const InsnMap> insns) {
    uint8_t* map = cache.map_at(arena);
    Offset before = draft.block.start;
    for (size_t i = 0; i < insns.size(); ++i) {
      const unsigned end = i + 1 < insns.size() ? insns[i + 1].guest : draft.guest_bytes;
      map = CodeCache::add_to_map(map, end - insns[i].guest, insns[i].host - before, insns[i].host_flags);
      before = insns[i].host;
    }
    draft.block.first_insn = arena.insns.next;
    draft.block.count = static_cast<uint8_t>(insns.size());
    draft.insns_end = cache.map_end(map);
    return cache.number_of(cache.add(arena, draft));
  }
  uint32_t own(uint64_t linear, uint64_t phys) { return cache.known_page(linear, phys).own; }
  Offset leads_to(uint32_t exit) {
    const Offset field = cache.exit(exit).field;
    return load_le<uint32_t>(reinterpret_cast<const std::byte*>(cache.executable(field))) + field + 4;
  }
  Block& block(uint32_t number) { return cache.block(number); }

  Rig rig{Options{.cache_bytes = size_t{4} << 20}};
  CodeCache& cache = *rig.shared->cache;
  Arena arena;
};

TEST_F(CodeCacheTest, FindsABlockByPageAddressAndMode) {
  const uint32_t a = add(0x1000, 0x5000);
  const uint32_t page = own(0x1000, 0x5000);
  ASSERT_NE(page, kNone);
  EXPECT_EQ(cache.find(page, 0x1000, 0), &block(a));
  EXPECT_EQ(cache.find(page, 0x1000, mode::kSupervisor), nullptr);
  EXPECT_EQ(cache.find(page, 0x1001, 0), nullptr);
  EXPECT_EQ(own(0x1000, 0x6000), kNone);
  EXPECT_EQ(own(0x2000, 0x5000), kNone);
}

TEST_F(CodeCacheTest, AnotherPhysicalPageIsAnotherNumber) {
  const std::lock_guard lock(cache.mutex());
  EXPECT_NE(cache.own_page(0x1000, 0x5000), cache.own_page(0x1000, 0x6000));
  EXPECT_NE(cache.own_page(0x2000, 0x5000), cache.own_page(0x1000, 0x5000));
  EXPECT_EQ(cache.own_page(0x1234, 0x5234), cache.own_page(0x1000, 0x5000));
}

TEST_F(CodeCacheTest, JumpsOfTheSamePageSkipTheCheckOfThePage) {
  const uint32_t from = add(0x1000, 0x5000, 0x1100), to = add(0x1100, 0x5100);
  cache.link(block(from).first_exit, block(to), arena);
  EXPECT_EQ(leads_to(block(from).first_exit), block(to).entry);
}

TEST_F(CodeCacheTest, JumpsToAnotherPageGoByItsCheck) {
  const uint32_t from = add(0x1000, 0x5000, 0x2000), to = add(0x2000, 0x6000);
  cache.link(block(from).first_exit, block(to), arena);
  EXPECT_EQ(leads_to(block(from).first_exit), block(to).checked);
}

TEST_F(CodeCacheTest, AnExitLeadsToNoBlockOfAnotherMode) {
  const uint32_t a = add(0x1000, 0x5000, 0x1040), b = add(0x1040, 0x5040);
  const uint32_t exit = block(a).first_exit;
  const Offset unlinked = leads_to(exit);
  cache.exit(exit).mode = mode::kSupervisor | mode::kCpl0;
  cache.link(exit, block(b), arena);
  EXPECT_EQ(leads_to(exit), unlinked);
  cache.exit(exit).mode = mode::kNoWindow;  // of a block, not of the processor
  cache.link(exit, block(b), arena);
  EXPECT_EQ(leads_to(exit), block(b).entry);
}

TEST_F(CodeCacheTest, WrittenCodeIsNeitherFoundNorReached) {
  const uint32_t from = add(0x1000, 0x5000, 0x2000), to = add(0x2000, 0x6000);
  const uint32_t exit = block(from).first_exit, page = block(to).page;
  cache.link(exit, block(to), arena);
  const uint64_t writes = cache.writes();
  cache.shared_code_written(GuestPhys{0x6000}, 0, 0);
  EXPECT_GT(cache.writes(), writes);
  EXPECT_TRUE(block(to).dead);
  EXPECT_FALSE(block(from).dead);
  EXPECT_EQ(leads_to(exit), cache.exit(exit).unlinked);
  EXPECT_EQ(cache.find(page, 0x2000, 0), nullptr);
  // Who comes by a hash table or the host's stack meets a check that cannot pass.
  EXPECT_EQ(load_le<uint32_t>(reinterpret_cast<const std::byte*>(cache.executable(block(to).id_field))), ~0u);
  EXPECT_EQ(cache.statistics().killed, 1u);
}

TEST_F(CodeCacheTest, AnExitCanBeLinkedAgainAfterItsTargetWasWritten) {
  const uint32_t from = add(0x1000, 0x5000, 0x2000), to = add(0x2000, 0x6000);
  const uint32_t exit = block(from).first_exit;
  cache.link(exit, block(to), arena);
  cache.shared_code_written(GuestPhys{0x6000}, 0, 0);
  const uint32_t again = add(0x2000, 0x6000);
  cache.link(exit, block(again), arena);
  EXPECT_EQ(leads_to(exit), block(again).checked);
}

TEST_F(CodeCacheTest, AFlushForgetsBlocksAndPageNumbers) {
  add(0x1000, 0x5000);
  const uint32_t page = own(0x1000, 0x5000);
  const uint64_t generation = cache.generation();
  cache.flush();
  EXPECT_GT(cache.generation(), generation);
  EXPECT_EQ(cache.find(page, 0x1000, 0), nullptr);
  EXPECT_EQ(own(0x1000, 0x5000), kNone);
  Arena again;
  ASSERT_TRUE(cache.take_arena(again));
  EXPECT_EQ(again.number, 0u);
  EXPECT_EQ(again.hot.next, cache.arenas_start());
}

TEST_F(CodeCacheTest, HostAddressesLeadToTheirInstruction) {
  const uint32_t number = add(0x1000, 0x5000);
  InsnMap insn;
  EXPECT_EQ(cache.find_host(cache.executable(0), insn), nullptr);
  EXPECT_EQ(cache.find_host(cache.executable(arena.hot.next), insn), nullptr);
  const Offset start = block(number).start;
  EXPECT_EQ(cache.find_host(cache.executable(start), insn), nullptr);  // the entries are no instruction
  EXPECT_EQ(cache.find_host(cache.executable(start + 39), insn), &block(number));
  EXPECT_EQ(insn.guest, 0);
  EXPECT_FALSE(insn.host_flags);
  EXPECT_EQ(cache.find_host(cache.executable(start + 40), insn), &block(number));
  EXPECT_EQ(insn.guest, 5);
  EXPECT_EQ(insn.index, 1);
  EXPECT_TRUE(insn.host_flags);
  EXPECT_EQ(cache.insn_at(block(number), 5).index, 1);
  EXPECT_TRUE(cache.contains(cache.executable(0)));
  EXPECT_FALSE(cache.contains(cache.writable(0)));
}

TEST_F(CodeCacheTest, CodeFarApartInABlockIsFound) {
  const Offset at = arena.hot.next;
  const InsnMap insns[] = {
      {.host = at, .guest = 0}, {.host = at + 700, .guest = 3}, {.host = at + 701, .guest = 4}};
  Draft draft{.guest_bytes = 10, .hot = {at, at + 800}};
  draft.block = {.rip = 0x1000, .phys = 0x5000, .page = cache.own_page(0x1000, 0x5000), .start = at};
  enter(draft, insns);
  InsnMap insn;
  ASSERT_NE(cache.find_host(cache.executable(at + 701), insn), nullptr);
  EXPECT_EQ(insn.guest, 4);
  ASSERT_NE(cache.find_host(cache.executable(at + 699), insn), nullptr);
  EXPECT_EQ(insn.guest, 0);
}

TEST_F(CodeCacheTest, CodeIsFoundInEveryArena) {
  const uint32_t first = add(0x1000, 0x5000);
  Arena mine = arena, other;
  ASSERT_TRUE(cache.take_arena(other));
  arena = other;
  const uint32_t second = add(0x2000, 0x6000);
  std::swap(arena, mine);
  const uint32_t third = add(0x1100, 0x5100);
  InsnMap insn;
  for (const uint32_t number : {first, second, third})
    EXPECT_EQ(cache.find_host(cache.executable(block(number).start + 30), insn), &block(number));
  EXPECT_EQ(cache.find_host(cache.executable(mine.hot.next), insn), nullptr);
}

TEST_F(CodeCacheTest, WhoHasNoRoomLeavesAJumpUnlinkedThatNeedsSome) {
  add(0x1000, 0x5000);
  const uint32_t from = add(0x4000, 0x7000, 0x8020), to = add(0x20, 0x5000, 0, true);
  arena.cold.next = arena.cold.end - 8;
  const Offset before = leads_to(block(from).first_exit);
  cache.link(block(from).first_exit, block(to), arena);
  EXPECT_EQ(leads_to(block(from).first_exit), before);
  arena.generation = 0;
  arena.cold.next = arena.cold.end - 1000;
  cache.link(block(from).first_exit, block(to), arena);
  EXPECT_EQ(leads_to(block(from).first_exit), before) << "an arena from before a flush";
}

TEST_F(CodeCacheTest, AWrittenPageHasAnotherVersion) {
  EXPECT_EQ(cache.version_of(0x5000), 0u);
  add(0x1000, 0x5000);
  const uint64_t before = cache.version_of(0x5000);
  EXPECT_NE(before, 0u);
  add(0x8000, 0x5000);
  EXPECT_EQ(cache.version_of(0x5fff), before);
  cache.shared_code_written(GuestPhys{0x5000}, 0, 0);
  EXPECT_EQ(cache.version_of(0x5000), 0u);
  add(0x8000, 0x5000);
  EXPECT_NE(cache.version_of(0x5000), before);
}

TEST_F(CodeCacheTest, TheTableGrows) {
  uint32_t first = 0;
  for (uint64_t i = 0; i < 5000; ++i) {
    const uint32_t number = add(0x100000 + i * 8, 0x100000 + i * 8);
    if (first == 0) first = number;
  }
  EXPECT_EQ(cache.find(own(0x100000, 0x100000), 0x100000, 0), &block(first));
}

// Much of what is translated never runs again: only who fills the cache again and again gets more of it.
TEST(CodeCacheSize, GrowsWhenItFillsSoonAgain) {
  Rig rig{Options{.cache_bytes = size_t{256} << 20}};
  CodeCache& cache = *rig.shared->cache;
  const auto fill = [&cache] {
    uint32_t bytes = 0;
    for (Arena arena; cache.take_arena(arena);) bytes += arena.hot.left();
    return bytes;
  };
  const auto first = fill();
  EXPECT_LT(first, 32u << 20);
  rig.shared->make_room();
  EXPECT_NEAR(fill(), first / 2.0, first / 16.0) << "half of it was taken back";
  rig.shared->make_room();
  EXPECT_NEAR(fill(), first, first / 8.0) << "it was full again soon: half of it, and half as much again";
  rig.shared->make_room();
  EXPECT_GT(fill(), 5 * first) << "and once more";
}

// However many there are, each vCPU can have an arena, and several over time.
TEST(CodeCacheSize, IsEnoughForAllVcpus) {
  constexpr unsigned kVcpus = 64;
  mmu::VcpuGroup group;
  memory::AddressSpace space{"memory", memory::AddressSpace::kMemorySize};
  mmu::CodePages pages{space, group};
  const auto cache = value_of(CodeCache::create(pages, size_t{4} << 20, kVcpus));
  Arena arena;
  for (unsigned i = 0; i < 2 * kVcpus; ++i) {
    ASSERT_TRUE(cache->take_arena(arena));
    ASSERT_TRUE(arena.has_room(GuestCode::kMost));
  }
}

// ---- eviction ----

class Eviction : public CodeCacheTest {
 protected:
  void next_arena() { ASSERT_TRUE(cache.take_arena(arena)); }
  // All arenas are taken, the first one being the one of SetUp().
  void fill() {
    Arena other;
    while (cache.take_arena(other)) {
    }
  }
  // Of what `add` made, at these addresses.
  bool is_found(uint64_t rip, uint64_t phys) {
    const uint32_t page = own(rip, phys);
    return page != kNone && cache.find(page, rip, 0) != nullptr;
  }
  void evict() {
    fill();
    const uint64_t generation = cache.generation();
    cache.make_room();
    EXPECT_GT(cache.generation(), generation);
    EXPECT_EQ(cache.statistics().evictions, 1u);
  }
  // Takes arenas until only as many remain as to make the next one a young one.
  void young_arena() {
    std::vector<Arena> taken;
    Arena other;
    while (cache.take_arena(other)) taken.push_back(other);
    arena = taken.back();
  }
};

TEST_F(Eviction, TakesTheOlderHalf) {
  const uint32_t old_block = add(0x1000, 0x5000);
  const Offset old_start = block(old_block).start;
  young_arena();
  const uint32_t young = add(0x2000, 0x6000);
  evict();
  EXPECT_FALSE(is_found(0x1000, 0x5000));
  EXPECT_TRUE(is_found(0x2000, 0x6000));
  InsnMap insn;
  EXPECT_EQ(cache.find_host(cache.executable(old_start + 30), insn), nullptr);
  EXPECT_EQ(cache.find_host(cache.executable(block(young).start + 30), insn), &block(young));
  next_arena();
  add(0x1000, 0x5000);
  EXPECT_TRUE(is_found(0x1000, 0x5000));
}

TEST_F(Eviction, UnlinksWhatLeadsToWhatIsGone) {
  const uint32_t gone = add(0x1000, 0x5000);
  young_arena();
  const uint32_t from = add(0x2000, 0x6000, 0x1000), to = add(0x2100, 0x6100);
  const uint32_t stays = add(0x3000, 0x7000, 0x2100);
  cache.link(block(from).first_exit, block(gone), arena);
  cache.link(block(stays).first_exit, block(to), arena);
  evict();
  EXPECT_EQ(leads_to(block(from).first_exit), cache.exit(block(from).first_exit).unlinked);
  EXPECT_EQ(leads_to(block(stays).first_exit), block(to).checked);
  // The links that stay are known to their targets.
  cache.shared_code_written(GuestPhys{0x6000}, 0, 0);
  EXPECT_EQ(leads_to(block(stays).first_exit), cache.exit(block(stays).first_exit).unlinked);
}

TEST_F(Eviction, UnlinksWhatLeadsThroughWhatIsGone) {
  Arena old = arena;
  young_arena();
  add(0x1000, 0x5000);
  const uint32_t from = add(0x4000, 0x7000, 0x8020), to = add(0x20, 0x5000, 0, true);
  const uint32_t exit = block(from).first_exit;
  cache.link(exit, block(to), old);  // its way lies in the old arena
  ASSERT_NE(leads_to(exit), cache.exit(exit).unlinked);
  evict();
  EXPECT_EQ(leads_to(exit), cache.exit(exit).unlinked);
  EXPECT_EQ(cache.exit(exit).to, kNone);
}

TEST_F(Eviction, WhatStaysDiesWhenItIsWritten) {
  young_arena();
  const uint32_t number = add(0x2000, 0x6000);
  evict();
  cache.shared_code_written(GuestPhys{0x6000}, 0, 0);
  EXPECT_TRUE(block(number).dead);
  EXPECT_FALSE(is_found(0x2000, 0x6000));
}

TEST_F(Eviction, DeadBlocksDoNotComeBack) {
  young_arena();
  add(0x2000, 0x6000);
  cache.shared_code_written(GuestPhys{0x6000}, 0, 0);
  evict();
  EXPECT_FALSE(is_found(0x2000, 0x6000));
}

TEST_F(Eviction, PagesWithoutCodeLoseTheirNumbers) {
  add(0x1000, 0x5000);
  add(0x9000, 0x5000);  // the same page elsewhere
  const uint32_t number = own(0x9000, 0x5000);
  evict();
  EXPECT_EQ(own(0x9000, 0x5000), kNone);
  next_arena();
  add(0x9000, 0x5000);
  EXPECT_NE(own(0x9000, 0x5000), number);
}

// ---- code at several linear pages ----

TEST_F(CodeCacheTest, CodeIsBetterSharedOnceItsPageLiesElsewhereToo) {
  EXPECT_FALSE(cache.better_shared(0x1000, 0x5000));
  add(0x1000, 0x5000);
  EXPECT_FALSE(cache.better_shared(0x1000, 0x5000));
  EXPECT_TRUE(cache.better_shared(0x8000, 0x5000));
  EXPECT_EQ(cache.known_page(0x8000, 0x5000).shared, kNone);
  const uint32_t number = add(0x10, 0x5000, 0, true);
  const uint32_t page = cache.known_page(0x8000, 0x5000).shared;
  EXPECT_EQ(cache.find(page, 0x8010, 0), &block(number));
  EXPECT_EQ(cache.find(page, 0x9010, 0), &block(number));
  // The first linear page goes on with its own, and may use what is shared.
  EXPECT_FALSE(cache.better_shared(0x1000, 0x5000));
  EXPECT_EQ(cache.known_page(0x1000, 0x5000).shared, page);
  EXPECT_EQ(block(number).address(5, 0x8000), 0x8015u);
}

TEST_F(CodeCacheTest, SharedCodeIsReachedDirectlyOnlyFromItsOwnPage) {
  add(0x1000, 0x5000);
  const uint32_t from = add(0x10, 0x5000, 0x20, true), to = add(0x20, 0x5000, 0, true);
  const uint32_t other = add(0x30, 0x6000, 0x1020, true), own_code = add(0x4000, 0x7000, 0x8020);
  cache.link(block(from).first_exit, block(to), arena);
  EXPECT_EQ(leads_to(block(from).first_exit), block(to).entry);
  for (const uint32_t source : {other, own_code}) {
    const Offset cold = arena.cold.next;
    cache.link(block(source).first_exit, block(to), arena);
    EXPECT_EQ(leads_to(block(source).first_exit), cold) << "code that tells where it goes";
    EXPECT_GT(arena.cold.next, cold);
  }
}

TEST_F(CodeCacheTest, WrittenCodeMayBeFirstElsewhere) {
  add(0x1000, 0x5000);
  cache.shared_code_written(GuestPhys{0x5000}, 0, 0);
  EXPECT_FALSE(cache.better_shared(0x8000, 0x5000));
  EXPECT_EQ(own(0x1000, 0x5000), kNone);
}

}  // namespace
}  // namespace ostler::bt
