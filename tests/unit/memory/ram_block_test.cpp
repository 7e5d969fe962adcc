#include "memory/ram_block.h"

#include <sys/mman.h>

#include <algorithm>

#include "fixtures.h"

namespace ostler::memory {
namespace {

TEST(RamBlockTest, IsZeroAndSparse) {
  const auto block = ram_of(uint64_t{64} << 20);
  EXPECT_EQ(block->host()[0], std::byte{0});
  EXPECT_EQ(block->host()[block->size() - 1], std::byte{0});
  // Of the other half not a page has been taken.
  std::vector<unsigned char> present(block->size() / 2 / kPageSize);
  ASSERT_EQ(mincore(block->host() + block->size() / 4, block->size() / 2, present.data()), 0);
  EXPECT_EQ(std::count(present.begin(), present.end(), 1), 0) << "memory is taken as it is touched";
}

TEST(RamBlockTest, StartsWhereAHugePageDoesWithNothingBesideIt) {
  const auto block = ram_of(uint64_t{4} << 20);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(block->host()) % (2u << 20), 0u);
  EXPECT_DEATH(block->host()[-1] = std::byte{1}, "");
  EXPECT_DEATH(block->host()[block->size()] = std::byte{1}, "");
}

TEST(RamBlockTest, RefusesMoreThanTheHostHas) {
  const auto block = RamBlock::create({.name = "pc.ram", .size = uint64_t{1} << 50});
  ASSERT_FALSE(block);
  EXPECT_EQ(block.error().kind(), ErrorKind::kNoResource);
  EXPECT_NE(block.error().message().find("pc.ram"), std::string::npos);
  EXPECT_NE(block.error().message().find("1048576 GiB"), std::string::npos) << block.error().message();
}

TEST(RamBlockTest, RefusesBrokenPages) {
  EXPECT_FALSE(RamBlock::create({.name = "x", .size = 0}));
  EXPECT_FALSE(RamBlock::create({.name = "x", .size = 4097}));
}

TEST(RamBlockTest, DirtyLogReportsEachPageOncePerEpoch) {
  const auto block = ram_of(130 * kPageSize);
  std::vector<uint64_t> bitmap;
  block->note_dirty(0);
  block->collect_dirty(bitmap);
  EXPECT_EQ(bitmap, (std::vector<uint64_t>{0, 0, 0})) << "not logging";
  block->start_dirty_log();
  block->note_dirty(5 * kPageSize);
  block->note_dirty(5 * kPageSize + 100);
  block->note_dirty(129 * kPageSize);
  block->collect_dirty(bitmap);
  EXPECT_EQ(bitmap, (std::vector<uint64_t>{1u << 5, 0, 2}));
  bitmap.clear();
  block->note_dirty(129 * kPageSize);
  block->collect_dirty(bitmap);
  EXPECT_EQ(bitmap, (std::vector<uint64_t>{0, 0, 2}));
  bitmap.clear();
  block->note_dirty(0);
  block->stop_dirty_log();
  block->collect_dirty(bitmap);
  EXPECT_EQ(bitmap, (std::vector<uint64_t>{0, 0, 0}));
}

}  // namespace
}  // namespace ostler::memory
