// Temporary overlays and null disks, against a model.
#include <random>
#include <thread>

#include "block/filters/overlay_node.h"
#include "block/null/null_node.h"
#include "block_fixture.h"

namespace ostler::block {
namespace {

using test::BlockTest;

TEST_F(BlockTest, overlay_leaves_the_base_alone) {
  const std::string path = make_file("disk", std::string(16384, 'a'));
  auto overlay = *OverlayNode::create(open_file(path, true), folder);
  EXPECT_EQ(write(*overlay, 512, std::string(512, 'b')), 0);
  EXPECT_EQ(read(*overlay, 0, 1536), std::string(512, 'a') + std::string(512, 'b') + std::string(512, 'a'));
  std::ifstream file(path, std::ios::binary);
  std::string content((std::istreambuf_iterator<char>(file)), {});
  EXPECT_EQ(content, std::string(16384, 'a'));
}

TEST_F(BlockTest, overlay_leaves_no_file_behind) {
  const std::string path = make_file("disk", std::string(16384, 'a'));
  const auto overlay = *OverlayNode::create(open_file(path, true), folder);
  size_t files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder)) ++files;
  EXPECT_EQ(files, 1u);
}

TEST_F(BlockTest, overlay_without_a_folder_says_so) {
  const auto overlay = OverlayNode::create(std::make_shared<NullNode>(4096), folder + "/none");
  ASSERT_FALSE(overlay);
  EXPECT_NE(overlay.error().message().find("TMPDIR"), std::string::npos);
}

TEST_F(BlockTest, overlay_of_a_huge_disk_has_a_small_map) {
  const auto overlay = *OverlayNode::create(std::make_shared<NullNode>(uint64_t{1} << 40), folder);
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
  auto overlay = *OverlayNode::create(open_file(make_file("disk", model), true), folder);
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
  auto overlay = *OverlayNode::create(open_file(make_file("disk", std::string(65536, 'a')), true), folder);
  EXPECT_EQ(write(*overlay, 0, std::string(65536, 'b')), 0);
  EXPECT_EQ(discard(*overlay, 5000 / 512 * 512, 20480), 0);
  EXPECT_EQ(read(*overlay, 0, 4608), std::string(4608, 'b'));
  EXPECT_EQ(read(*overlay, 32768, 4096), std::string(4096, 'b'));
}

TEST_F(BlockTest, concurrent_partial_writes_of_one_granule_all_survive) {
  auto overlay = *OverlayNode::create(open_file(make_file("disk", std::string(65536, 'a')), true), folder);
  std::vector<std::thread> writers;
  for (int i = 0; i < 8; ++i)
    writers.emplace_back([&, i] {
      IoContext own;
      const std::string bytes(512, static_cast<char>('0' + i));
      EXPECT_EQ(own.run_until(write_bytes(*overlay, 4096 + 512u * i, bytes.data(), bytes.size())), 0);
    });
  for (auto& writer : writers) writer.join();
  for (int i = 0; i < 8; ++i)
    EXPECT_EQ(read(*overlay, 4096 + 512u * i, 512), std::string(512, static_cast<char>('0' + i)));
}

TEST_F(BlockTest, null_node_reads_zeros) {
  NullNode node(4096);
  EXPECT_EQ(write(node, 0, std::string(512, 'x')), 0);
  EXPECT_EQ(read(node, 0, 512), std::string(512, '\0'));
}

}  // namespace
}  // namespace ostler::block
