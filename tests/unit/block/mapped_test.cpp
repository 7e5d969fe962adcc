// What the formats that cut a disk into clusters share: places are kept in memory until a flush, discarded
// clusters become holes.
#include "block/filters/fault_node.h"
#include "format_fixture.h"
#include "job_fixture.h"

namespace ostler::block::test {
namespace {

using nlohmann::json;

constexpr uint64_t kSize = 16 << 20;

struct Format {
  const char* name;
  json options;
};
void PrintTo(const Format& format, std::ostream* to) {
  *to << format.name;
}

class MappedTest : public FormatTest, public testing::WithParamInterface<Format> {
 protected:
  // An empty image over a filter that counts requests and lets them fail.
  void make_image() {
    json options = GetParam().options;
    options["size"] = kSize;
    create(path("disk"), format(), options);
    open_image();
  }
  void open_image() {
    node = open_options({{"driver", format()},
                         {"file",
                          {{"driver", "blkdebug"},
                           {"node-name", "faults"},
                           {"image", {{"driver", "file"}, {"filename", path("disk")}}}}}});
    ASSERT_NE(node, nullptr);
    faults = std::dynamic_pointer_cast<FaultNode>(opener.find("faults"));
    ASSERT_NE(faults, nullptr);
  }
  void TearDown() override {
    faults = nullptr;
    if (node) close(node);
  }
  static std::string format() { return GetParam().name; }
  uint64_t flushes() const { return faults->count(kFaultFlush); }
  // The file as it is now, without what is in memory, read by qemu-img.
  void expect_in_file(const std::string& content) {
    const std::string copy = path("copy");
    std::filesystem::copy_file(path("disk"), copy, std::filesystem::copy_options::overwrite_existing);
    expect_content(copy, format(), content);
  }

