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
  const auto reopened = context.run_until(node->reopen(false));
  ASSERT_TRUE(reopened) << reopened.error().message();
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

// What lies beyond the end of the file was never written, or is lost: an image that was copied in part, or
// tables made up. The clusters before it are read as ever.
TEST_F(Qcow2LookupTest, clusters_beyond_the_end_of_the_file_are_an_error) {
  constexpr uint64_t kCluster = 65536;
  create("disk", {{"size", 4 * kMiB}});
  NodePtr node = open(path("disk"), "qcow2");
  EXPECT_EQ(write(*node, 0, std::string(32 * kCluster, 'x')), 0);
  BlockStatus status;
  ASSERT_EQ(context.run_until(node->block_status(0, kCluster, StatusDetail::kQuick, status)), 0);
  const uint64_t host = status.offset;
  close(node);
  ASSERT_EQ(truncate(path("disk").c_str(), static_cast<off_t>(host + 9 * kCluster + 5000)), 0);

  node = open(path("disk"), "qcow2", false);
  ASSERT_NE(node, nullptr);
  EXPECT_TRUE(same(read(*node, 0, 9 * kCluster + 4096), std::string(9 * kCluster + 4096, 'x')));
  EXPECT_TRUE(same(read(*node, 10 * kCluster - 512, 512), std::string(512, '\0'))) << "the last in part";
  ASSERT_EQ(context.run_until(node->block_status(0, 4 * kMiB, StatusDetail::kQuick, status)), 0);
  EXPECT_EQ(status.bytes, 10 * kCluster);
  testing::internal::CaptureStderr();
  EXPECT_EQ(read_error(*node, 10 * kCluster), -EIO);
  const std::string told = testing::internal::GetCapturedStderr();
  EXPECT_NE(told.find("the data of guest offset 0xa0000 is at"), std::string::npos) << told;
  EXPECT_NE(told.find("the file ends at"), std::string::npos) << told;
  EXPECT_EQ(read_error(*node, 31 * kCluster), -EIO);
  EXPECT_EQ(context.run_until(node->block_status(10 * kCluster, 512, StatusDetail::kQuick, status)), -EIO);
  std::byte bytes[512];
  const iovec buffer = {bytes, sizeof bytes};
  EXPECT_EQ(node->try_read(10 * kCluster, Buffers(&buffer, 1)), -EAGAIN);
  std::string across(2 * kCluster, '\0');
  EXPECT_EQ(context.run_until(read_bytes(*node, 9 * kCluster, across.data(), across.size())), -EIO);
  EXPECT_EQ(read(*node, 33 * kCluster, 512), std::string(512, '\0')) << "never written";
  close(node);

  // Another program may make the file longer while we read it.
  OpenFlags flags;
  flags.force_share = true;
  node = open(path("disk"), "qcow2", flags);
  ASSERT_NE(node, nullptr);
  EXPECT_EQ(read_error(*node, 10 * kCluster), 0);
  close(node);

  node = open(path("disk"), "qcow2");
  EXPECT_EQ(write(*node, 9 * kCluster, "here"), 0);
  EXPECT_EQ(write(*node, 10 * kCluster, "there"), -EIO) << "whose cluster it is nobody knows";
  close(node);
}

TEST_F(Qcow2LookupTest, an_l2_table_beyond_the_end_of_the_file_is_an_error) {
  create("disk", {{"size", 4 * kMiB}});
  NodePtr node = open(path("disk"), "qcow2");
  EXPECT_EQ(write(*node, 0, "x"), 0);
  close(node);
  std::string content = content_of(path("disk"));
  const uint64_t beyond = align_up(content.size(), 65536);
  qcow2::store_be<uint64_t>(&content[l1_offset()], beyond | qcow2::kCopied);
  make_file("disk", content);
  node = open(path("disk"), "qcow2", false);
  ASSERT_NE(node, nullptr);
  testing::internal::CaptureStderr();
  EXPECT_EQ(read_error(*node, 0), -EIO);
  EXPECT_NE(testing::internal::GetCapturedStderr().find("the L2 table of guest offset 0x0"),
            std::string::npos);
  BlockStatus status;
  EXPECT_EQ(context.run_until(node->block_status(0, 512, StatusDetail::kQuick, status)), -EIO);
  close(node);
}

// Of 160 MiB in clusters of 512 bytes the L2 entries are written in parts, before all are there.
TEST_F(Qcow2LookupTest, preallocation_that_stops_half_way_leaves_no_entry_beyond_the_end_of_the_file) {
  int64_t in_part = 0;
  bool whole = false;
  for (unsigned flushes = 0; !whole; ++flushes) {
    ASSERT_LT(flushes, 40u);
    create("disk", {{"size", kMiB}, {"cluster_size", 512}});
    NodePtr node = open_with_faults(true);
    ASSERT_NE(node, nullptr);
    faults->add({.kinds = kFaultFlush, .skip = flushes});
    whole = static_cast<bool>(context.run_until(node->truncate(160 * kMiB, Preallocation::kMetadata)));
    faults = nullptr;
    node = nullptr;  // as if killed
    OpenFlags flags;
    flags.writable = flags.check = true;
    node = open(path("disk"), "qcow2", flags);
    ASSERT_NE(node, nullptr);
    const auto report = context.run_until(node->checker()->check({}));
    ASSERT_TRUE(report);
    EXPECT_EQ(report->corruptions + report->errors, 0u) << flushes;
    if (!whole) in_part = std::max<int64_t>(in_part, report->allocated_clusters);
    close(node);
  }
  EXPECT_GT(in_part, 0) << "some entries were written";
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
