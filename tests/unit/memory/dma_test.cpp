#include "memory/dma.h"

#include <array>

#include "base/bytes.h"

#include "fixtures.h"

namespace ostler::memory {
namespace {

constexpr uint64_t kRam = 0x10000;

// RAM [0, 64 KiB), ROM [64 KiB, 68 KiB), I/O [128 KiB, 132 KiB), RAM in the last page of the space.
class DmaTest : public ::testing::Test {
 protected:
  DmaTest() {
    Transaction change(space);
    change.add(space.root(), 0, ram);
    change.add(space.root(), kRam, rom);
    change.add(space.root(), 0x20000, mmio);
    change.add(space.root(), AddressSpace::kMemorySize - 0x1000, top);
  }
  AddressSpace space{"memory", AddressSpace::kMemorySize};
  std::shared_ptr<RamBlock> block = ram_of(kRam), rom_block = ram_of(0x1000), top_block = ram_of(0x1000);
  RecordingHandler io;
  RamRegion ram{"ram", block}, top{"top", top_block};
  RomRegion rom{"rom", rom_block};
  IoRegion mmio{"mmio", io, 0x1000};
  Dma dma{space};
  std::array<std::byte, 64> buffer{};
};

TEST_F(DmaTest, CopiesBothWays) {
  const std::array<std::byte, 4> data{std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}};
  EXPECT_TRUE(dma.write({0x1ffe}, data));
  EXPECT_EQ(dma.read_le<uint32_t>({0x1ffe}), 0x04030201u);
  EXPECT_TRUE(dma.write_le<uint64_t>({0x3001}, 0x1122334455667788));
  EXPECT_TRUE(dma.read({0x3001}, std::span(buffer).first(8)));
  EXPECT_EQ(load_le<uint64_t>(buffer.data()), 0x1122334455667788u);
}

TEST_F(DmaTest, RefusesEverythingButRam) {
  EXPECT_FALSE(dma.read({0x20000}, buffer)) << "MMIO";
  EXPECT_FALSE(dma.write({0x20000}, buffer));
  EXPECT_FALSE(dma.read_le<uint32_t>({0x20ffe}));
  EXPECT_FALSE(dma.read({0x30000}, buffer)) << "a hole";
  EXPECT_TRUE(dma.read({kRam}, buffer)) << "ROM may be read";
  EXPECT_FALSE(dma.write({kRam}, buffer)) << "ROM may not be written";
  EXPECT_FALSE(dma.write_le<uint8_t>({kRam}, 1));
  EXPECT_TRUE(io.accesses.empty());
}

TEST_F(DmaTest, ARefusedWriteHasWrittenNothing) {
  std::array<std::byte, 64> ones;
  ones.fill(std::byte{0xff});
  EXPECT_FALSE(dma.write({kRam - 32}, ones)) << "runs into ROM";
  EXPECT_EQ(dma.read_le<uint64_t>({kRam - 32}), 0u);
}

TEST_F(DmaTest, RangesMayNotWrapAround) {
  EXPECT_TRUE(dma.accessible({AddressSpace::kMemorySize - 64}, 64, Direction::kToGuest));
  EXPECT_FALSE(dma.accessible({AddressSpace::kMemorySize - 64}, 65, Direction::kToGuest));
  EXPECT_FALSE(dma.accessible({~uint64_t{0}}, 2, Direction::kToGuest));
  EXPECT_FALSE(dma.accessible({0}, ~uint64_t{0}, Direction::kFromGuest));
  EXPECT_FALSE(dma.accessible({1}, ~uint64_t{0}, Direction::kFromGuest));
  Mapping mapping;
  EXPECT_FALSE(dma.map({~uint64_t{0} - 7}, 16, Direction::kFromGuest, mapping));
  EXPECT_FALSE(dma.read_le<uint64_t>({~uint64_t{0} - 3}));
  EXPECT_TRUE(mapping.spans.empty());
}

TEST_F(DmaTest, EmptyTransfersAreAllowedAnywhere) {
  EXPECT_TRUE(dma.read({0x20000}, {}));
  Mapping mapping;
  EXPECT_TRUE(dma.map({~uint64_t{0}}, 0, Direction::kToGuest, mapping));
  EXPECT_TRUE(mapping.spans.empty());
}

TEST_F(DmaTest, MapsOneSpanForEachPieceOfHostMemory) {
  Mapping mapping;
  ASSERT_TRUE(dma.map({kRam - 0x100}, 0x200, Direction::kFromGuest, mapping));
  ASSERT_EQ(mapping.spans.size(), 2u);
  EXPECT_EQ(mapping.spans[0].iov_base, block->host() + kRam - 0x100);
  EXPECT_EQ(mapping.spans[0].iov_len, 0x100u);
  EXPECT_EQ(mapping.spans[1].iov_base, rom_block->host());
  EXPECT_EQ(mapping.bytes, 0x200u);
  EXPECT_FALSE(dma.map({kRam - 0x100}, 0x200, Direction::kToGuest, mapping));
  EXPECT_EQ(mapping.spans.size(), 2u) << "a refused mapping adds nothing";
}

TEST_F(DmaTest, MappingsAreBounded) {
  Mapping mapping;
  EXPECT_TRUE(dma.map({0}, 16, Direction::kFromGuest, mapping, 1));
  EXPECT_FALSE(dma.map({0x100}, 16, Direction::kFromGuest, mapping, 1));
  EXPECT_EQ(mapping.bytes, 16u);
}

TEST_F(DmaTest, MappingsKeepMemoryThatIsUnplugged) {
  Mapping mapping;
  ASSERT_TRUE(dma.map({AddressSpace::kMemorySize - 0x1000}, 8, Direction::kToGuest, mapping));
  std::weak_ptr<RamBlock> watch;
  {
    auto own = ram_of(0x1000);
    watch = own;
    RamRegion extra("extra", std::move(own));
    Transaction(space).add(space.root(), 0x40000, extra);
    ASSERT_TRUE(dma.map({0x40000}, 8, Direction::kToGuest, mapping));
    Transaction(space).remove(extra);
  }
  EXPECT_FALSE(dma.accessible({0x40000}, 8, Direction::kToGuest));
  EXPECT_FALSE(watch.expired());
  *static_cast<uint8_t*>(mapping.spans.back().iov_base) = 1;
  mapping = {};
  EXPECT_TRUE(watch.expired());
}

TEST_F(DmaTest, VirtqueueIndicesMustBeAligned) {
  EXPECT_TRUE(dma.store_release<uint16_t>({0x100}, 0x1234));
  EXPECT_EQ(dma.load_acquire<uint16_t>({0x100}), 0x1234);
  EXPECT_FALSE(dma.load_acquire<uint16_t>({0x101}));
  EXPECT_FALSE(dma.store_release<uint16_t>({0x101}, 1));
  EXPECT_FALSE(dma.store_release<uint16_t>({kRam}, 1)) << "ROM";
}

TEST_F(DmaTest, FollowsCommits) {
  EXPECT_TRUE(dma.accessible({0}, 1, Direction::kFromGuest));
  { Transaction(space).move(ram, 0x100000); }
  EXPECT_FALSE(dma.accessible({0}, 1, Direction::kFromGuest));
  EXPECT_FALSE(dma.read_le<uint8_t>({0}));
  EXPECT_TRUE(dma.read_le<uint8_t>({0x100000}));
}

TEST_F(DmaTest, WritesEnterTheDirtyLog) {
  block->start_dirty_log();
  std::vector<uint64_t> bitmap;
  EXPECT_TRUE(dma.write_le<uint32_t>({0x2fff}, 1)) << "two pages";
  EXPECT_TRUE(dma.store_release<uint16_t>({0x5000}, 1));
  EXPECT_TRUE(dma.fill({0x7000}, 1, std::byte{1}));
  EXPECT_TRUE(dma.read({0x9000}, buffer));
  Mapping mapping;
  ASSERT_TRUE(dma.map({0xa000}, 0x3000, Direction::kToGuest, mapping));
  dma.written(mapping, 0x1001);
  block->collect_dirty(bitmap);
  EXPECT_EQ(bitmap, (std::vector<uint64_t>{0b1100'1010'1100}));
}

struct CodeRecorder : CodeListener {
  void code_written(RamBlock& ram, uint64_t offset, uint64_t length) override {
    calls.push_back({&ram, offset, length});
  }
  struct Call {
    RamBlock* ram;
    uint64_t offset, length;
    friend bool operator==(const Call&, const Call&) = default;
  };
  std::vector<Call> calls;
};

TEST_F(DmaTest, WritesToPagesWithCodeAreReportedPageByPage) {
  CodeRecorder recorder;
  space.set_code_listener(&recorder);
  block->flags(0x3000).fetch_or(page_flag::kCode);
  block->flags(0x4000).fetch_or(page_flag::kCode);
  EXPECT_TRUE(dma.fill({0x2ff0}, 0x1020, std::byte{1}));
  EXPECT_TRUE(dma.write_le<uint32_t>({0x1000}, 1));
  EXPECT_EQ(recorder.calls,
            (std::vector<CodeRecorder::Call>{{block.get(), 0x3000, 0x1000}, {block.get(), 0x4000, 0x10}}));
}

}  // namespace
}  // namespace ostler::memory
