// The job "backup" under a guest that writes: its target holds the disk as it was when the job began.
#include "block/jobs/backup.h"
#include "block/jobs/bitmaps.h"
#include "block/jobs/graph.h"
#include "job_fixture.h"

namespace ostler::block {
namespace {

using test::Guest;
using test::JobTest;
using test::same;

constexpr uint64_t kSize = 8 << 20;

class BackupTest : public JobTest {
 protected:
  void SetUp() override {
    JobTest::SetUp();
    reset();
  }
  void reset() {
    options = {};
    options.job.id = "backup0";
    options.job.auto_dismiss = false;
  }
  NodePtr make_target(const std::string& name, nlohmann::json more = nlohmann::json::object()) {
    more["size"] = kSize;
    create(name, more);
    NodePtr node = open(path(name), "qcow2");
    options.target = node;
    return node;
  }
  std::shared_ptr<Job> start() {
    options.node = guest_disk->node();
    auto job = run(start_backup(manager, std::move(options)));
    reset();
    return expect_job(std::move(job));
  }
  std::string start_error(BackupOptions copy) {
    copy.node = guest_disk->node();
    auto job = run(start_backup(manager, std::move(copy)));
    EXPECT_FALSE(job);
    return job ? "" : job.error().message();
  }
  // Writes at random, as a guest that stands still at the end: what the disk holds then.
  std::string scribble(const std::string& content, unsigned seed, unsigned requests = 40) {
    Guest guest(guest_disk, content, seed);
    guest.wait_for(requests);
    return guest.stop();
  }
  Bitmaps& bitmaps() { return *skip_filters(guest_disk->node())->bitmaps(); }
  uint64_t dirty_bytes() { return bitmaps().list().at(0).dirty_bytes; }
  BackupOptions options;
};

TEST_F(BackupTest, the_target_is_the_disk_at_the_beginning) {
  for (unsigned i = 0; i < 4; ++i) {
    SCOPED_TRACE(i);
    std::string content = make_chain("disk", 2, kSize, 61 + i);
    attach_guest("disk1");
    content = scribble(content, 60 + i);
    NodePtr target = make_target("target", {{"cluster_size", i == 1 ? 4096 : 65536}});
    options.job.speed = 0;
    options.compress = i == 2;
    options.job.auto_finalize = i != 3;
    // Slow until the guest has run ahead of it.
    options.job.speed = 1 << 20;
    const auto job = start();
    ASSERT_NE(job, nullptr);
    Guest guest(guest_disk, content, 70 + i);
    guest.wait_for(80);
    EXPECT_TRUE(job->set_speed(0));
    if (i == 3) {
      wait_for_status(job, JobStatus::kPending);
      guest.wait_for(20);
      EXPECT_TRUE(job->finalize());
    }
    EXPECT_EQ(end_of(job), "");
    const std::string wanted = guest.stop();
    EXPECT_TRUE(same(read_guest_disk(), wanted));
    EXPECT_EQ(guest_disk->node()->driver(), "qcow2");
    close(target);
    close_guest_disk();
    expect_check_clean("target");
    expect_content("target", content);
    expect_content("disk1", wanted);
    ASSERT_TRUE(job->dismiss());
  }
}

TEST_F(BackupTest, top_copies_what_the_topmost_image_has) {
  const std::string content = make_chain("disk", 2, kSize, 65);
  attach_guest("disk1");
  create("target", {{"size", kSize}, {"backing_file", path("disk0")}, {"backing_fmt", "qcow2"}});
  NodePtr target = open(path("target"), "qcow2");
  options.target = target;
  options.sync = SyncMode::kTop;
  const auto job = start();
  ASSERT_NE(job, nullptr);
  Guest guest(guest_disk, content, 65);
  EXPECT_EQ(end_of(job), "");
  guest.stop();
  close(target);
  close_guest_disk();
  expect_check_clean("target");
  expect_content("target", content);
}

// Image fleecing: a reader sees the disk of one moment while the guest goes on.
TEST_F(BackupTest, a_snapshot_is_read_while_the_guest_overwrites_the_disk) {
  const std::string content = make_chain("disk", 2, kSize, 66);
  attach_guest("disk1");
  NodePtr target = make_target("scratch");
  options.sync = SyncMode::kNone;
  options.snapshot_node_name = "moment";
  const auto job = start();
  ASSERT_NE(job, nullptr);
  NodePtr moment = opener.find("moment");
  ASSERT_NE(moment, nullptr);
  auto reader = *Client::attach(moment, "reader", Permissions{});
  Guest guest(guest_disk, content, 66, 3);
  std::mt19937 random(66);
  for (int i = 0; i < 150; ++i) {
    const uint64_t offset = random() % (kSize / 512 - 600) * 512;
    std::string bytes((1 + random() % 600) * 512, '?');
    const iovec piece{bytes.data(), bytes.size()};
    ASSERT_EQ(context.run_until(reader->read(offset, Buffers(&piece, 1))), 0);
    ASSERT_TRUE(same(bytes, content.substr(offset, bytes.size()))) << offset;
  }
  wait_for_status(job, JobStatus::kRunning);
  EXPECT_TRUE(job->cancel());
  EXPECT_NE(end_of(job), "");
  char sector[512];
  const iovec piece{sector, sizeof sector};
  EXPECT_EQ(context.run_until(reader->read(0, Buffers(&piece, 1))), -EIO);
  reader = nullptr;
  moment = nullptr;
  const std::string wanted = guest.stop();
  EXPECT_TRUE(same(read_guest_disk(), wanted));
  close(target);
  close_guest_disk();
  expect_content("disk1", wanted);
}

TEST_F(BackupTest, increments_hold_what_has_changed_since_the_last_one) {
  std::string content = make_chain("disk", 1, kSize, 67);
  attach_guest("disk0");
  ASSERT_TRUE(run(bitmaps().add("changes", 65536, true)));
  std::string before = content;
  for (unsigned i = 0; i < 4; ++i) {
    SCOPED_TRACE(i);
    content = scribble(content, 670 + i, 10);
    const uint64_t changed = dirty_bytes();
    EXPECT_NE(changed, 0u);
    // An image that lies on the last backup.
    nlohmann::json more;
    if (i != 0) more = {{"backing_file", path("backup" + std::to_string(i - 1))}, {"backing_fmt", "qcow2"}};
    const std::string name = "backup" + std::to_string(i);
    NodePtr target = make_target(name, more);
    if (i != 0) {
      options.sync = i == 3 ? SyncMode::kBitmap : SyncMode::kIncremental;
      options.bitmap = "changes";
      if (i == 3) options.bitmap_mode = BitmapMode::kAlways;
    } else {
      ASSERT_TRUE(run(bitmaps().clear("changes")));
    }
    const auto job = start();
    ASSERT_NE(job, nullptr);
    std::string after;
    {
      Guest guest(guest_disk, content, 680 + i);
      EXPECT_EQ(end_of(job), "");
      guest.wait_for(3);
      after = guest.stop();
    }
    close(target);
    expect_check_clean(name);
    expect_content(name, content);
    content = after;
    ASSERT_TRUE(job->dismiss());
  }
  close_guest_disk();
  expect_check_clean("disk0");
  expect_content("disk0", content);
}

// The bits of a backup that failed come back: the next one loses nothing.
TEST_F(BackupTest, a_bitmap_outlives_a_backup_that_is_cancelled) {
  for (const BitmapMode mode : {BitmapMode::kOnSuccess, BitmapMode::kNever, BitmapMode::kAlways}) {
    std::string content = make_chain("disk", 1, kSize, 68);
    attach_guest("disk0");
    ASSERT_TRUE(run(bitmaps().add("changes", 65536, true)));
    // Copies the first part only; the whole of it is what the increments begin with.
    const std::string original = content;
    content = scribble(content, 68);
    const uint64_t changed = dirty_bytes();
    NodePtr target = make_target("target");
    options.sync = SyncMode::kBitmap;
    options.bitmap = "changes";
    options.bitmap_mode = mode;
    options.job.speed = 1;
    auto job = start();
    ASSERT_NE(job, nullptr);
    EXPECT_EQ(dirty_bytes(), mode == BitmapMode::kNever ? changed : 0);
    EXPECT_TRUE(job->cancel());
    EXPECT_NE(end_of(job), "");
    ASSERT_TRUE(job->dismiss());
    const bool all = mode != BitmapMode::kAlways;
    EXPECT_TRUE(!all || dirty_bytes() == changed);
    // The same target and the bitmap as it is now make a whole.
    options.target = target;
    options.sync = SyncMode::kBitmap;
    options.bitmap = "changes";
    options.bitmap_mode = BitmapMode::kOnSuccess;
    job = start();
    EXPECT_EQ(end_of(job), "");
    ASSERT_TRUE(job->dismiss());
    EXPECT_EQ(dirty_bytes(), 0u);
    std::string copy = read(*target, 0, kSize);
    for (uint64_t at = 0; at < kSize; at += 65536)
      if (content.compare(at, 65536, original, at, 65536) != 0) {
        EXPECT_EQ(copy.compare(at, 65536, content, at, 65536), 0) << at;
      }
    close(target);
    close_guest_disk();
    expect_check_clean("disk0");
  }
}

TEST_F(BackupTest, cancelling_at_any_moment_keeps_the_disk) {
  std::mt19937 random(69);
  for (unsigned i = 0; i < 5; ++i) {
    SCOPED_TRACE(i);
    const std::string content = make_chain("disk", 2, kSize, i);
    attach_guest("disk1");
    NodePtr target = make_target("target");
    options.job.speed = i == 0 ? 1 : 4 << 20;
    options.compress = i % 2 == 0;
    Guest guest(guest_disk, content, i);
    const auto job = start();
    ASSERT_NE(job, nullptr);
    guest.wait_for(static_cast<unsigned>(random() % 60));
    // It may have come to its end before.
    const bool in_time = job->cancel().has_value();
    EXPECT_EQ(end_of(job) != "", in_time);
    const std::string wanted = guest.stop();
    EXPECT_EQ(guest_disk->node()->driver(), "qcow2");
    EXPECT_TRUE(same(read_guest_disk(), wanted));
    close(target);
    close_guest_disk();
    expect_check_clean("disk1");
    expect_check_clean("target");
    expect_content("disk1", wanted);
    ASSERT_TRUE(job->dismiss());
  }
}

// Of a disk whose format keeps no bitmaps.
TEST_F(BackupTest, a_raw_disk_has_bitmaps_in_memory) {
  std::string content(kSize, 'r');
  make_file("raw", content);
  attach_guest(open(path("raw"), "raw"));
  const NodePtr disk = guest_disk->node();
  BitmapOptions bitmap;
  bitmap.node = disk;
  bitmap.name = "changes";
  bitmap.persistent = true;
  EXPECT_FALSE(run(add_bitmap(manager, bitmap)));
  bitmap.persistent = false;
  ASSERT_TRUE(run(add_bitmap(manager, bitmap)));
  bitmap.node = guest_disk->node();
  EXPECT_FALSE(run(add_bitmap(manager, bitmap)));
  bitmap.name = "others";
  ASSERT_TRUE(run(add_bitmap(manager, bitmap)));
  bitmap.node = nullptr;
  const std::string before = content;
  content = scribble(content, 77, 10);
  const auto infos = list_bitmaps(guest_disk->node());
  ASSERT_EQ(infos.size(), 2u);
  EXPECT_FALSE(infos[0].persistent);
  EXPECT_NE(infos[0].dirty_bytes, 0u);
  EXPECT_LT(infos[0].dirty_bytes, kSize);
  make_file("base", before);
  NodePtr target = make_target("target", {{"backing_file", path("base")}, {"backing_fmt", "raw"}});
  options.sync = SyncMode::kIncremental;
  options.bitmap = "changes";
  const auto job = start();
  ASSERT_NE(job, nullptr);
  EXPECT_EQ(end_of(job), "");
  EXPECT_EQ(list_bitmaps(guest_disk->node())[0].dirty_bytes, 0u);
  EXPECT_NE(list_bitmaps(guest_disk->node())[1].dirty_bytes, 0u);
  close(target);
  expect_content("target", content);
  EXPECT_TRUE(run(remove_bitmap(manager, guest_disk->node(), "changes")));
  EXPECT_NE(guest_disk->node(), disk);
  EXPECT_TRUE(run(remove_bitmap(manager, guest_disk->node(), "others")));
  EXPECT_EQ(guest_disk->node(), disk);
  EXPECT_FALSE(run(remove_bitmap(manager, guest_disk->node(), "others")));
}

class BackupFaultTest : public BackupTest {
 protected:
  std::string begin(unsigned seed) {
    std::string content = make_chain("disk", 1, kSize, seed);
    attach_guest("disk0");
    create("target", {{"size", kSize}});
    target = open_options(nlohmann::json::parse(
        R"({"driver": "qcow2", "file": {"driver": "blkdebug", "node-name": "faults", "image": {"driver": "file", "filename": ")" +
        path("target") + R"("}}})"));
    options.target = target;
    faults = std::dynamic_pointer_cast<FaultNode>(opener.find("faults"));
    return content;
  }
  void finish(Guest& guest) {
    const std::string wanted = guest.stop();
    EXPECT_TRUE(same(read_guest_disk(), wanted));
    faults = nullptr;
    close(target);
    close_guest_disk();
    expect_content("disk0", wanted);
  }
  NodePtr target;
  std::shared_ptr<FaultNode> faults;
};

