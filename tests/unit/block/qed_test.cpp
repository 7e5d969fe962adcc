// QED images.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "power_cut.h"

namespace ostler::block {
namespace {

using QedTest = test::PowerCutTest;

TEST_F(QedTest, qed_written_at_random_agrees_with_a_model_and_with_qemu_img) {
  const uint64_t size = (3 << 20) + 512;
  for (const char* cluster : {"4k", "64k"}) {
    const std::string file = path("disk.qed");
    create(file, "qed", {{"size", size}, {"cluster_size", cluster}, {"table_size", 2}});
    std::string model(size, '\0');
    NodePtr node = open(file, "", fast());
    ASSERT_NE(node, nullptr);
    ASSERT_EQ(node->driver(), "qed");
    churn(*node, model, 1, 60);
    close(node);
    expect_success("qemu-img check -f qed " + file);
    expect_content(file, "qed", model);
    expect_ours(file, "qed", model);
    EXPECT_EQ(check(file, "qed").corruptions, 0u);
  }
}

TEST_F(QedTest, qed_of_qemu_img_reads_and_writes) {
  std::string content = random_content(3 << 20, 2);
  content.replace(1 << 20, 1 << 20, std::string(1 << 20, '\0'));
  const std::string raw = make_file("raw", content);
  for (const std::string options : {"cluster_size=64k", "cluster_size=4k,table_size=16", "table_size=2"}) {
    const std::string file = path("disk.qed");
    expect_success("qemu-img convert -f raw -O qed -o " + options + " " + raw + " " + file);
    expect_ours(file, "", content);
    std::string model = content;
    NodePtr node = open(file, "qed", fast());
    churn(*node, model, 3, 40);
    close(node);
    expect_success("qemu-img check -f qed " + file);
    expect_content(file, "qed", model);
  }
}

TEST_F(QedTest, qed_on_a_backing_file_copies_what_it_changes) {
  std::string model = random_content(2 << 20, 5);
  make_file("base", model);
  const std::string file = path("top.qed");
  create(file, "qed", {{"backing_file", "base"}, {"backing_fmt", "raw"}});
  NodePtr node = open(file, "qed", fast());
  ASSERT_NE(node, nullptr);
  EXPECT_EQ(node->backing_file_name(), "base");
  EXPECT_EQ(node->backing_file_format(), "raw");
  churn(*node, model, 6, 60);
  EXPECT_EQ(zero(*node, 65536, 131072, false), 0);
  model.replace(65536, 131072, std::string(131072, '\0'));
  close(node);
  expect_success("qemu-img check -f qed " + file);
  expect_content(file, "qed", model);
  EXPECT_EQ(content_of(path("base")) == random_content(2 << 20, 5), true);
}

TEST_F(QedTest, qed_backing_name_is_changed) {
  make_file("base", std::string(65536, 'a'));
  make_file("other", std::string(65536, 'b'));
  const std::string file = path("top.qed");
  create(file, "qed", {{"backing_file", "base"}, {"backing_fmt", "raw"}});
  NodePtr node = open(file, "qed", fast());
  EXPECT_TRUE(context.run_until(node->change_backing_file("other", "raw")));
  EXPECT_FALSE(context.run_until(node->change_backing_file(std::string(2000, 'x'), "raw")));
  close(node);
  expect_ours(file, "qed", std::string(65536, 'b'));
  expect_content(file, "qed", std::string(65536, 'b'));
  node = open(file, "qed", fast());
  EXPECT_TRUE(context.run_until(node->change_backing_file("", "")));
  close(node);
  expect_ours(file, "qed", std::string(65536, '\0'));
}

TEST_F(QedTest, qed_grows) {
  const std::string file = path("disk.qed");
  create(file, "qed", {{"size", 1 << 20}});
  NodePtr node = open(file, "qed", fast());
  EXPECT_EQ(write(*node, 0, std::string(1 << 20, 'x')), 0);
  EXPECT_TRUE(context.run_until(node->truncate(2 << 20, Preallocation::kOff)));
  EXPECT_FALSE(context.run_until(node->truncate(1 << 20, Preallocation::kOff)));
  EXPECT_EQ(node->size(), 2u << 20);
  close(node);
  expect_content(file, "qed", std::string(1 << 20, 'x') + std::string(1 << 20, '\0'));
}

TEST_F(QedTest, qed_power_cuts_lose_nothing) {
  std::string base(4 << 20, 'x');
  make_file("base", base);
  const std::string file = path("disk");
  for (const unsigned seed : {1u, 2u, 3u}) {
    create(file, "qed",
           {{"size", 12 << 20},
            {"backing_file", "base"},
            {"backing_fmt", "raw"},
            {"cluster_size", "4k"},
            {"table_size", 2}});
    expect_power_cuts_lose_nothing(file, "qed", seed, "qemu-img info -f qed");
  }
}

TEST_F(QedTest, qed_marked_image_is_examined_before_it_is_written) {
  const std::string file = path("disk.qed");
  create(file, "qed", {{"size", 1 << 20}});
  NodePtr node = open(file, "qed", fast());
  EXPECT_EQ(write(*node, 0, std::string(131072, 'x')), 0);
  close(node);
  patch_le<uint64_t>(file, 16, 2);
  node = open(file, "qed", false);
  EXPECT_TRUE(node->dirty());
  close(node);
  node = open(file, "qed", fast());
  EXPECT_FALSE(node->dirty());
  close(node);
  EXPECT_EQ(part_of(file, 16, 8), std::string(8, '\0'));
  // Two clusters in one place.
  patch_le<uint64_t>(file, 16, 2);
  uint64_t table;
  memcpy(&table, part_of(file, 65536, 8).data(), 8);
  patch(file, table + 8, part_of(file, table, 8));
  EXPECT_NE(open_error(file, "qed", true).find("has 1 errors"), std::string::npos);
  EXPECT_EQ(open_error(file, "qed"), "");
}

TEST_F(QedTest, qed_entries_to_wrong_places_are_errors) {
  for (const uint64_t entry : {uint64_t{512}, uint64_t{65536} + 512, uint64_t{1} << 40, ~uint64_t{0}}) {
    for (const bool directory : {true, false}) {
      const std::string file = path("disk.qed");
      create(file, "qed", {{"size", 1 << 20}});
      NodePtr node = open(file, "qed", fast());
      EXPECT_EQ(write(*node, 0, "x" + std::string(511, 'x')), 0);
      close(node);
      uint64_t table;
      memcpy(&table, part_of(file, 65536, 8).data(), 8);
      patch_le(file, directory ? 65536 : table, entry);
      node = open(file, "qed", fast());
      char byte;
      EXPECT_EQ(context.run_until(read_bytes(*node, 0, &byte, 1)), -EIO);
      close(node);
      EXPECT_EQ(check(file, "qed").corruptions, 1u);
    }
  }
}

TEST_F(QedTest, qed_damaged_headers_are_refused) {
  struct Case {
    uint64_t offset;
    uint32_t value;
    std::string word;
  };
  const Case cases[] = {
      {0, 0, "signature"},         {4, 12345, "clusters have"}, {4, 1u << 30, "clusters have"},
      {8, 3, "tables have"},       {8, 32, "tables have"},      {12, 0, "header has"},
      {12, 1 << 30, "header has"}, {16, 0x80, "features 0x80"}, {40, 0, "directory"},
      {40, 1u << 31, "directory"}, {40, 100, "directory"},      {48, 100, "size is"},
      {52, 0x7fffffff, "size is"},
  };
  for (const Case& each : cases) {
    const std::string file = path("disk.qed");
    create(file, "qed", {{"size", 1 << 20}});
    patch_le(file, each.offset, each.value);
    expect_refused(file, "qed", {each.word});
  }
  make_file("base", std::string(65536, 'a'));
  for (const uint32_t place : {0u, 70000u}) {
    const std::string file = path("disk.qed");
    create(file, "qed", {{"size", 1 << 20}, {"backing_file", "base"}});
    patch_le(file, 56, place);
    expect_refused(file, "qed", {"name of its backing file"});
  }
}

TEST_F(QedTest, qed_creation_refuses_what_cannot_be) {
  EXPECT_NE(create_error(path("x"), "qed", {{"size", "1M"}, {"cluster_size", 1000}}).find("power of two"),
            std::string::npos);
  EXPECT_NE(create_error(path("x"), "qed", {{"size", "1M"}, {"table_size", 3}}).find("table_size"),
            std::string::npos);
  EXPECT_NE(create_error(path("x"), "qed", {{"size", "10T"}, {"cluster_size", "4k"}, {"table_size", 2}})
                .find("the most"),
            std::string::npos);
}

TEST_F(QedTest, qed_is_created_with_whatever_geometry_qemu_img_opens) {
  const auto opens = [&](const std::string& file) { return run("qemu-img info -f qed " + file).status == 0; };
  for (const uint64_t cluster : {4096u, 65536u, 2u << 20, 4u << 20, 8u << 20, 64u << 20}) {
    for (const unsigned tables : {1u, 2u, 4u, 8u, 16u}) {
      SCOPED_TRACE(fmt::format("clusters of {}, tables of {}", cluster, tables));
      const std::string file = path("disk.qed");
      const std::string error =
          create_error(file, "qed", {{"size", 1 << 20}, {"cluster_size", cluster}, {"table_size", tables}});
      if (error.empty()) {
        EXPECT_TRUE(opens(file));
        continue;
      }
      // What is refused is what qemu-img would not open.
      create(file, "qed", {{"size", 1 << 20}});
      std::filesystem::resize_file(file, 2 * (tables + 1) * cluster);
      patch_le<uint32_t>(file, 4, static_cast<uint32_t>(cluster));
      patch_le<uint32_t>(file, 8, tables);
      patch_le<uint64_t>(file, 40, cluster);
      EXPECT_FALSE(opens(file));
      expect_ours(file, "qed", std::string(1 << 20, '\0'));
    }
  }
}

}  // namespace
}  // namespace ostler::block
