// The job "mirror" under a guest that writes: its target holds the same disk, and the guest may go over to
// it.
#include "block/jobs/graph.h"
#include "block/jobs/mirror.h"
#include "block/jobs/mirror_filter.h"
#include "job_fixture.h"

namespace ostler::block {
namespace {

using test::Guest;
using test::JobTest;
using test::same;

constexpr uint64_t kSize = 8 << 20;

struct Case {
  const char* name;
  MirrorCopyMode mode;
  uint64_t granularity;
  const char* target;  // format
};
void PrintTo(const Case& each, std::ostream* to) {
  *to << each.name;
}

class MirrorTest : public JobTest {
 protected:
  void SetUp() override {
    JobTest::SetUp();
    options.job.id = "mirror0";
    options.job.auto_dismiss = false;
  }
  // A target with content that must not survive.
  void make_target(const std::string& format, bool dirty = true) {
    if (format == "raw") {
      make_file("target", std::string(dirty ? kSize : 0, 'x'));
      std::filesystem::resize_file(path("target"), kSize);
    } else {
      create("target", {{"size", kSize}});
    }
    options.target = open(path("target"), format);
    if (dirty && format != "raw") {
      EXPECT_EQ(write(*options.target, 1 << 20, std::string(3 << 20, 'x')), 0);
    }
  }
  std::shared_ptr<Job> start() {
    options.node = guest_disk->node();
    auto job = run(start_mirror(manager, std::move(options)));
    options = {};
    return expect_job(std::move(job));
  }
  std::string start_error() {
    options.node = guest_disk->node();
    MirrorOptions copy = options;
    auto job = run(start_mirror(manager, std::move(copy)));
    options.node = nullptr;
    EXPECT_FALSE(job);
    return job ? "" : job.error().message();
  }
  MirrorOptions options;
};

class EveryMirrorTest : public MirrorTest, public testing::WithParamInterface<Case> {};

TEST_P(EveryMirrorTest, the_guest_goes_over_to_the_target) {
  const std::string content = make_chain("disk", 2, kSize, 21);
  attach_guest("disk1");
  make_target(GetParam().target);
  options.copy_mode = GetParam().mode;
  options.granularity = GetParam().granularity;
  NodePtr target = options.target;
  Guest guest(guest_disk, content, 21, 3);
  guest.wait_for(10);
  const auto job = start();
  ASSERT_NE(job, nullptr);
  wait_for_status(job, JobStatus::kReady);
  guest.wait_for(100);
  EXPECT_TRUE(job->complete());
  EXPECT_EQ(end_of(job), "");
  EXPECT_EQ(guest_disk->node(), target);
  guest.wait_for(50);
  const std::string wanted = guest.stop();
  EXPECT_TRUE(same(read_guest_disk(), wanted));
  guest_disk = nullptr;
  close(target);
  if (std::string(GetParam().target) == "qcow2") expect_check_clean("target");
  expect_content("target", wanted, GetParam().target);
  expect_check_clean("disk1");
  EXPECT_EQ(events_of(JobEvent::Kind::kReady), 1u);
  EXPECT_EQ(events_of(JobEvent::Kind::kCompleted), 1u);
}

// The copy of one moment stays behind; the guest does not notice.
TEST_P(EveryMirrorTest, a_ready_mirror_that_is_cancelled_leaves_a_copy) {
  const std::string content = make_chain("disk", 2, kSize, 22);
  attach_guest("disk1");
  make_target(GetParam().target);
  options.copy_mode = GetParam().mode;
  options.granularity = GetParam().granularity;
  NodePtr target = options.target;
  Guest guest(guest_disk, content, 22);
  const auto job = start();
  ASSERT_NE(job, nullptr);
  wait_for_status(job, JobStatus::kReady);
  guest.wait_for(60);
  const std::string wanted = guest.stop();
  EXPECT_TRUE(job->cancel());
  EXPECT_FALSE(job->complete());
  EXPECT_EQ(end_of(job), "");
  EXPECT_EQ(guest_disk->node()->driver(), "qcow2");
  EXPECT_NE(guest_disk->node(), target);
  EXPECT_TRUE(same(read_guest_disk(), wanted));
  close(target);
  expect_content("target", wanted, GetParam().target);
  close_guest_disk();
  expect_content("disk1", wanted);
}

INSTANTIATE_TEST_SUITE_P(Kinds, EveryMirrorTest,
                         testing::Values(Case{"background", MirrorCopyMode::kBackground, 65536, "qcow2"},
                                         Case{"background_small", MirrorCopyMode::kBackground, 4096, "raw"},
                                         Case{"blocking", MirrorCopyMode::kWriteBlocking, 65536, "qcow2"},
                                         Case{"blocking_small", MirrorCopyMode::kWriteBlocking, 512, "raw"}),
                         [](const auto& each) { return std::string(each.param.name); });

TEST_F(MirrorTest, top_copies_what_the_topmost_image_has_and_shares_its_backing_file) {
  const std::string content = make_chain("disk", 3, kSize, 23);
  attach_guest("disk2");
  make_target("qcow2", false);
  options.sync = SyncMode::kTop;
  Guest guest(guest_disk, content, 23);
  const auto job = start();
  ASSERT_NE(job, nullptr);
  wait_for_status(job, JobStatus::kReady);
  guest.wait_for(30);
  EXPECT_TRUE(job->complete());
  EXPECT_EQ(end_of(job), "");
  const std::string wanted = guest.stop();
  EXPECT_TRUE(same(read_guest_disk(), wanted));
  close_guest_disk();
  EXPECT_EQ(backing_of("target"), path("disk1"));
  expect_check_clean("target");
  expect_content("target", wanted);
}

TEST_F(MirrorTest, cancelling_at_any_moment_leaves_the_guest_where_it_was) {
  std::mt19937 random(24);
  for (int i = 0; i < 5; ++i) {
    SCOPED_TRACE(i);
    const std::string content = make_chain("disk", 2, kSize, 24);
    attach_guest("disk1");
    make_target("qcow2");
    NodePtr target = options.target;
    options.job = {.id = "mirror0", .speed = i < 4 ? uint64_t{2} << 20 : 0};
    options.copy_mode = i % 2 == 0 ? MirrorCopyMode::kBackground : MirrorCopyMode::kWriteBlocking;
    Guest guest(guest_disk, content, static_cast<unsigned>(i));
    const auto job = start();
    ASSERT_NE(job, nullptr);
    guest.wait_for(static_cast<unsigned>(random() % 80));
    EXPECT_TRUE(job->cancel(true));
    EXPECT_NE(end_of(job), "");
    const std::string wanted = guest.stop();
    EXPECT_EQ(guest_disk->node()->driver(), "qcow2");
    EXPECT_TRUE(same(read_guest_disk(), wanted));
    close(target);
    close_guest_disk();
    expect_check_clean("disk1");
    expect_check_clean("target");
    expect_content("disk1", wanted);
  }
}

TEST_F(MirrorTest, a_ready_mirror_stands_by_when_it_is_paused) {
  const std::string content = make_chain("disk", 1, kSize, 25);
  attach_guest("disk0");
  make_target("qcow2");
  Guest guest(guest_disk, content, 25);
  options.job.speed = 1;
  const auto job = start();
  ASSERT_NE(job, nullptr);
  EXPECT_FALSE(job->complete());
  EXPECT_TRUE(job->set_speed(0));
  wait_for_status(job, JobStatus::kReady);
  EXPECT_TRUE(job->pause());
  wait_for_status(job, JobStatus::kStandby);
  EXPECT_FALSE(job->complete());
  guest.wait_for(30);
  EXPECT_TRUE(job->resume());
  wait_for_status(job, JobStatus::kReady);
  EXPECT_TRUE(job->complete());
  EXPECT_EQ(end_of(job), "");
  const std::string wanted = guest.stop();
  EXPECT_TRUE(same(read_guest_disk(), wanted));
  close_guest_disk();
  expect_content("target", wanted);
}

// Much is written between the end of the work and its taking effect, at a speed that would never do.
TEST_F(MirrorTest, a_mirror_that_is_finalized_late_copies_what_has_come_since) {
  constexpr uint64_t kLarge = 24 << 20;
  create("disk", {{"size", kLarge}});
  attach_guest("disk");
  create("target", {{"size", kLarge}});
  options.target = open(path("target"), "qcow2");
  options.job.auto_finalize = false;
  const auto job = start();
  ASSERT_NE(job, nullptr);
  wait_for_status(job, JobStatus::kReady);
  EXPECT_TRUE(job->set_speed(1));
  EXPECT_TRUE(job->complete());
  wait_for_status(job, JobStatus::kPending);
  EXPECT_FALSE(job->pause());
  const std::string data(kLarge, 'd');
  const iovec piece{const_cast<char*>(data.data()), data.size()};
  EXPECT_EQ(context.run_until(guest_disk->write(0, Buffers(&piece, 1))), 0);
  EXPECT_TRUE(job->finalize());
  EXPECT_EQ(end_of(job), "");
  EXPECT_TRUE(same(read_guest_disk(), data));
  close_guest_disk();
  expect_check_clean("target");
  expect_content("target", data);
}

class MirrorFaultTest : public MirrorTest, public testing::WithParamInterface<MirrorCopyMode> {
 protected:
  std::string begin(unsigned seed) {
    std::string content = make_chain("disk", 1, kSize, seed);
    attach_guest("disk0");
    create("target", {{"size", kSize}});
    options.target = open_options(nlohmann::json::parse(
        R"({"driver": "qcow2", "file": {"driver": "blkdebug", "node-name": "faults", "image": {"driver": "file", "filename": ")" +
        path("target") + R"("}}})"));
    faults = std::dynamic_pointer_cast<FaultNode>(opener.find("faults"));
    options.copy_mode = GetParam();
    return content;
  }
  void TearDown() override {
    faults = nullptr;
    MirrorTest::TearDown();
  }
  std::shared_ptr<FaultNode> faults;
};

