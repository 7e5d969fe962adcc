// Links, overwritten code and flushes, on blocks whose code is never run.
#include "bt/code_cache.h"

#include <gtest/gtest.h>

#include "rig.h"

namespace ostler::bt {
namespace {

class CodeCacheTest : public ::testing::Test {
 protected:
  // A block at `rip` that ends with one jump, to `target`.
  uint32_t add(uint64_t rip, uint64_t phys, uint64_t target = 0) {
    const std::lock_guard lock(cache.mutex());
    const Offset at = cache.hot();
    Block block{.rip = rip, .phys = phys, .page = cache.page_number(rip, phys)};
    block.checked = at;
    block.entry = at + 16;
    block.end = at + 64;
    block.id_fields[0] = at + 8;
    block.first_exit = cache.next_exit();
    block.exits = 1;
    Exit& exit = cache.add_exit();
    exit.target = target;
    exit.field = at + 40;
    exit.unlinked = cache.cold();
    exit.block = cache.next_block();
    exit.same_page = rip >> 12 == target >> 12;
    const uint32_t to_cold = exit.unlinked - (exit.field + 4);
    std::memcpy(cache.writable(exit.field), &to_cold, 4);
    return cache.number_of(cache.add(block, at + 64, cache.cold() + 16));
  }
  Offset leads_to(uint32_t exit) {
    const Offset field = cache.exit(exit).field;
    return load_le<uint32_t>(reinterpret_cast<const std::byte*>(cache.executable(field))) + field + 4;
  }
  Block& block(uint32_t number) { return cache.block(number); }

  Rig rig{Options{.cache_bytes = size_t{4} << 20}};
  CodeCache& cache = *rig.shared->cache;
};

TEST_F(CodeCacheTest, FindsABlockByPageAddressAndMode) {
  const uint32_t a = add(0x1000, 0x5000);
  const uint32_t page = cache.known_page_number(0x1000, 0x5000);
  ASSERT_NE(page, kNone);
  EXPECT_EQ(cache.find(page, 0x1000, 0), &block(a));
  EXPECT_EQ(cache.find(page, 0x1000, mode::kSupervisor), nullptr);
  EXPECT_EQ(cache.find(page, 0x1001, 0), nullptr);
  EXPECT_EQ(cache.known_page_number(0x1000, 0x6000), kNone);
  EXPECT_EQ(cache.known_page_number(0x2000, 0x5000), kNone);
}

TEST_F(CodeCacheTest, AnotherPhysicalPageIsAnotherNumber) {
  const std::lock_guard lock(cache.mutex());
  EXPECT_NE(cache.page_number(0x1000, 0x5000), cache.page_number(0x1000, 0x6000));
  EXPECT_EQ(cache.page_number(0x1234, 0x5234), cache.page_number(0x1000, 0x5000));
}

TEST_F(CodeCacheTest, JumpsOfTheSamePageSkipTheCheckOfThePage) {
  const uint32_t from = add(0x1000, 0x5000, 0x1100), to = add(0x1100, 0x5100);
  cache.link(block(from).first_exit, block(to));
  EXPECT_EQ(leads_to(block(from).first_exit), block(to).entry);
}

TEST_F(CodeCacheTest, JumpsToAnotherPageGoByItsCheck) {
  const uint32_t from = add(0x1000, 0x5000, 0x2000), to = add(0x2000, 0x6000);
  cache.link(block(from).first_exit, block(to));
  EXPECT_EQ(leads_to(block(from).first_exit), block(to).checked);
}

TEST_F(CodeCacheTest, WrittenCodeIsNeitherFoundNorReached) {
  const uint32_t from = add(0x1000, 0x5000, 0x2000), to = add(0x2000, 0x6000);
  const uint32_t exit = block(from).first_exit, page = block(to).page;
  cache.link(exit, block(to));
  const uint64_t writes = cache.writes();
  cache.shared_code_written(GuestPhys{0x6000}, 0, 0);
  EXPECT_GT(cache.writes(), writes);
  EXPECT_TRUE(block(to).dead);
  EXPECT_FALSE(block(from).dead);
  EXPECT_EQ(leads_to(exit), cache.exit(exit).unlinked);
  EXPECT_EQ(cache.find(page, 0x2000, 0), nullptr);
  // Who comes by a hash table or the host's stack meets a check that cannot pass.
  EXPECT_EQ(load_le<uint32_t>(reinterpret_cast<const std::byte*>(cache.executable(block(to).id_fields[0]))),
            ~0u);
  EXPECT_EQ(cache.statistics().killed, 1u);
}

TEST_F(CodeCacheTest, AnExitCanBeLinkedAgainAfterItsTargetWasWritten) {
  const uint32_t from = add(0x1000, 0x5000, 0x2000), to = add(0x2000, 0x6000);
  const uint32_t exit = block(from).first_exit;
  cache.link(exit, block(to));
  cache.shared_code_written(GuestPhys{0x6000}, 0, 0);
  const uint32_t again = add(0x2000, 0x6000);
  cache.link(exit, block(again));
  EXPECT_EQ(leads_to(exit), block(again).checked);
}

TEST_F(CodeCacheTest, AFlushForgetsBlocksAndPageNumbers) {
  add(0x1000, 0x5000);
  const uint32_t page = cache.known_page_number(0x1000, 0x5000);
  const Offset hot = cache.hot(), cold = cache.cold();
  const uint64_t generation = cache.generation();
  EXPECT_FALSE(cache.is_stale(page));
  cache.flush();
  EXPECT_GT(cache.generation(), generation);
  EXPECT_EQ(cache.find(page, 0x1000, 0), nullptr);
  EXPECT_EQ(cache.known_page_number(0x1000, 0x5000), kNone);
  EXPECT_LT(cache.hot(), hot);
  EXPECT_LT(cache.cold(), cold);
}

// TLBs keep numbers over a flush: one that came again for another page would pass the check at a block's
// entry.
TEST_F(CodeCacheTest, NumbersOfPagesDoNotComeAgainAfterAFlush) {
  add(0x1000, 0x5000);
  const uint32_t before = cache.known_page_number(0x1000, 0x5000);
  cache.flush();
  add(0x1000, 0x7000);
  EXPECT_TRUE(cache.is_stale(before));
  EXPECT_NE(cache.known_page_number(0x1000, 0x7000), before);
}

TEST_F(CodeCacheTest, HostAddressesLeadToTheirInstruction) {
  const uint32_t number = add(0x1000, 0x5000);
  InsnMap insn;
  EXPECT_EQ(cache.find_host(cache.executable(0), insn), nullptr);
  EXPECT_EQ(cache.find_host(cache.executable(block(number).end), insn), nullptr);
  EXPECT_TRUE(cache.contains(cache.executable(0)));
  EXPECT_FALSE(cache.contains(cache.writable(0)));
}

}  // namespace
}  // namespace ostler::bt
