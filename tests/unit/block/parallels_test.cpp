// Parallels images, both kinds of places.
#include <nlohmann/json.hpp>

#include "power_cut.h"

namespace ostler::block {
namespace {

using ParallelsTest = test::PowerCutTest;

TEST_F(ParallelsTest, parallels_written_at_random_agrees_with_a_model_and_with_qemu_img) {
  const uint64_t size = (3 << 20) + 512;
  for (const char* cluster : {"64k", "1M"}) {
    const std::string file = path("disk.hds");
    create(file, "parallels", {{"size", size}, {"cluster_size", cluster}});
    std::string model(size, '\0');
    NodePtr node = open(file, "", fast());
    ASSERT_NE(node, nullptr);
    ASSERT_EQ(node->driver(), "parallels");
    churn(*node, model, 1, 60);
    close(node);
    expect_success("qemu-img check -f parallels " + file);
    expect_content(file, "parallels", model);
    expect_ours(file, "parallels", model);
    EXPECT_EQ(check(file, "parallels").corruptions, 0u);
  }
}

TEST_F(ParallelsTest, parallels_of_qemu_img_reads_and_writes) {
  std::string content = random_content(3 << 20, 2);
  content.replace(1 << 20, 1 << 20, std::string(1 << 20, '\0'));
  const std::string raw = make_file("raw", content);
  for (const std::string options : {"cluster_size=1M", "cluster_size=64k"}) {
    const std::string file = path("disk.hds");
    expect_success("qemu-img convert -f raw -O parallels -o " + options + " " + raw + " " + file);
    expect_ours(file, "", content);
    std::string model = content;
    NodePtr node = open(file, "parallels", fast());
    churn(*node, model, 3, 40);
    close(node);
    expect_success("qemu-img check -f parallels " + file);
    expect_content(file, "parallels", model);
  }
}

// The older kind, with clusters of 63 sectors and places in sectors.
TEST_F(ParallelsTest, parallels_without_free_space_reads_and_writes) {
  const std::string file = path("disk.hds");
  create(file, "parallels", {{"size", 40 * 63 * 512}, {"cluster_size", 63 * 512}});
  patch(file, 0, "WithoutFreeSpace");
  std::string model(40 * 63 * 512, '\0');
  NodePtr node = open(file, "", fast());
  ASSERT_NE(node, nullptr);
  churn(*node, model, 4, 60);
  close(node);
  expect_content(file, "parallels", model);
  expect_ours(file, "parallels", model);
}

TEST_F(ParallelsTest, parallels_is_marked_in_use_while_it_is_written) {
  const std::string file = path("disk.hds");
  create(file, "parallels", {{"size", 1 << 20}});
  NodePtr node = open(file, "parallels", fast());
  EXPECT_EQ(part_of(file, 44, 4), std::string(4, '\0'));
  EXPECT_EQ(write(*node, 0, std::string(512, 'x')), 0);
  EXPECT_EQ(part_of(file, 44, 4), "Ynot");
  EXPECT_TRUE(node->dirty());
  close(node);
  EXPECT_EQ(part_of(file, 44, 4), std::string(4, '\0'));
}

TEST_F(ParallelsTest, parallels_power_cuts_lose_nothing) {
  for (const unsigned seed : {1u, 2u, 3u}) {
    const std::string file = path("disk" + std::to_string(seed));
    create(file, "parallels", {{"size", 4 << 20}, {"cluster_size", "64k"}});
    expect_power_cuts_lose_nothing(file, "parallels", seed, "qemu-img info -f parallels");
  }
}

TEST_F(ParallelsTest, parallels_entries_to_wrong_places_are_errors) {
  for (const uint32_t entry : {0x00ffffffu, 0xffffffffu}) {
    const std::string file = path("disk.hds");
    create(file, "parallels", {{"size", 4 << 20}});
    patch_le(file, 64, entry);
    NodePtr node = open(file, "parallels", fast());
    char byte;
    EXPECT_EQ(context.run_until(read_bytes(*node, 0, &byte, 1)), -EIO);
    close(node);
    EXPECT_EQ(check(file, "parallels").corruptions, 1u);
  }
}

TEST_F(ParallelsTest, parallels_damaged_headers_are_refused) {
  struct Case {
    uint64_t offset;
    uint32_t value;
    std::string word;
  };
  const Case cases[] = {
      {0, 0, "signature"},         {16, 3, "version 3"},
      {28, 0, "clusters have 0"},  {28, 0x7fffffff, "clusters"},
      {32, 0xffffffff, "entries"}, {32, 0x03000000, "ends within"},
      {32, 1, "does not fit"},     {40, 0x7fffffff, "does not fit"},
      {52, 1, "emptied"},
  };
  for (const Case& each : cases) {
    const std::string file = path("disk.hds");
    create(file, "parallels", {{"size", 4 << 20}});
    patch_le(file, each.offset, each.value);
    expect_refused(file, "parallels", {each.word});
  }
  const std::string file = path("disk.hds");
  create(file, "parallels", {{"size", "1G"}, {"cluster_size", "64k"}});
  patch_le<uint32_t>(file, 48, 1);
  expect_refused(file, "parallels", {"within its table"});
}

TEST_F(ParallelsTest, parallels_creation_refuses_what_cannot_be) {
  EXPECT_NE(create_error(path("x"), "parallels", {{"size", "1M"}, {"cluster_size", 1000}}).find("multiple"),
            std::string::npos);
  EXPECT_NE(create_error(path("x"), "parallels", {{"size", "100T"}}).find("more than"), std::string::npos);
}

}  // namespace
}  // namespace ostler::block