TEST_P(MirrorFaultTest, a_target_that_fails_ends_the_mirror_and_not_the_guest) {
  const std::string content = begin(26);
  NodePtr target = options.target;
  Guest guest(guest_disk, content, 26);
  faults->add({.kinds = kFaultWrite, .error = EIO, .skip = 6});
  const auto job = start();
  EXPECT_NE(end_of(job).find("failed"), std::string::npos) << job->info().error;
  guest.wait_for(30);
  const std::string wanted = guest.stop();
  faults->clear();
  faults = nullptr;
  close(target);
  EXPECT_TRUE(same(read_guest_disk(), wanted));
  close_guest_disk();
  expect_content("disk0", wanted);
}

TEST_P(MirrorFaultTest, a_full_target_stops_the_mirror_until_there_is_room) {
  const std::string content = begin(27);
  options.on_target_error = OnError::kEnospc;
  Guest guest(guest_disk, content, 27);
  faults->add({.kinds = kFaultWrite, .error = ENOSPC, .skip = 4});
  const auto job = start();
  wait_for_status(job, JobStatus::kPaused);
  EXPECT_EQ(job->info().io_status, IoStatus::kNoSpace);
  guest.wait_for(40);
  const std::string wanted = guest.stop();
  faults->clear();
  EXPECT_TRUE(job->resume());
  wait_for_status(job, JobStatus::kReady);
  EXPECT_TRUE(job->complete());
  EXPECT_EQ(end_of(job), "");
  EXPECT_TRUE(same(read_guest_disk(), wanted));
  faults = nullptr;
  close_guest_disk();
  expect_check_clean("target");
  expect_content("target", wanted);
}

