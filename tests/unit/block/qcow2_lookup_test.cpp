// qcow2: how a guest's offset is found, and what of the tables is in memory for it.
#include "block/filters/fault_node.h"
#include "block/qcow2/format.h"
#include "qcow2_fixture.h"

namespace ostler::block {
namespace {

using test::Qcow2Test;
using test::same;

constexpr uint64_t kMiB = 1 << 20, kTiB = uint64_t{1} << 40;

// 4 KiB of an L1 table are for 512 tables of 512 MiB each.
constexpr uint64_t kPart = 512 * 512 * kMiB;

class Qcow2LookupTest : public Qcow2Test {
 protected:
  // Of an image of 16 TiB, where two parts of the table are not what the guest will read first.
  NodePtr open_with_faults(bool writable) {
    NodePtr node = open_options({{"driver", "qcow2"},
                                 {"file",
                                  {{"driver", "blkdebug"},
                                   {"node-name", "faults"},
                                   {"image", {{"driver", "file"}, {"filename", path("disk")}}}}}},
                                writable);
    faults = std::dynamic_pointer_cast<FaultNode>(opener.find("faults"));
    return node;
  }
  uint64_t l1_offset() {
    const std::string content = content_of(path("disk"));
    return qcow2::load_be<uint64_t>(&content[40]);
  }
  int read_error(Node& node, uint64_t offset) {
    std::byte bytes[512];
    return context.run_until(read_bytes(node, offset, bytes, sizeof bytes));
  }
  std::shared_ptr<FaultNode> faults;
};

TEST_F(Qcow2LookupTest, what_is_not_asked_for_of_the_l1_table_is_not_read_from_an_image_that_is_only_read) {
  create("disk", {{"size", 16 * kTiB}});
  NodePtr node = open(path("disk"), "qcow2");
  EXPECT_EQ(write(*node, 5 * kPart, "five"), 0);
  close(node);
  node = open_with_faults(false);
  ASSERT_NE(node, nullptr);
  const uint64_t before = faults->count(kFaultRead);
  faults->add({.kinds = kFaultRead, .offset = l1_offset() + 5 * 4096});
  EXPECT_EQ(read_error(*node, 4 * kPart), 0);
  EXPECT_EQ(read_error(*node, 4 * kPart + kPart / 2), 0) << "of the same part of the table";
  EXPECT_EQ(faults->count(kFaultRead) - before, 1u);
  EXPECT_EQ(read_error(*node, 5 * kPart), -EIO);
  BlockStatus status;
  EXPECT_EQ(context.run_until(node->block_status(5 * kPart, 512, StatusDetail::kQuick, status)), -EIO);
  faults->clear();
  EXPECT_EQ(read(*node, 5 * kPart, 4), "five") << "a failed read of the table is forgotten";
  EXPECT_EQ(read(*node, 16 * kTiB - 8, 8), std::string(8, '\0'));
  faults = nullptr;
  close(node);
}

TEST_F(Qcow2LookupTest, all_of_the_l1_table_is_there_once_the_image_is_written_or_checked) {
  create("disk", {{"size", 16 * kTiB}});
  NodePtr node = open_with_faults(false);
  ASSERT_NE(node, nullptr);
  faults->add({.kinds = kFaultRead, .offset = l1_offset() + 7 * 4096});
  EXPECT_FALSE(context.run_until(node->checker()->check({})));
  EXPECT_FALSE(context.run_until(node->reopen(true)));
  EXPECT_EQ(write(*node, 0, "none"), -EROFS) << "it is as it was before";
  EXPECT_EQ(read_error(*node, 0), 0);
  faults = nullptr;
  node = nullptr;
  node = open_with_faults(false);
  EXPECT_EQ(read_error(*node, 0), 0);
  ASSERT_TRUE(context.run_until(node->reopen(true)));
  faults->add({.kinds = kFaultRead, .offset = l1_offset() + 7 * 4096});
  EXPECT_EQ(write(*node, 7 * kPart, "seven"), 0);
  EXPECT_EQ(flush(*node), 0);
  faults->clear();
  ASSERT_TRUE(context.run_until(node->reopen(false)));
  EXPECT_EQ(read(*node, 7 * kPart, 5), "seven");
  const auto report = check(*node);
  EXPECT_EQ(report.corruptions + report.errors + report.leaks, 0u);
  faults = nullptr;
  close(node);
  expect_check_clean("disk");
}

TEST_F(Qcow2LookupTest, a_check_of_an_image_that_is_only_read_looks_at_all_copied_bits) {
  create("disk", {{"size", 16 * kTiB}});
  NodePtr node = open(path("disk"), "qcow2");
  EXPECT_EQ(write(*node, 5 * kPart, "five"), 0);
  close(node);
  std::fstream file(path("disk"), std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(static_cast<std::streamoff>(l1_offset() + 5 * 4096));
  file.put('\0');  // of the entry, big-endian, the "copied" bit is the first
  file.close();
  node = open(path("disk"), "qcow2", false);
  const auto report = context.run_until(node->checker()->check({}));
  ASSERT_TRUE(report);
  EXPECT_EQ(report->corruptions, 1u);
  close(node);
}

// Small clusters: 16 MiB to a part. Of the last one the file has less than 4 KiB.
TEST_F(Qcow2LookupTest, an_image_reads_the_same_in_any_order_of_its_l1_tables_parts) {
  constexpr size_t kSize = 70 * kMiB;
  create("disk", {{"size", kSize}, {"cluster_size", 512}});
  std::string model(kSize, '\0');
  NodePtr node = open(path("disk"), "qcow2");
  for (size_t i = 0; i < 70; ++i) {
    const std::string bytes(700, static_cast<char>('!' + i));
    EXPECT_EQ(write(*node, i * kMiB + 300 * i, bytes), 0);
    model.replace(i * kMiB + 300 * i, bytes.size(), bytes);
  }
  SnapshotInfo info;
  info.name = "then";
  ASSERT_TRUE(context.run_until(node->snapshots()->create(info)));
  const std::string then = model;
  EXPECT_EQ(write(*node, 40 * kMiB, "later"), 0);
  model.replace(40 * kMiB, 5, "later");
  close(node);
  expect_content("disk", model);
  for (const bool backwards : {false, true}) {
    node = open(path("disk"), "qcow2", false);
    for (size_t i = 0; i < 70; ++i) {
      const size_t at = (backwards ? 69 - i : i) * kMiB;
      EXPECT_TRUE(same(read(*node, at, kMiB), model.substr(at, kMiB))) << at;
    }
    close(node);
  }
  node = open(path("disk"), "qcow2", false);
  EXPECT_TRUE(same(read(*node, 0, kSize), model));
  ASSERT_TRUE(context.run_until(node->snapshots()->load("then")));
  EXPECT_TRUE(same(read(*node, 0, kSize), then));
  close(node);
}

}  // namespace
}  // namespace ostler::block