TEST_F(BackupFaultTest, a_target_that_fails_a_guests_copy_ends_the_backup_and_not_the_guest) {
  const std::string content = begin(71);
  options.sync = SyncMode::kNone;
  Guest guest(guest_disk, content, 71);
  const auto job = start();
  faults->add({.kinds = kFaultWrite, .error = EIO});
  EXPECT_NE(end_of(job).find("overwrites"), std::string::npos) << job->info().error;
  guest.wait_for(30);
  faults->clear();
  finish(guest);
}

TEST_F(BackupFaultTest, or_breaks_the_guests_write_if_asked) {
  const std::string content = begin(72);
  options.sync = SyncMode::kNone;
  options.on_cbw_error = OnCbwError::kBreakGuestWrite;
  const auto job = start();
  faults->add({.kinds = kFaultWrite, .error = ENOSPC});
  const std::string data(4096, 'x');
  const iovec piece{const_cast<char*>(data.data()), data.size()};
  // Where the disk has data: zeros need no room.
  const uint64_t at = content.find_first_not_of('\0') / 4096 * 4096;
  EXPECT_EQ(context.run_until(guest_disk->write(at, Buffers(&piece, 1))), -ENOSPC);
  EXPECT_TRUE(same(read_guest_disk(), content));
  faults->clear();
  EXPECT_EQ(context.run_until(guest_disk->write(at, Buffers(&piece, 1))), 0);
  wait_for_status(job, JobStatus::kRunning);
  EXPECT_TRUE(job->cancel());
  end_of(job);
  faults = nullptr;
  close(target);
  close_guest_disk();
}