TEST_P(MirrorFaultTest, ignored_errors_are_tried_again) {
  const std::string content = begin(28);
  options.on_target_error = OnError::kIgnore;
  Guest guest(guest_disk, content, 28);
  for (unsigned i = 0; i < 3; ++i)
    faults->add({.kinds = kFaultWrite, .error = EIO, .skip = 3 + i, .once = true});
  const auto job = start();
  wait_for_status(job, JobStatus::kReady);
  EXPECT_GE(events_of(JobEvent::Kind::kError), 1u);
  EXPECT_TRUE(job->complete());
  EXPECT_EQ(end_of(job), "");
  const std::string wanted = guest.stop();
  faults = nullptr;
  close_guest_disk();
  expect_content("target", wanted);
}

INSTANTIATE_TEST_SUITE_P(Kinds, MirrorFaultTest,
                         testing::Values(MirrorCopyMode::kBackground, MirrorCopyMode::kWriteBlocking));

// A target whose writes can be kept waiting.
class SlowTarget final : public FilterNode {
 public:
  SlowTarget() : FilterNode("slow", "file") {}
  Task<int> write(uint64_t offset, Buffers from) override {
    {
      std::unique_lock lock(mutex);
      ++writes;
      waiting.wake_all();
      while (!may_go) co_await waiting.wait(lock);
    }
    co_return co_await child_->write(offset, from);
  }
  Task<void> wait_for_write() {
    std::unique_lock lock(mutex);
    while (writes == 0) co_await waiting.wait(lock);
  }
  void go() {
    const std::lock_guard lock(mutex);
    may_go = true;
    waiting.wake_all();
  }
  std::mutex mutex;
  WaitQueue waiting;
  unsigned writes = 0;
  bool may_go = false;
};

