// What a disk tells of itself: capacity, pages, states.
#include "devices/scsi/disk.h"

#include "fixture.h"

namespace ostler::scsi::test {
namespace {

constexpr uint64_t kBytes = rigs::MemoryNode::kBytes;

class DiskTest : public UnitTest {
 protected:
  void start() { plug(std::make_unique<Disk>(node, options)); }
  // A mode page by MODE SENSE (6), without block descriptor.
  std::string page(uint8_t number, uint8_t values = 0) {
    return answer({0x1a, 8, static_cast<uint8_t>(values << 6 | number), 0, 255, 0}).substr(4);
  }
  bool caches() { return (page(8)[2] & 4) != 0; }
  // MODE SELECT (6) of a page that is told with its current values but for one byte.
  Sense select(uint8_t number, size_t at, uint8_t value) {
    std::string changed = page(number);
    changed[at] = static_cast<char>(value);
    const std::string list = std::string(4, '\0') + changed;
    return sense({0x15, 0x10, 0, 0, static_cast<uint8_t>(list.size()), 0}, list);
  }
};

TEST_F(DiskTest, capacity) {
  start();
  const std::string ten = answer({0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0});
  EXPECT_EQ(number(ten, 0, 4), kBytes / 512 - 1);
  EXPECT_EQ(number(ten, 4, 4), 512u);
  const std::string long_one = answer(cdb(0x9e, 16, 2, 8, 0, 10, 4, 32, 0x10));
  EXPECT_EQ(number(long_one, 0, 8), kBytes / 512 - 1);
  EXPECT_EQ(number(long_one, 8, 4), 512u);
  EXPECT_EQ(long_one[14] & 0xff, 0x80);
}

TEST_F(DiskTest, capacity_of_larger_blocks) {
  options.logical_block_size = 2048;
  options.physical_block_size = 8192;
  start();
  const std::string data = answer(cdb(0x9e, 16, 2, 8, 0, 10, 4, 32, 0x10));
  EXPECT_EQ(number(data, 0, 8), kBytes / 2048 - 1);
  EXPECT_EQ(number(data, 8, 4), 2048u);
  EXPECT_EQ(data[13], 2);
}

TEST_F(DiskTest, capacity_with_an_address_is_refused) {
  start();
  EXPECT_EQ(sense({0x25, 0, 0, 0, 0, 1, 0, 0, 0, 0}, {}, 8), sense::kInvalidField);
  EXPECT_EQ(sense(cdb(0x9e, 16, 2, 8, 1, 10, 4, 32, 0x10), {}, 32), sense::kInvalidField);
  EXPECT_EQ(sense(cdb(0x9e, 16, 2, 8, 0, 10, 4, 32, 0x12), {}, 32), sense::kInvalidField);
}

TEST_F(DiskTest, another_size_is_an_attention_and_told) {
  start();
  node->data.resize(2 * kBytes);
  node->resized();
  EXPECT_EQ(controller.told, std::vector<Sense>{sense::kCapacityChanged});
  EXPECT_EQ(sense(ten(0x28, 0, 1), {}, 512), sense::kCapacityChanged);
  EXPECT_EQ(number(answer({0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0}), 0, 4), 2 * kBytes / 512 - 1);
}

TEST_F(DiskTest, block_limits) {
  options.min_io_size = 4096;
  options.opt_io_size = 65536;
  options.max_unmap_size = 8192;
  options.discard_granularity = 1024;
  start();
  const std::string data = answer({0x12, 1, 0xb0, 0, 255, 0});
  ASSERT_EQ(data.size(), 64u);
  EXPECT_EQ(data[4], 1);
  EXPECT_EQ(number(data, 6, 2), 8u);
  EXPECT_EQ(number(data, 12, 4), 128u);
  EXPECT_EQ(number(data, 20, 4), 16u);
  EXPECT_EQ(number(data, 24, 4), Disk::kMostUnmapRanges);
  EXPECT_EQ(number(data, 28, 4), 2u);
  EXPECT_EQ(number(data, 36, 8), Disk::kMostWriteSameBytes / 512);
}

TEST_F(DiskTest, characteristics) {
  options.rotation_rate = 7200;
  start();
  EXPECT_EQ(number(answer({0x12, 1, 0xb1, 0, 255, 0}), 4, 2), 7200u);
}

TEST_F(DiskTest, provisioning) {
  start();
  EXPECT_EQ(number(answer({0x12, 1, 0xb2, 0, 255, 0}), 4, 4), 0x00e00200u);
}

TEST_F(DiskTest, disk_that_takes_nothing_back) {
  options.discard_granularity = 0;
  start();
  EXPECT_EQ(number(answer({0x12, 1, 0xb2, 0, 255, 0}), 4, 4), 0u);
  EXPECT_EQ(number(answer({0x12, 1, 0xb0, 0, 255, 0}), 20, 8), 0u);
  EXPECT_EQ(answer(cdb(0x9e, 16, 2, 8, 0, 10, 4, 32, 0x10))[14], 0);
}

TEST_F(DiskTest, mode_sense_of_all_pages) {
  start();
  const std::string six = answer({0x1a, 0, 0x3f, 0, 255, 0});
  EXPECT_EQ(number(six, 0, 1), six.size() - 1);
  EXPECT_EQ(number(six, 3, 1), 8u);
  EXPECT_EQ(number(six, 4, 4), kBytes / 512);
  EXPECT_EQ(number(six, 9, 3), 512u);
  EXPECT_EQ(six.size(), 4u + 8 + 12 + 20 + 12);
  const std::string with_ten = answer({0x5a, 8, 0x3f, 0, 0, 0, 0, 1, 0, 0});
  EXPECT_EQ(number(with_ten, 0, 2), with_ten.size() - 2);
  EXPECT_EQ(number(with_ten, 6, 2), 0u);
  EXPECT_EQ(with_ten.substr(8), six.substr(12));
}

TEST_F(DiskTest, mode_sense_refusals) {
  start();
  EXPECT_EQ(sense({0x1a, 0, 0x1c, 0, 255, 0}, {}, 255), sense::kInvalidField);
  EXPECT_EQ(sense({0x1a, 0, 0x08, 1, 255, 0}, {}, 255), sense::kInvalidField);
  EXPECT_EQ(sense({0x1a, 0, 0xc8, 0, 255, 0}, {}, 255), sense::kSavingUnsupported);
}

TEST_F(DiskTest, write_cache_is_that_of_the_drive) {
  start();
  EXPECT_TRUE(caches());
  unit->connect(nullptr);
  node->writes_are_stable = true;
  start();
  EXPECT_FALSE(caches());
  unit->connect(nullptr);
  options.write_cache = config::OnOffAuto::kOn;
  start();
  EXPECT_TRUE(caches());
}

TEST_F(DiskTest, write_cache_is_turned_off_by_the_guest) {
  start();
  EXPECT_EQ(page(8, 1)[2], 4);  // it can be
  EXPECT_EQ(select(8, 2, 0), sense::kNone);
  EXPECT_FALSE(caches());
  EXPECT_EQ(node->flushes, 1);
  EXPECT_EQ(page(8, 2)[2], 4);  // the default is as it was
  EXPECT_EQ(sense(ten(0x2a, 0, 1), std::string(512, 'x')), sense::kNone);
  EXPECT_EQ(node->flushes, 2);
  unit->reset();
  EXPECT_EQ(sense({0x00}), sense::kReset);
  EXPECT_TRUE(caches());
}

TEST_F(DiskTest, mode_select_of_anything_else_is_refused) {
  start();
  EXPECT_EQ(select(8, 2, 5), sense::kInvalidParameter);
  EXPECT_EQ(select(1, 3, 9), sense::kInvalidParameter);
  EXPECT_EQ(select(8, 0, 0x1c), sense::kInvalidParameter);
  EXPECT_EQ(select(8, 1, 30), sense::kInvalidParameter);
  EXPECT_EQ(select(0x0a, 3, 0x10), sense::kNone);
  EXPECT_TRUE(caches());
}

TEST_F(DiskTest, mode_select_lengths) {
  start();
  const std::string list = std::string(4, '\0') + page(8);
  EXPECT_EQ(sense({0x15, 0x10, 0, 0, 23, 0}, list), sense::kParameterListLength);
  EXPECT_EQ(sense({0x15, 0x10, 0, 0, 3, 0}, list), sense::kParameterListLength);
  EXPECT_EQ(sense({0x15, 0x10, 0, 0, 0, 0}, list), sense::kNone);
  EXPECT_EQ(sense({0x15, 0x11, 0, 0, 24, 0}, list), sense::kInvalidField);
  EXPECT_EQ(sense({0x15, 0x00, 0, 0, 24, 0}, list), sense::kInvalidField);
  EXPECT_TRUE(begin({0x15, 0x10, 0, 0, 24, 0}, list.substr(0, 10))->overrun);
  std::string with_descriptor = std::string("\0\0\0\x08", 4) + std::string("\0\0\0\0\0\0\x02\0", 8) + page(8);
  EXPECT_EQ(sense({0x15, 0x10, 0, 0, 32, 0}, with_descriptor), sense::kNone);
  with_descriptor[10] = 4;  // blocks of 1024 bytes
  EXPECT_EQ(sense({0x15, 0x10, 0, 0, 32, 0}, with_descriptor), sense::kInvalidParameter);
  with_descriptor[3] = 16;
  EXPECT_EQ(sense({0x15, 0x10, 0, 0, 32, 0}, with_descriptor), sense::kInvalidParameter);
}

TEST_F(DiskTest, mode_select_of_ten_bytes) {
  start();
  std::string list = std::string(8, '\0') + page(8);
  list[10] = 0;
  EXPECT_EQ(sense({0x55, 0x10, 0, 0, 0, 0, 0, 0, 28, 0}, list), sense::kNone);
  EXPECT_FALSE(caches());
}

TEST_F(DiskTest, read_only_disk) {
  node->is_read_only = true;
  start();
  EXPECT_EQ(answer({0x1a, 8, 0x08, 0, 255, 0})[2] & 0x80, 0x80);
  EXPECT_EQ(sense(ten(0x2a, 0, 1), std::string(512, 'x')), sense::kWriteProtected);
  EXPECT_EQ(sense(ten(0x42, 0, 24), std::string(24, '\0')), sense::kWriteProtected);
  EXPECT_EQ(sense(ten(0x41, 0, 1), std::string(512, '\0')), sense::kWriteProtected);
  EXPECT_EQ(sense(ten(0x28, 0, 1), {}, 512), sense::kNone);
  EXPECT_EQ(node->data[0], '\0');
}

TEST_F(DiskTest, fua_is_told_when_wanted) {
  options.dpofua = true;
  start();
  EXPECT_EQ(answer({0x1a, 8, 0x08, 0, 255, 0})[2], 0x10);
}

TEST_F(DiskTest, stopped_disk_has_to_be_started) {
  start();
  EXPECT_EQ(sense({0x1b, 0, 0, 0, 0, 0}), sense::kNone);
  EXPECT_EQ(node->flushes, 1);
  EXPECT_EQ(sense({0x00}), sense::kStopped);
  EXPECT_EQ(sense(ten(0x28, 0, 1), {}, 512), sense::kStopped);
  EXPECT_EQ(sense({0x1a, 8, 0x08, 0, 255, 0}, {}, 255), sense::kNone);
  EXPECT_EQ(sense({0x1b, 0, 0, 0, 0x30, 0}), sense::kNone);  // a power condition
  EXPECT_EQ(sense({0x00}), sense::kStopped);
  EXPECT_EQ(sense({0x1b, 0, 0, 0, 1, 0}), sense::kNone);
  EXPECT_EQ(sense({0x00}), sense::kNone);
}

TEST_F(DiskTest, prevent_removal) {
  start();
  EXPECT_EQ(sense({0x1e, 0, 0, 0, 1, 0}), sense::kNone);
}

TEST_F(DiskTest, resumed_is_passed_on) {
  start();
  node->resume();
  EXPECT_EQ(controller.resumed, 1);
}

TEST_F(DiskTest, state_survives) {
  start();
  EXPECT_EQ(select(8, 2, 0), sense::kNone);
  EXPECT_EQ(sense({0x1b, 0, 0, 0, 0, 0}), sense::kNone);
  node->resized();
  state::Saver saver;
  unit->state(saver);
  const auto saved = saver.take();
  unit->reset();
  state::Loader loader(saved);
  unit->state(loader);
  ASSERT_TRUE(loader.finish());
  EXPECT_EQ(sense({0x00}), sense::kCapacityChanged);
  EXPECT_EQ(sense({0x00}), sense::kStopped);
  EXPECT_FALSE(caches());
}

TEST_F(DiskTest, state_of_another_size_is_refused) {
  start();
  state::Saver saver;
  unit->state(saver);
  const auto saved = saver.take();
  node->data.resize(2 * kBytes);
  state::Loader loader(saved);
  unit->state(loader);
  EXPECT_FALSE(loader.finish());
}

}  // namespace
}  // namespace ostler::scsi::test
