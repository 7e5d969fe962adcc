// External snapshots while guests write.
#include "block/jobs/commit.h"
#include "block/jobs/snapshot.h"
#include "job_fixture.h"

namespace ostler::block {
namespace {

using test::Guest;
using test::JobTest;
using test::same;

constexpr uint64_t kSize = 8 << 20;

class SnapshotTest : public JobTest {
 protected:
  Result<NodePtr> snapshot(const std::string& name) {
    SnapshotFile file;
    file.node = guest_disk->node();
    file.file = path(name);
    file.flags.no_flush = true;
    return run(take_snapshot_file(manager, std::move(file)));
  }
};

TEST_F(SnapshotTest, the_old_image_keeps_what_it_had_and_the_guest_goes_on) {
  const std::string content = make_chain("disk", 1, kSize, 51);
  attach_guest("disk0");
  std::string kept;
  {
    Guest guest(guest_disk, content, 51);
    guest.wait_for(30);
    kept = guest.stop();
  }
  Guest guest(guest_disk, kept, 52, 3);
  guest.wait_for(30);
  for (int i = 1; i < 5; ++i) {
    auto made = snapshot("snap" + std::to_string(i));
    ASSERT_TRUE(made) << made.error().message();
    EXPECT_EQ(guest_disk->node(), *made);
    EXPECT_TRUE(next_in_chain(*made)->read_only());
    guest.wait_for(40);
  }
  const std::string wanted = guest.stop();
  EXPECT_TRUE(same(read_guest_disk(), wanted));
  close_guest_disk();
  EXPECT_EQ(backing_of("snap1"), path("disk0"));
  EXPECT_EQ(backing_of("snap4"), path("snap3"));
  for (const char* name : {"disk0", "snap1", "snap2", "snap3", "snap4"}) expect_check_clean(name);
  expect_content("snap4", wanted);
}

TEST_F(SnapshotTest, nothing_that_is_written_later_reaches_the_old_image) {
  const std::string content = make_chain("disk", 1, kSize, 53);
  attach_guest("disk0");
  ASSERT_TRUE(snapshot("snap"));
  Guest guest(guest_disk, content, 53);
  guest.wait_for(100);
  const std::string wanted = guest.stop();
  close_guest_disk();
  expect_content("disk0", content);
  expect_content("snap", wanted);
}

TEST_F(SnapshotTest, a_snapshot_is_undone_by_a_commit) {
  const std::string content = make_chain("disk", 1, kSize, 54);
  attach_guest("disk0");
  Guest guest(guest_disk, content, 54);
  NodePtr disk = guest_disk->node();
  ASSERT_TRUE(snapshot("snap"));
  CommitOptions options;
  options.job.id = "commit0";
  options.node = guest_disk->node();
  const auto job = expect_job(run(start_commit(manager, std::move(options))));
  wait_for_status(job, JobStatus::kReady);
  auto busy = snapshot("other");
  ASSERT_FALSE(busy);
  EXPECT_EQ(busy.error().kind(), ErrorKind::kBusy);
  EXPECT_TRUE(job->complete());
  EXPECT_EQ(end_of(job), "");
  EXPECT_EQ(guest_disk->node(), disk);
  disk = nullptr;
  const std::string wanted = guest.stop();
  EXPECT_TRUE(same(read_guest_disk(), wanted));
  close_guest_disk();
  expect_check_clean("disk0");
  expect_content("disk0", wanted);
}

TEST_F(SnapshotTest, of_several_disks_all_or_none) {
  const std::string content = make_chain("disk", 1, kSize, 55);
  attach_guest("disk0");
  create("second", {{"size", kSize}});
  NodePtr second = open(path("second"), "qcow2");
  const auto user = *Client::attach(second, "second guest", test::kGuest);
  create("over0", {{"size", kSize}});
  create("over1", {{"size", kSize}});
  // The second cannot get its overlay: a driver that knows no backing files.
  make_file("over1", std::string(kSize, '\0'));
  std::vector<SnapshotPair> disks = {{guest_disk->node(), open(path("over0"), "qcow2")},
                                     {second, open(path("over1"), "raw")}};
  const NodePtr first = guest_disk->node();
  const auto failed = run(take_snapshots(manager, disks));
  ASSERT_FALSE(failed);
  EXPECT_EQ(guest_disk->node(), first);
  EXPECT_EQ(user->node(), second);
  EXPECT_FALSE(first->read_only());
  NodePtr over = std::move(disks[1].overlay);
  close(over);
  create("over1", {{"size", kSize}});
  disks[1].overlay = open(path("over1"), "qcow2");
  const auto taken = run(take_snapshots(manager, disks));
  EXPECT_TRUE(taken) << (taken ? "" : taken.error().message());
  EXPECT_EQ(guest_disk->node(), disks[0].overlay);
  EXPECT_EQ(user->node(), disks[1].overlay);
  EXPECT_TRUE(same(read_guest_disk(), content));
}

TEST_F(SnapshotTest, a_flush_that_fails_keeps_the_old_image_on_top) {
  make_chain("disk", 1, kSize, 56);
  attach_guest(open_options(nlohmann::json::parse(
      R"({"driver": "qcow2", "file": {"driver": "blkdebug", "node-name": "faults", "image": {"driver": "file", "filename": ")" +
      path("disk0") + R"("}}})")));
  const auto faults = std::dynamic_pointer_cast<FaultNode>(opener.find("faults"));
  faults->add({.kinds = kFaultFlush, .error = EIO});
  const NodePtr before = guest_disk->node();
  const auto made = snapshot("snap");
  ASSERT_FALSE(made);
  EXPECT_NE(made.error().message().find("durable"), std::string::npos) << made.error().message();
  EXPECT_EQ(guest_disk->node(), before);
  EXPECT_FALSE(before->read_only());
}

TEST_F(SnapshotTest, a_backing_file_may_get_another_name) {
  const std::string content = make_chain("disk", 3, kSize, 57);
  attach_guest("disk2");
  Guest guest(guest_disk, content, 57);
  std::filesystem::create_hard_link(path("disk0"), path("other"));
  const auto changed =
      run(change_backing_file(manager, guest_disk->node(), next_in_chain(guest_disk->node()), path("other")));
  EXPECT_TRUE(changed) << (changed ? "" : changed.error().message());
  const std::string wanted = guest.stop();
  close_guest_disk();
  EXPECT_EQ(backing_of("disk1"), path("other"));
  std::filesystem::remove(path("disk0"));
  expect_content("disk2", wanted);
}

}  // namespace
}  // namespace ostler::block