// The source has the write and not the target, when the discard comes.
Task<int> discard_in_a_write(MirrorFilter& filter, SlowTarget& target, const std::string& bytes) {
  TaskGroup group;
  co_await group.start(write_bytes(filter, 0, bytes.data(), bytes.size()));
  co_await target.wait_for_write();
  co_await group.start(filter.discard(0, bytes.size()));
  target.go();
  co_return co_await group.wait();
}

TEST_F(MirrorTest, a_discard_within_a_write_to_both_is_copied_again) {
  create("source", {{"size", kSize}});
  auto target = std::make_shared<SlowTarget>();
  make_file("raw", std::string(kSize, '\0'));
  ASSERT_TRUE(target->connect(open(path("raw"), "raw"), pass_through_permissions(true)));
  auto dirty = std::make_shared<DirtyBitmap>(kSize, 65536);
  auto filter = std::make_shared<MirrorFilter>("mirror", dirty, [] {});
  ASSERT_TRUE(filter->connect(open(path("source"), "qcow2"), pass_through_permissions(true)));
  ASSERT_TRUE(filter->connect_target(target, pass_through_permissions(true)));
  filter->write_to_target(false, [](int) {});
  const std::string bytes(65536, 'w');
  ASSERT_EQ(run(discard_in_a_write(*filter, *target, bytes)), 0);
  EXPECT_TRUE(read(*filter, 0, 65536) == read(*target, 0, 65536) || dirty->any(0, 65536));
  EXPECT_TRUE(dirty->any(0, 65536));
  filter->target().detach();
  NodePtr source = std::move(filter);
  close(source);
}

TEST_F(MirrorTest, what_cannot_be_mirrored_is_refused) {
  make_chain("disk", 2, kSize, 29);
  attach_guest("disk1");
  create("target", {{"size", kSize / 2}});
  options.target = open(path("target"), "qcow2");
  EXPECT_NE(start_error().find("one size"), std::string::npos);
  close(options.target);
  options.target = next_in_chain(guest_disk->node());
  EXPECT_NE(start_error().find("lies on the other"), std::string::npos);
  options.target = nullptr;
  make_target("qcow2");
  options.granularity = 1000;
  EXPECT_NE(start_error().find("power of two"), std::string::npos);
  options.granularity = 65536;
  const auto user = Client::attach(options.target, "exporter", test::kGuest);
  EXPECT_NE(start_error().find("'exporter'"), std::string::npos);
  EXPECT_EQ(guest_disk->node()->driver(), "qcow2");
  close_guest_disk();
}

// A limit over the image stays where it is, over another image.
TEST_F(MirrorTest, the_target_replaces_the_image_under_a_filter) {
  const std::string content = make_chain("disk", 1, kSize, 33);
  NodePtr limited = open_options({{"driver", "throttle"},
                                  {"throttle-group", "replaces"},
                                  {"limits", {{"bps-total", 0}}},
                                  {"file",
                                   {{"driver", "qcow2"},
                                    {"node-name", "old"},
                                    {"file", {{"driver", "file"}, {"filename", path("disk0")}}}}}});
  ASSERT_NE(limited, nullptr);
  attach_guest(limited);
  make_target("qcow2");
  NodePtr target = options.target;
  options.replaces = opener.find("old");
  const auto job = start();
  ASSERT_NE(job, nullptr);
  Guest guest(guest_disk, content, 33);
  wait_for_status(job, JobStatus::kReady);
  guest.wait_for(20);
  EXPECT_TRUE(job->complete());
  EXPECT_EQ(end_of(job), "");
  guest.wait_for(20);
  const std::string wanted = guest.stop();
  EXPECT_EQ(guest_disk->node(), limited);
  EXPECT_EQ(limited->filtered(), target);
  EXPECT_EQ(opener.find("old"), nullptr);
  limited = target = nullptr;
  EXPECT_TRUE(same(read_guest_disk(), wanted));
  close_guest_disk();
  expect_check_clean("target");
  expect_content("target", wanted);
}

TEST_F(MirrorTest, only_the_same_image_can_be_replaced) {
  make_chain("disk", 2, kSize, 34);
  attach_guest("disk1");
  make_target("qcow2");
  options.replaces = next_in_chain(guest_disk->node());
  EXPECT_NE(start_error().find("cannot be replaced"), std::string::npos);
  options.replaces = nullptr;
  close(options.target);
}

}  // namespace
}  // namespace ostler::block