TEST_F(BackupFaultTest, a_full_target_stops_the_backup_until_there_is_room) {
  const std::string content = begin(73);
  options.on_target_error = OnError::kEnospc;
  faults->add({.kinds = kFaultWrite, .error = ENOSPC, .skip = 3});
  const auto job = start();
  wait_for_status(job, JobStatus::kPaused);
  EXPECT_EQ(job->info().io_status, IoStatus::kNoSpace);
  faults->clear();
  EXPECT_TRUE(job->resume());
  EXPECT_EQ(end_of(job), "");
  faults = nullptr;
  close(target);
  close_guest_disk();
  expect_check_clean("target");
  expect_content("target", content);
}

TEST_F(BackupFaultTest, ignored_errors_are_tried_again_and_reported_ones_end_it) {
  const std::string content = begin(74);
  options.on_target_error = OnError::kIgnore;
  faults->add({.kinds = kFaultWrite, .error = EIO, .skip = 2, .once = true});
  auto job = start();
  EXPECT_EQ(end_of(job), "");
  EXPECT_EQ(events_of(JobEvent::Kind::kError), 1u);
  ASSERT_TRUE(job->dismiss());
  EXPECT_TRUE(same(read(*target, 0, kSize), content));
  options.target = target;
  faults->add({.kinds = kFaultWrite | kFaultWriteZeroes, .error = EIO});
  job = start();
  EXPECT_NE(end_of(job).find("writing failed"), std::string::npos) << job->info().error;
  faults->clear();
  faults = nullptr;
  close(target);
  close_guest_disk();
}

TEST_F(BackupTest, what_cannot_be_backed_up_is_refused) {
  make_chain("disk", 1, kSize, 75);
  attach_guest("disk0");
  NodePtr target = make_target("target");
  BackupOptions wrong = options;
  wrong.sync = SyncMode::kIncremental;
  EXPECT_NE(start_error(wrong).find("'bitmap'"), std::string::npos);
  wrong.bitmap = "none";
  EXPECT_NE(start_error(wrong).find("has no bitmap 'none'"), std::string::npos);
  wrong.bitmap_mode = BitmapMode::kNever;
  EXPECT_NE(start_error(wrong).find("on-success"), std::string::npos);
  wrong = options;
  make_file("raw", std::string(kSize, '\0'));
  wrong.target = open(path("raw"), "raw");
  wrong.compress = true;
  EXPECT_NE(start_error(wrong).find("no compression"), std::string::npos);
  wrong = {};
  reset();
  EXPECT_EQ(guest_disk->node()->driver(), "qcow2");
  close(target);
  close_guest_disk();
}

}  // namespace
}  // namespace ostler::block
