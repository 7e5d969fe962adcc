// Raw files, temporary overlays, the worker pool: content against a model, errors as sentences.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <future>
#include <random>

#include "block/file_node.h"
#include "block/null_node.h"
#include "block/overlay_node.h"

namespace ostler::block {
namespace {

class BlockTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "/ostler-block-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder); }
  std::string make_file(const std::string& name, const std::string& content) {
    const std::string path = folder + "/" + name;
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }
  std::shared_ptr<FileNode> open_file(const std::string& path, bool read_only = false) {
    auto node = FileNode::open(pool, {.path = path, .read_only = read_only});
    EXPECT_TRUE(node) << (node ? "" : node.error().message());
    return node ? *node : nullptr;
  }
  static std::string read(Node& node, uint64_t offset, size_t size) {
    std::string bytes(size, '?');
    std::promise<int> result;
    node.read(offset, {{bytes.data(), size / 2}, {bytes.data() + size / 2, size - size / 2}},
              [&](int error) { result.set_value(error); });
    EXPECT_EQ(result.get_future().get(), 0);
    return bytes;
  }
  static int write(Node& node, uint64_t offset, std::string bytes) {
    std::promise<int> result;
    node.write(offset, {{bytes.data(), bytes.size()}}, [&](int error) { result.set_value(error); });
    return result.get_future().get();
  }
  static int zero(Node& node, uint64_t offset, uint64_t length, bool unmap) {
    std::promise<int> result;
    node.write_zeroes(offset, length, unmap, [&](int error) { result.set_value(error); });
    return result.get_future().get();
  }
  static int discard(Node& node, uint64_t offset, uint64_t length) {
    std::promise<int> result;
    node.discard(offset, length, [&](int error) { result.set_value(error); });
    return result.get_future().get();
  }
  static int flush(Node& node) {
    std::promise<int> result;
    node.flush([&](int error) { result.set_value(error); });
    return result.get_future().get();
  }
  WorkerPool pool;
  std::string folder;
};

TEST_F(BlockTest, file_reads_and_writes) {
  const auto node = open_file(make_file("disk", std::string(8192, 'a')));
  EXPECT_EQ(node->size(), 8192u);
  EXPECT_EQ(write(*node, 512, std::string(512, 'b')), 0);
  EXPECT_EQ(flush(*node), 0);
  EXPECT_EQ(read(*node, 0, 1536), std::string(512, 'a') + std::string(512, 'b') + std::string(512, 'a'));
}

TEST_F(BlockTest, partial_last_sector_reads_as_zeros) {
  const auto node = open_file(make_file("disk", std::string(700, 'a')));
  EXPECT_EQ(node->size(), 1024u);
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

TEST_F(BlockTest, zeroes_do_not_grow_the_file) {
  const std::string path = make_file("disk", std::string(700, 'a'));
  const auto node = open_file(path);
  EXPECT_EQ(zero(*node, 0, 1024, true), 0);
  EXPECT_EQ(std::filesystem::file_size(path), 700u);
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

TEST_F(BlockTest, missing_file_is_named) {
  const auto node = FileNode::open(pool, {.path = folder + "/nothing"});
  ASSERT_FALSE(node);
  EXPECT_EQ(node.error().kind(), ErrorKind::kNotFound);
  EXPECT_NE(node.error().message().find("/nothing"), std::string::npos);
}

TEST_F(BlockTest, directory_is_refused) {
  for (const bool read_only : {false, true}) {
    const auto node = FileNode::open(pool, {.path = folder, .read_only = read_only});
    ASSERT_FALSE(node);
    EXPECT_NE(node.error().message().find("directory"), std::string::npos);
  }
}

TEST_F(BlockTest, fifo_is_refused_without_hanging) {
  const std::string path = folder + "/fifo";
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  EXPECT_FALSE(FileNode::open(pool, {.path = path, .read_only = true}));
  EXPECT_FALSE(FileNode::open(pool, {.path = path, .read_only = false}));
}

TEST_F(BlockTest, empty_file_is_refused) {
  EXPECT_FALSE(FileNode::open(pool, {.path = make_file("empty", "")}));
}

TEST_F(BlockTest, second_writer_is_refused) {
  const std::string path = make_file("disk", std::string(512, 'a'));
  const auto first = open_file(path);
  const auto second = FileNode::open(pool, {.path = path});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().kind(), ErrorKind::kBusy);
}

TEST_F(BlockTest, reader_beside_a_writer_is_refused) {
  const std::string path = make_file("disk", std::string(512, 'a'));
  const auto writer = open_file(path);
  EXPECT_FALSE(FileNode::open(pool, {.path = path, .read_only = true}));
}

TEST_F(BlockTest, readers_share) {
  const std::string path = make_file("disk", std::string(512, 'a'));
  const auto first = open_file(path, true);
  EXPECT_TRUE(FileNode::open(pool, {.path = path, .read_only = true}));
}

TEST_F(BlockTest, locking_can_be_turned_off) {
  const std::string path = make_file("disk", std::string(512, 'a'));
  const auto first = open_file(path);
  EXPECT_TRUE(FileNode::open(pool, {.path = path, .locking = false}));
}

TEST_F(BlockTest, lock_ends_with_the_node) {
  const std::string path = make_file("disk", std::string(512, 'a'));
  open_file(path);
  EXPECT_TRUE(FileNode::open(pool, {.path = path}));
}

TEST_F(BlockTest, overlay_leaves_the_base_alone) {
  const std::string path = make_file("disk", std::string(16384, 'a'));
  auto overlay = *OverlayNode::create(pool, open_file(path, true), folder);
  EXPECT_EQ(write(*overlay, 512, std::string(512, 'b')), 0);
  EXPECT_EQ(read(*overlay, 0, 1536), std::string(512, 'a') + std::string(512, 'b') + std::string(512, 'a'));
  std::ifstream file(path, std::ios::binary);
  std::string content((std::istreambuf_iterator<char>(file)), {});
  EXPECT_EQ(content, std::string(16384, 'a'));
}

TEST_F(BlockTest, overlay_leaves_no_file_behind) {
  const std::string path = make_file("disk", std::string(16384, 'a'));
  const auto overlay = *OverlayNode::create(pool, open_file(path, true), folder);
  size_t files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder)) ++files;
  EXPECT_EQ(files, 1u);
}

