// Persistent dirty bitmaps: stored when an image is closed, of no use after a crash, understood by qemu-img.
#include "qcow2_fixture.h"

namespace ostler::block {
namespace {

using test::Qcow2Test;
using test::run_command;

using Ranges = std::vector<std::pair<uint64_t, uint64_t>>;

Ranges dirty(Node& node, const std::string& name) {
  Ranges ranges;
  uint64_t at = 0, begin, end;
  for (;;) {
    const auto found = node.bitmaps()->next_dirty(name, at, begin, end);
    if (!found || !*found) return ranges;
    ranges.push_back({begin, end});
    at = end;
  }
}

TEST_F(Qcow2Test, bitmaps_record_writes_and_survive_closing) {
  create("disk", {{"size", "3M"}, {"cluster_size", 512}});
  NodePtr node = open(path("disk"), "qcow2");
  ASSERT_TRUE(context.run_until(node->bitmaps()->add("fine", 512, true)));
  ASSERT_TRUE(context.run_until(node->bitmaps()->add("coarse", 65536, true)));
  ASSERT_TRUE(context.run_until(node->bitmaps()->add("off", 65536, false)));
  EXPECT_EQ(write(*node, 1024, std::string(512, 'x')), 0);
  EXPECT_EQ(zero(*node, 1 << 20, 70000 / 512 * 512, true), 0);
  const Ranges fine = {{1024, 1536}, {1 << 20, (1 << 20) + 70000 / 512 * 512}};
  const Ranges coarse = {{0, 65536}, {1 << 20, (1 << 20) + 131072}};
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(dirty(*node, "fine"), fine);
    EXPECT_EQ(dirty(*node, "coarse"), coarse);
    EXPECT_EQ(dirty(*node, "off"), Ranges());
    close(node);
    expect_check_clean("disk");
    node = open(path("disk"), "qcow2");
    ASSERT_NE(node, nullptr);
  }
  std::string output;
  ASSERT_EQ(run_command("qemu-img info -U " + path("disk"), &output), 0);
  EXPECT_NE(output.find("coarse"), std::string::npos) << output;
  EXPECT_EQ(output.find("in-use"), std::string::npos) << output;
  close(node);
}

TEST_F(Qcow2Test, bitmaps_of_qemu_img_are_kept_up_to_date) {
  qemu_img("create -f qcow2 disk 2M");
  qemu_img("bitmap --add -g 64k disk theirs");
  NodePtr node = open(path("disk"), "qcow2");
  EXPECT_EQ(write(*node, 70000 / 512 * 512, std::string(512, 'x')), 0);
  close(node);
  expect_check_clean("disk");
  qemu_img("bitmap --add --merge theirs -g 64k disk copy");
  node = open(path("disk"), "qcow2", false);
  EXPECT_EQ(dirty(*node, "copy"), (Ranges{{65536, 131072}}));
}

TEST_F(Qcow2Test, a_bitmap_that_was_not_stored_can_only_be_removed) {
  qemu_img("create -f qcow2 disk 2M");
  qemu_img("bitmap --add -g 64k disk lost");
  {
    const NodePtr node = open(path("disk"), "qcow2");
    EXPECT_EQ(write(*node, 0, std::string(512, 'x')), 0);
    // A crash: never closed.
  }
  NodePtr node = open(path("disk"), "qcow2");
  ASSERT_EQ(node->bitmaps()->list().size(), 1u);
  EXPECT_TRUE(node->bitmaps()->list()[0].in_use);
  EXPECT_FALSE(context.run_until(node->bitmaps()->clear("lost")));
  EXPECT_TRUE(context.run_until(node->bitmaps()->remove("lost")));
  close(node);
  node = open(path("disk"), "qcow2");
  EXPECT_TRUE(node->bitmaps()->list().empty());
  check(*node, {.repair_leaks = true, .repair_errors = true});
  close(node);
  expect_check_clean("disk");
}

TEST_F(Qcow2Test, bitmaps_follow_the_size_of_the_disk) {
  create("disk", {{"size", "2M"}});
  NodePtr node = open(path("disk"), "qcow2");
  ASSERT_TRUE(context.run_until(node->bitmaps()->add("b", 65536, true)));
  ASSERT_TRUE(node->bitmaps()->mark("b", 0, 2 << 20));
  ASSERT_TRUE(context.run_until(node->truncate(1 << 20, Preallocation::kOff)));
  ASSERT_TRUE(context.run_until(node->truncate(3 << 20, Preallocation::kOff)));
  close(node);
  node = open(path("disk"), "qcow2");
  ASSERT_NE(node, nullptr);
  EXPECT_EQ(dirty(*node, "b"), (Ranges{{0, 1 << 20}}));
  close(node);
  expect_check_clean("disk");
}

TEST_F(Qcow2Test, writes_take_the_long_way_only_while_there_are_bitmaps) {
  create("disk", {{"size", 1 << 20}});
  NodePtr node = open(path("disk"), "qcow2");
  ASSERT_NE(node, nullptr);
  std::string data(4096, 'x');
  EXPECT_EQ(write(*node, 0, data), 0);
  const iovec piece{data.data(), data.size()};
  const auto at_once = [&] { return node->try_write(0, Buffers(&piece, 1)); };
  EXPECT_EQ(at_once(), 0);
  EXPECT_TRUE(node->bitmaps()->list().empty());
  EXPECT_EQ(at_once(), 0);
  EXPECT_TRUE(context.run_until(node->bitmaps()->add("b", 65536, true)));
  EXPECT_EQ(at_once(), -EAGAIN);
  EXPECT_TRUE(context.run_until(node->bitmaps()->remove("b")));
  EXPECT_EQ(at_once(), 0);
  close(node);
}

}  // namespace
}  // namespace ostler::block
