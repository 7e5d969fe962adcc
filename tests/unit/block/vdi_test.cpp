// VirtualBox images.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "power_cut.h"

namespace ostler::block {
namespace {

class VdiTest : public test::PowerCutTest {
  // Programs that go by the header's count give the next block that number.
  void look_at_cut(const std::string& image) override {
    const std::string bytes = content_of(image);
    const auto count = load_le<uint32_t>(bytes.data() + 0x184);
    const auto map = load_le<uint32_t>(bytes.data() + 0x154),
               blocks = load_le<uint32_t>(bytes.data() + 0x180);
    for (uint32_t block = 0; block < blocks; ++block) {
      const auto entry = load_le<uint32_t>(bytes.data() + map + block * 4);
      ASSERT_TRUE(entry == 0xffffffff || entry < count) << entry << " of block " << block;
    }
  }
};

constexpr uint64_t kSize = (5 << 20) + 512;

TEST_F(VdiTest, vdi_written_at_random_agrees_with_a_model_and_with_qemu_img) {
  for (const char* is_static : {"off", "on"}) {
    const std::string file = path("disk.vdi");
    create(file, "vdi", {{"size", kSize}, {"static", is_static}});
    std::string model(kSize, '\0');
    NodePtr node = open(file, "", fast());
    ASSERT_NE(node, nullptr);
    ASSERT_EQ(node->driver(), "vdi");
    churn(*node, model, 1, 60);
    close(node);
    expect_success("qemu-img check -f vdi " + file);
    expect_content(file, "vdi", model);
    expect_ours(file, "vdi", model);
    EXPECT_EQ(check(file, "vdi").corruptions, 0u);
  }
}

TEST_F(VdiTest, vdi_of_qemu_img_reads_and_writes) {
  std::string model = random_content(3 << 20, 2);
  model.replace(1 << 20, 1 << 20, std::string(1 << 20, '\0'));
  const std::string raw = make_file("raw", model);
  for (const char* options : {"", "-o static=on"}) {
    const std::string file = path("disk.vdi");
    expect_success("qemu-img convert -f raw -O vdi " + std::string(options) + " " + raw + " " + file);
    expect_ours(file, "", model);
    NodePtr node = open(file, "vdi", fast());
    churn(*node, model, 3, 40);
    close(node);
    expect_success("qemu-img check -f vdi " + file);
    expect_content(file, "vdi", model);
    std::ofstream(raw, std::ios::binary) << model;
  }
}

TEST_F(VdiTest, vdi_status_tells_what_is_allocated) {
  const std::string file = path("disk.vdi");
  create(file, "vdi", {{"size", 4 << 20}});
  NodePtr node = open(file, "vdi", fast());
  EXPECT_EQ(write(*node, (1 << 20) + 4096, std::string(512, 'a')), 0);
  BlockStatus status;
  EXPECT_EQ(context.run_until(node->block_status(0, 4 << 20, StatusDetail::kQuick, status)), 0);
  EXPECT_EQ(status.bytes, 1u << 20);
  EXPECT_TRUE(status.zero && status.allocated && !status.data);  // no other image decides
  EXPECT_EQ(context.run_until(node->block_status(1 << 20, 3 << 20, StatusDetail::kQuick, status)), 0);
  EXPECT_EQ(status.bytes, 1u << 20);
  EXPECT_TRUE(!status.zero && status.allocated && status.data && status.offset_valid);
  EXPECT_EQ(content_of(file).substr(status.offset + 4096, 512), std::string(512, 'a'));
  EXPECT_EQ(context.run_until(node->block_status(2 << 20, 2 << 20, StatusDetail::kQuick, status)), 0);
  EXPECT_EQ(status.bytes, 2u << 20);
  close(node);
}

TEST_F(VdiTest, vdi_zeroes_take_no_space) {
  const std::string file = path("disk.vdi");
  create(file, "vdi", {{"size", 4 << 20}});
  const auto before = std::filesystem::file_size(file);
  NodePtr node = open(file, "vdi", fast());
  EXPECT_EQ(zero(*node, 512, 3 << 20, false), 0);
  close(node);
  EXPECT_EQ(std::filesystem::file_size(file), before);
}

TEST_F(VdiTest, vdi_map_ahead_of_the_headers_count_loses_nothing) {
  const std::string file = path("disk.vdi");
  create(file, "vdi", {{"size", 4 << 20}});
  NodePtr node = open(file, "vdi", fast());
  EXPECT_EQ(write(*node, 0, std::string(512, 'a')), 0);
  close(node);
  patch_le<uint32_t>(file, 0x184, 0);  // as if the power had gone before the count was written
  EXPECT_EQ(check(file, "vdi").corruptions, 1u);
  node = open(file, "vdi", fast());
  EXPECT_EQ(write(*node, 1 << 20, std::string(512, 'b')), 0);
  EXPECT_EQ(read(*node, 0, 512), std::string(512, 'a'));
  close(node);
  expect_success("qemu-img check -f vdi " + file);
}

TEST_F(VdiTest, vdi_blocks_that_share_space_are_found) {
  const std::string file = path("disk.vdi");
  create(file, "vdi", {{"size", 4 << 20}});
  NodePtr node = open(file, "vdi", fast());
  EXPECT_EQ(write(*node, 0, std::string(2 << 20, 'a')), 0);
  close(node);
  patch_le<uint32_t>(file, 512 + 4, 0);
  EXPECT_EQ(check(file, "vdi").corruptions, 1u);
}

TEST_F(VdiTest, vdi_entry_beyond_the_file_is_an_error) {
  const std::string file = path("disk.vdi");
  create(file, "vdi", {{"size", 4 << 20}});
  patch_le<uint32_t>(file, 512, 3);
  NodePtr node = open(file, "vdi", fast());
  char byte;
  EXPECT_EQ(context.run_until(read_bytes(*node, 0, &byte, 1)), -EIO);
  close(node);
  EXPECT_EQ(check(file, "vdi").corruptions, 1u);
}

// Each write of the guest finds it.
TEST_F(VdiTest, vdi_that_cannot_be_written_is_told_once) {
  const std::string file = path("disk.vdi");
  create(file, "vdi", {{"size", kSize}});
  patch_le<uint32_t>(file, 512, 1000);
  NodePtr node = open(file, "vdi", fast());
  ASSERT_NE(node, nullptr);
  testing::internal::CaptureStderr();
  for (int i = 0; i < 3; ++i) EXPECT_NE(write(*node, 2 << 20, "x"), 0);
  const std::string told = testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::ranges::count(told, '\n'), 1) << told;
  close(node);
}

TEST_F(VdiTest, vdi_damaged_headers_are_refused) {
  struct Case {
    uint64_t offset;
    uint32_t value;
    std::string word;
  };
  const Case cases[] = {
      {0x40, 0, "signature"},      {0x44, 0x00020000, "version 2.0"},
      {0x48, 16, "header claims"}, {0x4c, 4, "differencing"},
      {0x1a8, 1, "snapshot"},      {0x1b8, 1, "snapshot"},
      {0x154, 100, "block map"},   {0x154, 0, "block map"},
      {0x158, 700, "data begin"},  {0x158, 0, "reaches into"},
      {0x168, 4096, "sectors"},    {0x174, 1, "does not fit"},
      {0x178, 12345, "12345"},     {0x178, 0x80000000, "256 MiB"},
      {0x17c, 8, "extra"},         {0x180, 0xffffffff, "entries"},
      {0x184, 5, "in use"},        {0x180, 1000, "reaches into"},
  };
  for (const Case& each : cases) {
    const std::string file = path("disk.vdi");
    create(file, "vdi", {{"size", 4 << 20}});
    patch_le(file, each.offset, each.value);
    expect_refused(file, "vdi", {each.word});
  }
  const std::string file = path("disk.vdi");
  create(file, "vdi", {{"size", 4 << 20}});
  std::filesystem::resize_file(file, 513);
  expect_refused(file, "vdi", {"ends within"});
}

TEST_F(VdiTest, vdi_power_cuts_lose_nothing) {
  for (const unsigned seed : {1u, 2u, 3u}) {
    const std::string file = path("disk" + std::to_string(seed));
    create(file, "vdi", {{"size", 8 << 20}});
    expect_power_cuts_lose_nothing(file, "vdi", seed, "qemu-img info -f vdi");
  }
}

TEST_F(VdiTest, vdi_creation_refuses_what_cannot_be) {
  EXPECT_NE(create_error(path("x"), "vdi", {{"size", uint64_t{1} << 60}}).find("at most"), std::string::npos);
  EXPECT_NE(create_error(path("x"), "vdi", {{"size", 512}, {"statik", "on"}}).find("statik"),
            std::string::npos);
}

}  // namespace
}  // namespace ostler::block