  NodePtr node;
  std::shared_ptr<FaultNode> faults;
};

TEST_P(MappedTest, clusters_get_places_without_flushes) {
  make_image();
  EXPECT_EQ(write(*node, 0, "x"), 0);
  const uint64_t before = flushes();
  std::string model(kSize, '\0');
  model[0] = 'x';
  for (uint64_t at = 1 << 20; at < kSize; at += 1 << 20) {
    EXPECT_EQ(write(*node, at, std::string(1000, 'y')), 0);
    model.replace(at, 1000, 1000, 'y');
  }
  EXPECT_EQ(flushes(), before);
  EXPECT_EQ(flush(*node), 0);
  EXPECT_LE(flushes(), before + 2);
  expect_in_file(model);
}

TEST_P(MappedTest, flushes_without_new_places_are_one_flush) {
  make_image();
  EXPECT_EQ(write(*node, 0, std::string(4096, 'x')), 0);
  EXPECT_EQ(flush(*node), 0);
  const uint64_t before = flushes();
  EXPECT_EQ(write(*node, 512, std::string(512, 'y')), 0);
  EXPECT_EQ(flush(*node), 0);
  EXPECT_EQ(flushes(), before + 1);
}

TEST_P(MappedTest, places_that_cannot_be_stored_fail_the_flush_and_are_stored_by_the_next) {
  make_image();
  EXPECT_EQ(write(*node, 0, "x"), 0);
  EXPECT_EQ(flush(*node), 0);
  std::string model(kSize, '\0');
  model[0] = 'x';
  model.replace(8 << 20, 5, "later");
  EXPECT_EQ(write(*node, 8 << 20, "later"), 0);
  for (const unsigned kind : {kFaultFlush, kFaultWrite}) {
    faults->add({.kinds = kind});
    EXPECT_EQ(flush(*node), -EIO);
    EXPECT_EQ(read(*node, 8 << 20, 5), "later");
    faults->clear();
  }
  EXPECT_EQ(flush(*node), 0);
  expect_in_file(model);
}

TEST_P(MappedTest, places_are_stored_before_writing_is_given_up) {
  make_image();
  EXPECT_EQ(write(*node, 5 << 20, std::string(4096, 'x')), 0);
  const auto reopened = context.run_until(node->reopen(false));
  ASSERT_TRUE(reopened) << reopened.error().message();
  std::string model(kSize, '\0');
  model.replace(5 << 20, 4096, 4096, 'x');
  expect_in_file(model);
  EXPECT_EQ(write(*node, 0, "x"), -EROFS);
  EXPECT_EQ(discard(*node, 0, 512), -EROFS);
}

TEST_P(MappedTest, discarded_clusters_become_holes_and_keep_their_places) {
  make_image();
  EXPECT_EQ(write(*node, 0, std::string(kSize, 'x')), 0);
  EXPECT_EQ(flush(*node), 0);
  const uint64_t size = std::filesystem::file_size(path("disk"));
  const int64_t full = node->allocated_bytes();
  EXPECT_EQ(discard(*node, 1 << 20, 8 << 20), 0);
  EXPECT_LE(node->allocated_bytes(), full - (8 << 20) + 65536);
  std::string model(kSize, 'x');
  model.replace(1 << 20, 8 << 20, 8 << 20, '\0');
  EXPECT_TRUE(read(*node, 0, kSize) == model);
  BlockStatus status;
  ASSERT_EQ(context.run_until(node->block_status(3 << 20, 4 << 20, StatusDetail::kPrecise, status)), 0);
  EXPECT_TRUE(status.zero);
  expect_in_file(model);
  const uint64_t before = flushes();
  EXPECT_EQ(write(*node, 4 << 20, std::string(1 << 20, 'z')), 0);
  EXPECT_EQ(flush(*node), 0);
  EXPECT_EQ(flushes(), before + 1);
  EXPECT_EQ(std::filesystem::file_size(path("disk")), size);
  model.replace(4 << 20, 1 << 20, 1 << 20, 'z');
  expect_in_file(model);
}

TEST_P(MappedTest, parts_of_clusters_are_discarded_exactly) {
  make_image();
  std::string model = random_content(kSize, 7);
  EXPECT_EQ(write(*node, 0, model), 0);
  EXPECT_EQ(discard(*node, (3 << 20) + 12288, 20480), 0);
  model.replace((3 << 20) + 12288, 20480, 20480, '\0');
  // Nothing has a place from here on, or the disk ends.
  EXPECT_EQ(discard(*node, kSize - 512, 512), 0);
  EXPECT_EQ(discard(*node, kSize, 512), format() == "vmdk" ? -EINVAL : 0);
  model.replace(kSize - 512, 512, read(*node, kSize - 512, 512));
  EXPECT_TRUE(read(*node, 0, kSize) == model);
  EXPECT_EQ(flush(*node), 0);
  expect_in_file(model);
}

TEST_P(MappedTest, threads_write_discard_and_flush_side_by_side) {
  make_image();
  auto client = Client::attach(node, "guest", {.used = kPermissionRead | kPermissionWrite});
  ASSERT_TRUE(client);
  Guest guest(*client, std::string(kSize, '\0'), 9, 3);
  guest.wait_for(300);
  const std::string wanted = guest.stop();
  EXPECT_TRUE(same(read(*node, 0, kSize), wanted));
  client->reset();
  faults = nullptr;
  close(node);
  expect_content(path("disk"), format(), wanted);
  EXPECT_EQ(check(path("disk"), format()).corruptions, 0u);
}

INSTANTIATE_TEST_SUITE_P(Formats, MappedTest,
                         testing::Values(Format{"vdi", {}}, Format{"vhdx", {{"block_size", "1M"}}},
                                         Format{"vmdk", {}}, Format{"vpc", {}}, Format{"qed", {}},
                                         Format{"parallels", {{"cluster_size", "64k"}}}),
                         [](const auto& each) { return std::string(each.param.name); });

// Its 512 tables lie in more pages of memory than may wait.
TEST_F(FormatTest, places_are_stored_when_too_many_wait) {
  const std::string file = path("disk.qed");
  create(file, "qed", {{"size", uint64_t{2} << 30}, {"cluster_size", 4096}, {"table_size", 2}});
  NodePtr node = open_options({{"driver", "qed"},
                               {"file",
                                {{"driver", "blkdebug"},
                                 {"node-name", "faults"},
                                 {"image", {{"driver", "file"}, {"filename", file}}}}}});
  ASSERT_NE(node, nullptr);
  auto faults = std::dynamic_pointer_cast<FaultNode>(opener.find("faults"));
  for (uint64_t at = 0; at < node->size(); at += 4 << 20)
    EXPECT_EQ(write(*node, at, std::string(512, static_cast<char>(1 + (at >> 22) % 200))), 0);
  EXPECT_GE(faults->count(kFaultFlush), 4u);
  for (uint64_t at = 0; at < node->size(); at += 4 << 20)
    EXPECT_EQ(read(*node, at, 512), std::string(512, static_cast<char>(1 + (at >> 22) % 200)));
  // More is not taken while they cannot be stored.
  faults->add({.kinds = kFaultFlush});
  int error = 0;
  for (uint64_t at = 4096; at < node->size() && error == 0; at += 4 << 20) error = write(*node, at, "x");
  EXPECT_EQ(error, -EIO);
  faults->clear();
  faults = nullptr;
  close(node);
  EXPECT_EQ(check(file, "qed").corruptions, 0u);
}

}  // namespace
}  // namespace ostler::block::test
