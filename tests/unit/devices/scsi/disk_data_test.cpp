// Commands that move data or give space back, and what their errors become.
#include <cerrno>

#include "devices/scsi/disk.h"
#include "fixture.h"

namespace ostler::scsi::test {
namespace {

constexpr uint64_t kBytes = rigs::MemoryNode::kBytes, kBlocks = kBytes / 512;

class DiskData : public UnitTest {
 protected:
  void start() { plug(std::make_unique<Disk>(node, options)); }
  // A parameter list of UNMAP.
  static std::string list(const std::vector<std::pair<uint64_t, uint32_t>>& ranges) {
    Bytes bytes(8 + 16 * ranges.size());
    put(bytes, 0, bytes.size() - 2, 2);
    put(bytes, 2, 16 * ranges.size(), 2);
    for (size_t i = 0; i < ranges.size(); ++i) {
      put(bytes, 8 + 16 * i, ranges[i].first, 8);
      put(bytes, 16 + 16 * i, ranges[i].second, 4);
    }
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  Sense unmap(const std::string& parameters) {
    return sense(ten(0x42, 0, static_cast<uint16_t>(parameters.size())), parameters);
  }
  using Ranges = std::vector<std::pair<uint64_t, uint64_t>>;
};

TEST_F(DiskData, reads_of_all_lengths) {
  start();
  node->data.replace(1024, 5, "hello");
  const Cdb commands[] = {{0x08, 0, 0, 2, 1, 0}, ten(0x28, 2, 1), twelve(0xa8, 2, 1), sixteen(0x88, 2, 1)};
  for (const Cdb& command : commands) {
    const std::string data = answer(command);
    EXPECT_EQ(data.size(), 512u);
    EXPECT_EQ(data.substr(0, 5), "hello");
  }
}

TEST_F(DiskData, writes_of_all_lengths) {
  start();
  const Cdb commands[] = {{0x0a, 0, 0, 2, 1, 0}, ten(0x2a, 3, 1), twelve(0xaa, 4, 1), sixteen(0x8a, 5, 1)};
  for (size_t i = 0; i < 4; ++i) {
    const std::string data(512, static_cast<char>('a' + i));
    EXPECT_EQ(sense(commands[i], data), sense::kNone);
    EXPECT_EQ(node->data.substr(512 * (2 + i), 512), data);
  }
  EXPECT_EQ(node->flushes, 0);
}

TEST_F(DiskData, six_bytes_of_no_count_are_256_blocks) {
  node->data.resize(256 * 512);
  start();
  EXPECT_EQ(answer({0x08, 0, 0, 0, 0, 0}, 256 * 512).size(), 256u * 512);
}

TEST_F(DiskData, no_blocks_are_no_error) {
  start();
  EXPECT_EQ(answer(ten(0x28, 0, 0)).size(), 0u);
  EXPECT_EQ(sense(ten(0x28, kBlocks, 0)), sense::kNone);
  EXPECT_EQ(sense(ten(0x2a, 0, 0)), sense::kNone);
}

TEST_F(DiskData, beyond_the_end) {
  start();
  EXPECT_EQ(sense(ten(0x28, kBlocks - 1, 1), {}, 512), sense::kNone);
  EXPECT_EQ(sense(ten(0x28, kBlocks - 1, 2), {}, 1024), sense::kOutOfRange);
  EXPECT_EQ(sense(sixteen(0x88, ~uint64_t{0}, 1), {}, 512), sense::kOutOfRange);
  EXPECT_EQ(sense(sixteen(0x8a, ~uint64_t{0} / 512 + 1, 1), std::string(512, 'x')), sense::kOutOfRange);
  EXPECT_EQ(sense(sixteen(0x8a, 0, ~uint32_t{0}), std::string(512, 'x')), sense::kOutOfRange);
  EXPECT_EQ(sense(ten(0x35, kBlocks, 1)), sense::kOutOfRange);
  EXPECT_EQ(sense(ten(0x2f, kBlocks, 1)), sense::kOutOfRange);
}

TEST_F(DiskData, too_little_room_does_nothing) {
  start();
  const auto read = begin(ten(0x28, 0, 2), {}, 1000);
  EXPECT_TRUE(read->overrun);
  EXPECT_EQ(read->room, std::string(1000, '?'));
  EXPECT_TRUE(begin(ten(0x2a, 0, 2), std::string(1000, 'x'))->overrun);
  EXPECT_EQ(node->data[0], '\0');
}

TEST_F(DiskData, more_room_than_data) {
  start();
  EXPECT_EQ(answer(ten(0x28, 0, 1), 2048).size(), 512u);
  const auto write = begin(ten(0x2a, 0, 1), std::string(2048, 'x'));
  EXPECT_EQ(write->transferred, 512u);
  EXPECT_EQ(node->data[512], '\0');
}

TEST_F(DiskData, protection_information_is_refused) {
  start();
  EXPECT_EQ(sense(ten(0x28, 0, 1, 0x20), {}, 512), sense::kInvalidField);
  EXPECT_EQ(sense(ten(0x2a, 0, 1, 0x20), std::string(512, 'x')), sense::kInvalidField);
}

TEST_F(DiskData, fua_writes_are_flushed) {
  start();
  EXPECT_EQ(sense(ten(0x2a, 0, 1, 8), std::string(512, 'x')), sense::kNone);
  EXPECT_EQ(node->flushes, 1);
}

TEST_F(DiskData, verify) {
  start();
  EXPECT_EQ(sense(ten(0x2f, 0, 1)), sense::kNone);
  EXPECT_EQ(sense(twelve(0xaf, 0, 1)), sense::kNone);
  EXPECT_EQ(sense(sixteen(0x8f, 0, 1)), sense::kNone);
  EXPECT_EQ(sense(ten(0x2f, 0, 1, 2)), sense::kInvalidField);  // with data to compare
}

TEST_F(DiskData, synchronize_cache) {
  start();
  EXPECT_EQ(sense(ten(0x35, 0, 0)), sense::kNone);
  EXPECT_EQ(sense(sixteen(0x91, 0, 0)), sense::kNone);
  EXPECT_EQ(node->flushes, 2);
}

TEST_F(DiskData, unmap_of_several_ranges) {
  start();
  EXPECT_EQ(unmap(list({{8, 8}, {100, 0}, {20, 1}})), sense::kNone);
  EXPECT_EQ(node->discarded, (Ranges{{4096, 4096}, {10240, 512}}));
}

TEST_F(DiskData, unmap_beyond_the_end_does_nothing) {
  start();
  EXPECT_EQ(unmap(list({{8, 8}, {kBlocks - 1, 2}})), sense::kOutOfRange);
  EXPECT_TRUE(node->discarded.empty());
}

TEST_F(DiskData, unmap_limits) {
  options.max_unmap_size = 16 * 512;
  start();
  EXPECT_EQ(unmap(list({{0, 8}, {8, 8}})), sense::kNone);
  EXPECT_EQ(unmap(list({{0, 8}, {8, 9}})), sense::kInvalidParameter);
  EXPECT_EQ(unmap(list(std::vector<std::pair<uint64_t, uint32_t>>(Disk::kMostUnmapRanges + 1, {0, 0}))),
            sense::kInvalidParameter);
}

TEST_F(DiskData, unmap_lengths) {
  start();
  EXPECT_EQ(unmap({}), sense::kNone);
  EXPECT_EQ(unmap("1234567"), sense::kParameterListLength);
  std::string longer = list({{8, 8}});
  longer[3] = 32;  // tells of a range that is not there
  EXPECT_EQ(unmap(longer), sense::kNone);
  EXPECT_EQ(node->discarded.size(), 1u);
  EXPECT_TRUE(begin(ten(0x42, 0, 24), std::string(8, '\0'))->overrun);
  EXPECT_EQ(sense(ten(0x42, 0, 24, 1), list({{8, 8}})), sense::kInvalidField);  // ANCHOR
}

TEST_F(DiskData, unmap_is_unknown_to_a_disk_that_takes_nothing_back) {
  options.discard_granularity = 0;
  start();
  EXPECT_EQ(unmap(list({{8, 8}})), sense::kInvalidOpcode);
  EXPECT_EQ(sense(sixteen(0x93, 0, 1, 8), std::string(512, '\0')), sense::kInvalidField);
}

TEST_F(DiskData, write_same_of_zeros) {
  start();
  node->data.assign(kBytes, 'x');
  EXPECT_EQ(sense(ten(0x41, 1, 2), std::string(512, '\0')), sense::kNone);
  EXPECT_EQ(node->data.substr(512, 1024), std::string(1024, '\0'));
  EXPECT_EQ(sense(sixteen(0x93, 4, 2, 8), std::string(512, '\0')), sense::kNone);
  EXPECT_EQ(node->data.substr(2048, 1024), std::string(1024, '\0'));
  EXPECT_EQ(sense(sixteen(0x93, 8, 2, 9)), sense::kNone);  // without data
  EXPECT_EQ(node->data.substr(4096, 1024), std::string(1024, '\0'));
  EXPECT_EQ(node->data[511], 'x');
  EXPECT_EQ(node->data[1536], 'x');
}

TEST_F(DiskData, write_same_of_a_pattern) {
  node->data.resize(40u << 20);  // more than one write of the host takes
  start();
  std::string block(512, '\0');
  block[7] = 'p';
  const uint32_t count = (36u << 20) / 512 + 3;
  EXPECT_EQ(sense(sixteen(0x93, 1, count), block), sense::kNone);
  for (uint64_t at : {uint64_t{1}, uint64_t{count / 2}, uint64_t{count}})
    EXPECT_EQ(node->data.substr(at * 512, 512), block);
  EXPECT_EQ(node->data.substr(0, 512), std::string(512, '\0'));
  EXPECT_EQ(node->data.substr((count + 1) * uint64_t{512}, 512), std::string(512, '\0'));
}

TEST_F(DiskData, write_same_refusals) {
  node->data.resize(Disk::kMostWriteSameBytes + 512);
  start();
  const std::string block(512, 'x');
  EXPECT_EQ(sense(sixteen(0x93, 0, 0), block), sense::kInvalidField);
  EXPECT_EQ(sense(sixteen(0x93, 0, 1, 0x10), block), sense::kInvalidField);
  EXPECT_EQ(sense(sixteen(0x93, 0, Disk::kMostWriteSameBytes / 512 + 1), block), sense::kInvalidField);
  EXPECT_EQ(sense(sixteen(0x93, ~uint64_t{0}, 1), block), sense::kOutOfRange);
  EXPECT_TRUE(begin(sixteen(0x93, 0, 1), std::string(100, 'x'))->overrun);
}

TEST_F(DiskData, errors_of_the_host) {
  start();
  const auto read = [&](int error) {
    node->fail_with = error;
    return sense(ten(0x28, 0, 1), {}, 512);
  };
  const auto write = [&](int error) {
    node->fail_with = error;
    return sense(ten(0x2a, 0, 1), std::string(512, 'x'));
  };
  EXPECT_EQ(read(EIO), sense::kReadError);
  EXPECT_EQ(read(EACCES), sense::kReadError);
  EXPECT_EQ(write(EIO), sense::kWriteError);
  EXPECT_EQ(write(ENOSPC), sense::kNoSpace);
  EXPECT_EQ(write(EROFS), sense::kWriteProtected);
  EXPECT_EQ(write(ENOMEDIUM), sense::kNoMedium);
  EXPECT_EQ(sense(ten(0x35, 0, 0)), sense::kNoMedium);
  node->fail_with = EIO;
  EXPECT_EQ(sense(ten(0x35, 0, 0)), sense::kWriteError);
  EXPECT_EQ(unmap(list({{8, 8}, {16, 8}})), sense::kWriteError);
  EXPECT_EQ(node->discarded.size(), 1u);
}

TEST_F(DiskData, failed_commands_move_nothing) {
  start();
  node->fail_with = EIO;
  EXPECT_EQ(begin(ten(0x28, 0, 1), {}, 512)->transferred, 0u);
}

TEST_F(DiskData, errors_that_are_ignored) {
  start();
  node->fail_with = EIO;
  node->verdict = block::Verdict::kIgnore;
  EXPECT_EQ(sense(ten(0x2a, 0, 1), std::string(512, 'x')), sense::kNone);
}

TEST_F(DiskData, commands_that_are_kept) {
  start();
  node->fail_with = ENOSPC;
  node->verdict = block::Verdict::kKeep;
  const auto asked = begin(ten(0x2a, 0, 1), std::string(512, 'x'));
  EXPECT_EQ(asked->ends, 1);
  EXPECT_EQ(asked->keep, ENOSPC);
  unit->pause_guest(asked->keep);
  EXPECT_EQ(node->paused_for, ENOSPC);
  node->fail_with = 0;
  asked->restart();
  unit->execute(asked);
  EXPECT_EQ(asked->keep, 0);
  EXPECT_EQ(asked->status, Status::kGood);
  EXPECT_EQ(node->data.substr(0, 512), std::string(512, 'x'));
}

TEST_F(DiskData, kept_commands_with_ranges_begin_anew) {
  start();
  node->fail_with = ENOSPC;
  node->verdict = block::Verdict::kKeep;
  const auto asked = begin(ten(0x42, 0, 40), list({{8, 8}, {16, 8}}));
  EXPECT_EQ(asked->keep, ENOSPC);
  node->fail_with = 0;
  node->discarded.clear();
  asked->restart();
  unit->execute(asked);
  EXPECT_EQ(node->discarded, (Ranges{{4096, 4096}, {8192, 4096}}));
}

}  // namespace
}  // namespace ostler::scsi::test
