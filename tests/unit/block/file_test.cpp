// Files of the host: content, errors as sentences, locks, O_DIRECT; with a ring and with threads.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "block_fixture.h"

namespace ostler::block {
namespace {

using test::BlockTest;

TEST_F(BlockTest, file_reads_and_writes) {
  const auto node = open_file(make_file("disk", std::string(8192, 'a')));
  EXPECT_EQ(node->size(), 8192u);
  EXPECT_EQ(write(*node, 512, std::string(512, 'b')), 0);
  EXPECT_EQ(flush(*node), 0);
  EXPECT_EQ(read(*node, 0, 1536), std::string(512, 'a') + std::string(512, 'b') + std::string(512, 'a'));
}

TEST_F(BlockTest, partial_last_sector_reads_as_zeros) {
  const auto node = open_file(make_file("disk", std::string(700, 'a')));
  EXPECT_EQ(node->size(), 700u);
  EXPECT_EQ(read(*node, 512, 512), std::string(188, 'a') + std::string(324, '\0'));
}

TEST_F(BlockTest, partial_last_sector_can_be_written) {
  const std::string path = make_file("disk", std::string(700, 'a'));
  const auto node = open_file(path);
  EXPECT_EQ(write(*node, 512, std::string(512, 'z')), 0);
  EXPECT_EQ(read(*node, 512, 512), std::string(512, 'z'));
}

TEST_F(BlockTest, write_zeroes_with_and_without_unmap) {
  const auto node = open_file(make_file("disk", std::string(65536, 'a')));
  EXPECT_EQ(zero(*node, 4096, 4096, true), 0);
  EXPECT_EQ(zero(*node, 16384 + 512, 1024, false), 0);
  EXPECT_EQ(read(*node, 4096, 4096), std::string(4096, '\0'));
  EXPECT_EQ(read(*node, 16384 + 512, 1024), std::string(1024, '\0'));
  EXPECT_EQ(read(*node, 16384, 512), std::string(512, 'a'));
}

// Zeros and data behind them, both beyond the end and under way at once: what makes room for one must not cut
// off the other.
Task<int> grow_side_by_side(Node& node, uint64_t at, const std::string& bytes) {
  TaskGroup group;
  const iovec piece{const_cast<char*>(bytes.data()), bytes.size()};
  int error = co_await group.start(node.write_zeroes(at, 65536, {}));
  if (error == 0) error = co_await group.start(node.write(at + 65536, Buffers(&piece, 1)));
  // The kernel has done both when the first goes on here.
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const int others = co_await group.wait();
  co_return error != 0 ? error : others;
}

TEST_F(BlockTest, requests_at_the_end_do_not_cut_each_other_off) {
  const std::string path = make_file("disk", ""), content(512 * 1024, 'x');  // more than is written at once
  auto opened = FileNode::open({.path = path, .aio = Aio::kThreads});
  ASSERT_TRUE(opened);
  constexpr unsigned kRounds = 10;
  constexpr uint64_t kStep = 65536 + 512 * 1024;
  for (unsigned i = 0; i < kRounds; ++i)
    ASSERT_EQ(context.run_until(grow_side_by_side(**opened, i * kStep, content)), 0);
  const std::string whole = content_of(path);
  ASSERT_EQ(whole.size(), kRounds * kStep);
  for (unsigned i = 0; i < kRounds; ++i)
    ASSERT_TRUE(whole.compare(i * kStep + 65536, content.size(), content) == 0) << "round " << i;
}

// The other way round: zeros make room while a write further behind is making the file longer.
Task<int> zeros_behind_a_write(Node& node, uint64_t at, const std::string& bytes) {
  TaskGroup group;
  const iovec piece{const_cast<char*>(bytes.data()), bytes.size()};
  int error = co_await group.start(node.write(at + 65536, Buffers(&piece, 1)));
  if (error == 0) error = co_await group.start(node.write_zeroes(at, 65536, {}));
  const int others = co_await group.wait();
  co_return error != 0 ? error : others;
}

TEST_F(BlockTest, zeros_do_not_cut_off_a_write_that_grows_the_file) {
  const std::string path = make_file("disk", ""), content(128 * 1024, 'x');  // more than is written at once
  auto opened = FileNode::open({.path = path, .aio = Aio::kThreads});
  ASSERT_TRUE(opened);
  constexpr unsigned kRounds = 500;
  constexpr uint64_t kStep = 65536 + 128 * 1024;
  for (unsigned i = 0; i < kRounds; ++i)
    ASSERT_EQ(context.run_until(zeros_behind_a_write(**opened, i * kStep, content)), 0);
  const std::string whole = content_of(path);
  ASSERT_EQ(whole.size(), kRounds * kStep);
  for (unsigned i = 0; i < kRounds; ++i) {
    const auto round = static_cast<size_t>(i) * kStep;
    ASSERT_TRUE(whole.compare(round, 65536, std::string(65536, '\0')) == 0) << "round " << i;
    ASSERT_TRUE(whole.compare(round + 65536, content.size(), content) == 0) << "round " << i;
  }
}

TEST_F(BlockTest, zeroes_do_not_grow_the_file) {
  const std::string path = make_file("disk", std::string(700, 'a'));
  const auto node = open_file(path);
  EXPECT_EQ(zero(*node, 0, 1024, true), 0);
  EXPECT_EQ(std::filesystem::file_size(path), 700u);
}

// A file in memory has no zeros that are not written (fallocate(2)).
TEST_F(BlockTest, zeros_that_cannot_be_made_leave_the_file_as_long_as_it_was) {
  const Fd memory(memfd_create("disk", MFD_CLOEXEC));
  ASSERT_TRUE(memory);
  FileNode node({.path = "memory"}, Fd(dup(memory.get())), 0, false);
  EXPECT_EQ(context.run_until(node.write_zeroes(0, 1 << 20, {.no_fallback = true})), -ENOTSUP);
  struct stat status;
  ASSERT_EQ(fstat(memory.get(), &status), 0);
  EXPECT_EQ(status.st_size, 0);
  EXPECT_EQ(context.run_until(node.write_zeroes(0, 1 << 20, {})), 0);
  ASSERT_EQ(fstat(memory.get(), &status), 0);
  EXPECT_EQ(status.st_size, 1 << 20);
}

TEST_F(BlockTest, discard_gives_space_back) {
  const std::string path = make_file("disk", std::string(1 << 20, 'a'));
  const auto node = open_file(path);
  EXPECT_EQ(flush(*node), 0);
  struct stat before, after;
  ASSERT_EQ(stat(path.c_str(), &before), 0);
  EXPECT_EQ(discard(*node, 0, 1 << 20), 0);
  ASSERT_EQ(stat(path.c_str(), &after), 0);
  EXPECT_EQ(after.st_size, before.st_size);
  EXPECT_LT(after.st_blocks, before.st_blocks);
}

Task<int> write_side_by_side(Node& node, const std::vector<uint64_t>& offsets, const std::string& bytes) {
  TaskGroup group;
  const iovec piece{const_cast<char*>(bytes.data()), bytes.size()};
  for (const uint64_t at : offsets) {
    const int error = co_await group.start(node.write(at, Buffers(&piece, 1)));
    if (error != 0) break;
  }
  co_return co_await group.wait();
}

// Long writes that fill holes get their blocks first: theirs, and no more.
TEST_F(BlockTest, long_writes_into_holes_take_the_space_of_their_bytes) {
  constexpr uint64_t kMiB = 1 << 20;
  const std::string path = make_file("disk", ""), content(kMiB, 'x');
  ASSERT_EQ(::truncate(path.c_str(), 64 * kMiB), 0);
  const auto node = open_file(path);
  // In holes, across one's end, over each other and beyond the end of the file.
  ASSERT_EQ(context.run_until(write_side_by_side(
                *node, {8 * kMiB, 9 * kMiB, 31 * kMiB + 4096, 31 * kMiB + 8192, 63 * kMiB + 4096, 80 * kMiB},
                content)),
            0);
  EXPECT_EQ(node->size(), 81 * kMiB);
  EXPECT_EQ(read(*node, 8 * kMiB - 512, 1024), std::string(512, '\0') + std::string(512, 'x'));
  EXPECT_EQ(read(*node, 10 * kMiB - 512, 1024), std::string(512, 'x') + std::string(512, '\0'));
  EXPECT_EQ(read(*node, 32 * kMiB + 8192 - 512, 1024), std::string(512, 'x') + std::string(512, '\0'));
  EXPECT_EQ(read(*node, 64 * kMiB + 4096 - 512, 1024), std::string(512, 'x') + std::string(512, '\0'));
  EXPECT_EQ(read(*node, 81 * kMiB - 512, 512), std::string(512, 'x'));
  constexpr int64_t kWritten = 5 * kMiB + 4096;
  EXPECT_GE(node->allocated_bytes(), kWritten);
  EXPECT_LE(node->allocated_bytes(), kWritten + 65536);  // and the file system's own blocks
}

TEST_F(BlockTest, missing_file_is_named) {
  const auto node = FileNode::open({.path = folder + "/nothing"});
  ASSERT_FALSE(node);
  EXPECT_EQ(node.error().kind(), ErrorKind::kNotFound);
  EXPECT_NE(node.error().message().find("/nothing"), std::string::npos);
}

TEST_F(BlockTest, directory_is_refused) {
  for (const bool read_only : {false, true}) {
    const auto node = FileNode::open({.path = folder, .read_only = read_only});
    ASSERT_FALSE(node);
    EXPECT_NE(node.error().message().find("directory"), std::string::npos);
  }
}

TEST_F(BlockTest, fifo_is_refused_without_hanging) {
  const std::string path = folder + "/fifo";
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  EXPECT_FALSE(FileNode::open({.path = path, .read_only = true}));
  EXPECT_FALSE(FileNode::open({.path = path, .read_only = false}));
}

TEST_F(BlockTest, second_writer_is_refused) {
  const std::string path = make_file("disk", std::string(512, 'a'));
  const auto first = open_file(path);
  const auto second = FileNode::open({.path = path});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().kind(), ErrorKind::kBusy);
}

TEST_F(BlockTest, reader_beside_a_writer_is_refused) {
  const std::string path = make_file("disk", std::string(512, 'a'));
  const auto writer = open_file(path);
  EXPECT_FALSE(FileNode::open({.path = path, .read_only = true}));
}

TEST_F(BlockTest, readers_share) {
  const std::string path = make_file("disk", std::string(512, 'a'));
  const auto first = open_file(path, true);
  EXPECT_TRUE(FileNode::open({.path = path, .read_only = true}));
}

TEST_F(BlockTest, locking_can_be_turned_off) {
  const std::string path = make_file("disk", std::string(512, 'a'));
  const auto first = open_file(path);
  EXPECT_TRUE(FileNode::open({.path = path, .locking = false}));
}

TEST_F(BlockTest, lock_ends_with_the_node) {
  const std::string path = make_file("disk", std::string(512, 'a'));
  open_file(path);
  EXPECT_TRUE(FileNode::open({.path = path}));
}

class DirectTest : public BlockTest {
 protected:
  std::shared_ptr<FileNode> open_direct(const std::string& file) {
    auto node = FileNode::open({.path = file, .direct = true});
    EXPECT_TRUE(node) << (node ? "" : node.error().message());
    return node ? *node : nullptr;
  }
};

// Offsets, lengths and memory that O_DIRECT does not take, against a model; the size is odd.
TEST_F(DirectTest, unaligned_requests_agree_with_a_model) {
  std::mt19937 random(7);
  std::string model(70001, '\0');
  for (char& byte : model) byte = static_cast<char>(random());
  const std::string file = make_file("disk", model);
  auto node = open_direct(file);
  ASSERT_NE(node, nullptr);
  for (int i = 0; i < 300; ++i) {
    const uint64_t offset = random() % (model.size() - 1);
    const uint64_t length = 1 + random() % (model.size() - offset);
    if (random() % 2 == 0) {
      const std::string bytes(length, static_cast<char>(random()));
      ASSERT_EQ(write(*node, offset, bytes), 0);
      model.replace(offset, length, bytes);
    } else {
      ASSERT_EQ(read(*node, offset, length), model.substr(offset, length)) << "operation " << i;
    }
  }
  EXPECT_EQ(node->size(), model.size());
  ASSERT_TRUE(context.run_until(node->close()));
  EXPECT_EQ(content_of(file), model);
}

TEST_F(DirectTest, unaligned_write_at_the_end_grows_the_file_to_its_last_byte) {
  const std::string file = make_file("disk", "");
  auto node = open_direct(file);
  EXPECT_EQ(write(*node, 0, std::string(1000, 'a')), 0);
  EXPECT_EQ(write(*node, 5000, std::string(10, 'b')), 0);
  EXPECT_EQ(node->size(), 5010u);
  ASSERT_TRUE(context.run_until(node->close()));
  EXPECT_EQ(content_of(file), std::string(1000, 'a') + std::string(4000, '\0') + std::string(10, 'b'));
}

TEST_F(BlockTest, writing_past_the_end_grows_the_file) {
  auto node = open_file(make_file("disk", ""));
  EXPECT_EQ(write(*node, 3000, "abc"), 0);
  EXPECT_EQ(node->size(), 3003u);
  EXPECT_EQ(read(*node, 2999, 6), std::string("\0abc\0\0", 6));
}

TEST_F(BlockTest, holes_are_told) {
  const std::string file = make_file("disk", std::string(65536, 'a'));
  auto node = open_file(file);
  ASSERT_EQ(zero(*node, 16384, 16384, true), 0);
  BlockStatus status;
  ASSERT_EQ(context.run_until(node->block_status(0, 65536, StatusDetail::kPrecise, status)), 0);
  EXPECT_TRUE(status.data && !status.zero);
  EXPECT_EQ(status.bytes, 16384u);
  ASSERT_EQ(context.run_until(node->block_status(16384, 49152, StatusDetail::kPrecise, status)), 0);
  EXPECT_TRUE(!status.data && status.zero);
  EXPECT_EQ(status.bytes, 16384u);
  EXPECT_EQ(status.offset, 16384u);
}

TEST_F(BlockTest, forced_sharing_reads_beside_a_writer) {
  const std::string file = make_file("disk", std::string(512, 'a'));
  const auto writer = open_file(file);
  EXPECT_TRUE(FileNode::open({.path = file, .read_only = true, .force_share = true}));
}

TEST_F(BlockTest, reopening_gives_up_and_takes_up_write_access) {
  const std::string file = make_file("disk", std::string(512, 'a'));
  auto node = open_file(file, true);
  ASSERT_TRUE(context.run_until(node->reopen(true)));
  EXPECT_EQ(write(*node, 0, "b"), 0);
  EXPECT_FALSE(FileNode::open({.path = file, .read_only = true}));
  ASSERT_TRUE(context.run_until(node->reopen(false)));
  EXPECT_TRUE(FileNode::open({.path = file, .read_only = true}));
}

// As an io_uring does that has not let go of the file yet.
TEST_F(BlockTest, reopening_does_not_wait_for_others_who_hold_the_old_file) {
  const std::string file = make_file("disk", std::string(512, 'a'));
  auto node = open_file(file);
  std::vector<Fd> held;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    if (std::filesystem::read_symlink(entry.path(), gone) == file)
      held.emplace_back(dup(std::stoi(entry.path().filename())));
  }
  ASSERT_FALSE(held.empty());
  const auto reopened = context.run_until(node->reopen(false));
  EXPECT_TRUE(reopened) << reopened.error().message();
}

class ThreadsTest : public BlockTest {
 protected:
  ThreadsTest() : BlockTest(Aio::kThreads) {}
};

TEST_F(ThreadsTest, requests_run_without_a_ring) {
  auto node = open_file(make_file("disk", std::string(1 << 20, 'a')));
  EXPECT_EQ(write(*node, 512, std::string(512 * 1024, 'b')), 0);
  EXPECT_EQ(flush(*node), 0);
  EXPECT_EQ(read(*node, 0, 1024), std::string(512, 'a') + std::string(512, 'b'));
  EXPECT_FALSE(context.has_ring());
}

}  // namespace
}  // namespace ostler::block