TEST_F(BlockTest, overlay_without_a_folder_says_so) {
  const auto overlay = OverlayNode::create(pool, std::make_shared<NullNode>(pool, 4096), folder + "/none");
  ASSERT_FALSE(overlay);
  EXPECT_NE(overlay.error().message().find("TMPDIR"), std::string::npos);
}

TEST_F(BlockTest, overlay_of_a_huge_disk_has_a_small_map) {
  const auto overlay =
      *OverlayNode::create(pool, std::make_shared<NullNode>(pool, uint64_t{1} << 40), folder);
  EXPECT_EQ(overlay->granule(), 65536u);
  EXPECT_EQ(write(*overlay, (uint64_t{1} << 40) - 512, std::string(512, 'x')), 0);
  EXPECT_EQ(read(*overlay, (uint64_t{1} << 40) - 1024, 1024), std::string(512, '\0') + std::string(512, 'x'));
}

// Random operations on the overlay and on a string; the disk's end is within a granule.
TEST_F(BlockTest, overlay_agrees_with_a_model) {
  constexpr uint64_t kSectors = 333, kSector = 512;
  const unsigned seed = 20261120;
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  std::string model(kSectors * kSector, '\0');
  for (char& byte : model) byte = static_cast<char>(random());
  auto overlay = *OverlayNode::create(pool, open_file(make_file("disk", model), true), folder);
  for (int i = 0; i < 3000; ++i) {
    const uint64_t first = random() % kSectors;
    const uint64_t count = 1 + random() % std::min<uint64_t>(kSectors - first, 40);
    const uint64_t offset = first * kSector, length = count * kSector;
    switch (random() % 4) {
      case 0: {
        const std::string bytes(length, static_cast<char>(random()));
        ASSERT_EQ(write(*overlay, offset, bytes), 0);
        model.replace(offset, length, bytes);
        break;
      }
      case 1:
        ASSERT_EQ(zero(*overlay, offset, length, random() % 2 == 0), 0);
        model.replace(offset, length, std::string(length, '\0'));
        break;
      default:
        ASSERT_EQ(read(*overlay, offset, length), model.substr(offset, length)) << "operation " << i;
    }
  }
}

TEST_F(BlockTest, overlay_discard_keeps_what_is_outside) {
  auto overlay =
      *OverlayNode::create(pool, open_file(make_file("disk", std::string(65536, 'a')), true), folder);
  EXPECT_EQ(write(*overlay, 0, std::string(65536, 'b')), 0);
  EXPECT_EQ(discard(*overlay, 5000 / 512 * 512, 20480), 0);
  EXPECT_EQ(read(*overlay, 0, 4608), std::string(4608, 'b'));
  EXPECT_EQ(read(*overlay, 32768, 4096), std::string(4096, 'b'));
}

TEST_F(BlockTest, concurrent_partial_writes_of_one_granule_all_survive) {
  auto overlay =
      *OverlayNode::create(pool, open_file(make_file("disk", std::string(65536, 'a')), true), folder);
  std::vector<std::thread> writers;
  for (int i = 0; i < 8; ++i)
    writers.emplace_back([&, i] {
      EXPECT_EQ(write(*overlay, 4096 + 512u * i, std::string(512, static_cast<char>('0' + i))), 0);
    });
  for (auto& writer : writers) writer.join();
  for (int i = 0; i < 8; ++i)
    EXPECT_EQ(read(*overlay, 4096 + 512u * i, 512), std::string(512, static_cast<char>('0' + i)));
}

TEST_F(BlockTest, null_node_reads_zeros) {
  NullNode node(pool, 4096);
  EXPECT_EQ(write(node, 0, std::string(512, 'x')), 0);
  EXPECT_EQ(read(node, 0, 512), std::string(512, '\0'));
}

TEST(WorkerPool, runs_every_task_before_it_ends) {
  std::atomic<int> count{0};
  {
    WorkerPool pool(2);
    for (int i = 0; i < 100; ++i) pool.run([&] { ++count; });
  }
  EXPECT_EQ(count, 100);
}

TEST(WorkerPool, task_that_waits_for_a_task_does_not_starve) {
  WorkerPool pool(1);
  std::promise<void> outer;
  pool.run([&] {
    std::promise<void> inner;
    pool.run([&] { inner.set_value(); });
    inner.get_future().wait();
    outer.set_value();
  });
  outer.get_future().wait();
}

}  // namespace
}  // namespace ostler::block
