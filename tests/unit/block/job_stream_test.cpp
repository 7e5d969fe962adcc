// The job "stream" under a guest that writes; and what all jobs do when they are paused, limited, cancelled.
#include "block/jobs/stream.h"
#include "job_fixture.h"

namespace ostler::block {
namespace {

using test::Guest;
using test::JobTest;
using test::same;

constexpr uint64_t kSize = 8 << 20;

class StreamTest : public JobTest {
 protected:
  std::shared_ptr<Job> start(NodePtr node, NodePtr base = nullptr, uint64_t speed = 0) {
    StreamOptions options;
    options.job.id = "stream0";
    options.job.speed = speed;
    options.job.auto_dismiss = false;
    options.node = std::move(node);
    options.base = std::move(base);
    options.on_error = policy;
    return expect_job(run(start_stream(manager, std::move(options))));
  }
  OnError policy = OnError::kReport;
};

TEST_F(StreamTest, an_image_gets_all_of_its_chain_while_a_guest_writes) {
  for (unsigned seed = 1; seed <= 3; ++seed) {
    SCOPED_TRACE(seed);
    const nlohmann::json small = {{"cluster_size", 4096}};
    const std::string content =
        make_chain("disk", 3, kSize, seed, seed == 2 ? small : nlohmann::json::object());
    attach_guest("disk2");
    Guest guest(guest_disk, content, seed);
    guest.wait_for(20);
    const auto job = start(guest_disk->node());
    ASSERT_NE(job, nullptr);
    EXPECT_EQ(end_of(job), "");
    EXPECT_EQ(job->info().current, job->info().total);
    guest.wait_for(20);
    const std::string wanted = guest.stop();
    EXPECT_TRUE(same(read_guest_disk(), wanted));
    EXPECT_EQ(guest_disk->node()->driver(), "qcow2");
    EXPECT_EQ(guest_disk->node()->backing(), nullptr);
    close_guest_disk();
    EXPECT_EQ(backing_of("disk2"), "");
    std::filesystem::remove(path("disk0"));
    std::filesystem::remove(path("disk1"));
    expect_check_clean("disk2");
    expect_content("disk2", wanted);
    ASSERT_TRUE(job->dismiss());
    EXPECT_EQ(manager.find("stream0"), nullptr);
  }
}

TEST_F(StreamTest, a_base_stays) {
  const std::string content = make_chain("disk", 4, kSize, 5);
  attach_guest("disk3");
  Guest guest(guest_disk, content, 5);
  const NodePtr base = next_in_chain(next_in_chain(next_in_chain(guest_disk->node())));
  const auto job = start(guest_disk->node(), base);
  ASSERT_NE(job, nullptr);
  EXPECT_EQ(end_of(job), "");
  const std::string wanted = guest.stop();
  EXPECT_EQ(next_in_chain(guest_disk->node()), base);
  EXPECT_TRUE(same(read_guest_disk(), wanted));
  close_guest_disk();
  EXPECT_EQ(backing_of("disk3"), path("disk0"));
  expect_check_clean("disk3");
  expect_content("disk3", wanted);
}

TEST_F(StreamTest, an_image_inside_the_chain_gets_what_lies_below) {
  const std::string content = make_chain("disk", 4, kSize, 6);
  attach_guest("disk3");
  Guest guest(guest_disk, content, 6);
  const auto job = start(next_in_chain(guest_disk->node()));
  ASSERT_NE(job, nullptr);
  EXPECT_EQ(end_of(job), "");
  const std::string wanted = guest.stop();
  EXPECT_TRUE(same(read_guest_disk(), wanted));
  EXPECT_TRUE(next_in_chain(guest_disk->node())->read_only());
  close_guest_disk();
  EXPECT_EQ(backing_of("disk2"), "");
  EXPECT_EQ(backing_of("disk3"), path("disk2"));
  expect_check_clean("disk2");
  expect_content("disk3", wanted);
}

TEST_F(StreamTest, a_backing_file_shorter_than_the_image_ends_in_zeros) {
  create("short", {{"size", 1 << 20}});
  NodePtr below = open(path("short"), "qcow2");
  EXPECT_EQ(write(*below, 0, std::string(1 << 20, 'b')), 0);
  close(below);
  create("middle", {{"size", 2 << 20}, {"backing_file", path("short")}, {"backing_fmt", "qcow2"}});
  create("top", {{"size", 4 << 20}, {"backing_file", path("middle")}, {"backing_fmt", "qcow2"}});
  attach_guest("top");
  const auto job = start(guest_disk->node());
  ASSERT_NE(job, nullptr);
  EXPECT_EQ(end_of(job), "");
  const std::string wanted = std::string(1 << 20, 'b') + std::string(3 << 20, '\0');
  EXPECT_TRUE(same(read_guest_disk(), wanted));
  close_guest_disk();
  expect_content("top", wanted);
}

TEST_F(StreamTest, a_paused_job_stands_still_and_goes_on) {
  const std::string content = make_chain("disk", 2, kSize, 7);
  attach_guest("disk1");
  Guest guest(guest_disk, content, 7);
  const auto job = start(guest_disk->node(), nullptr, 1);  // a byte per second: it will not end by itself
  ASSERT_NE(job, nullptr);
  EXPECT_TRUE(job->pause());
  EXPECT_TRUE(job->pause());
  wait_for_status(job, JobStatus::kPaused);
  EXPECT_TRUE(job->info().paused);
  EXPECT_TRUE(job->set_speed(0));
  EXPECT_TRUE(job->resume());
  EXPECT_EQ(job->info().status, JobStatus::kPaused);
  const uint64_t before = job->info().current;
  guest.wait_for(50);
  EXPECT_EQ(job->info().current, before);
  EXPECT_TRUE(job->resume());
  EXPECT_EQ(end_of(job), "");
  EXPECT_FALSE(job->resume());
  EXPECT_FALSE(job->pause());
  const std::string wanted = guest.stop();
  EXPECT_TRUE(same(read_guest_disk(), wanted));
  close_guest_disk();
  expect_check_clean("disk1");
  expect_content("disk1", wanted);
}

TEST_F(StreamTest, cancelling_at_any_moment_leaves_the_chain_as_it_was) {
  std::mt19937 random(8);
  for (int i = 0; i < 5; ++i) {
    SCOPED_TRACE(i);
    const std::string content = make_chain("disk", 3, kSize, static_cast<unsigned>(i));
    attach_guest("disk2");
    Guest guest(guest_disk, content, static_cast<unsigned>(i));
    const auto job = start(guest_disk->node(), nullptr, i == 0 ? 1 : 4 << 20);
    ASSERT_NE(job, nullptr);
    guest.wait_for(static_cast<unsigned>(random() % 60));
    // It may have come to its end before.
    const bool in_time = job->cancel(i % 2 == 0).has_value();
    EXPECT_EQ(end_of(job) != "", in_time);
    const std::string wanted = guest.stop();
    EXPECT_TRUE(same(read_guest_disk(), wanted));
    EXPECT_EQ(guest_disk->node()->driver(), "qcow2");
    close_guest_disk();
    EXPECT_EQ(backing_of("disk2"), in_time ? path("disk1") : "");
    expect_check_clean("disk2");
    expect_content("disk2", wanted);
    EXPECT_FALSE(job->cancel());
    ASSERT_TRUE(job->dismiss());
  }
  EXPECT_NE(events_of(JobEvent::Kind::kCancelled), 0u);
}

TEST_F(StreamTest, a_job_that_waits_to_be_finalized_may_be_cancelled) {
  const std::string content = make_chain("disk", 2, kSize, 9);
  attach_guest("disk1");
  for (const bool cancel : {true, false}) {
    StreamOptions options;
    options.job = {.id = "one", .auto_finalize = false, .auto_dismiss = true};
    options.node = guest_disk->node();
    const auto job = expect_job(run(start_stream(manager, std::move(options))));
    wait_for_status(job, JobStatus::kPending);
    EXPECT_NE(guest_disk->node()->driver(), "qcow2");
    EXPECT_TRUE(cancel ? job->cancel() : job->finalize());
    run(job->concluded());
    EXPECT_EQ(next_in_chain(guest_disk->node()) != nullptr, cancel);
    EXPECT_EQ(job->info().status, JobStatus::kNull);
    EXPECT_EQ(manager.find("one"), nullptr);
  }
  EXPECT_TRUE(same(read_guest_disk(), content));
  close_guest_disk();
}

class StreamFaultTest : public StreamTest {
 protected:
  // A chain of two whose lower file fails when told.
  std::string open_faulty(unsigned seed) {
    std::string content = make_chain("disk", 2, kSize, seed);
    NodePtr node = open_options(nlohmann::json::parse(
        R"({"driver": "qcow2", "file": {"driver": "blkdebug", "node-name": "top-faults", "image": {"driver": "file", "filename": ")" +
        path("disk1") +
        R"("}}, "backing": {"driver": "qcow2", "file": {"driver": "blkdebug", "node-name": "base-faults", "image": {"driver": "file", "filename": ")" +
        path("disk0") + R"("}}}})"));
    attach_guest(node);
    return content;
  }
  std::shared_ptr<FaultNode> faults(const char* name) {
    return std::dynamic_pointer_cast<FaultNode>(opener.find(name));
  }
};

TEST_F(StreamFaultTest, a_reported_error_ends_the_job_and_keeps_the_chain) {
  const std::string content = open_faulty(10);
  faults("base-faults")->add({.kinds = kFaultRead, .error = EIO});
  const auto job = start(guest_disk->node());
  EXPECT_NE(end_of(job).find("reading failed"), std::string::npos) << job->info().error;
  EXPECT_EQ(job->info().io_status, IoStatus::kFailed);
  faults("base-faults")->clear();
  EXPECT_NE(next_in_chain(guest_disk->node()), nullptr);
  EXPECT_TRUE(same(read_guest_disk(), content));
  close_guest_disk();
  EXPECT_EQ(backing_of("disk1"), path("disk0"));
}

TEST_F(StreamFaultTest, ignored_errors_fail_the_job_at_its_end) {
  const std::string content = open_faulty(11);
  faults("base-faults")->add({.kinds = kFaultRead, .error = EIO, .skip = 2, .once = true});
  policy = OnError::kIgnore;
  const auto job = start(guest_disk->node());
  EXPECT_NE(end_of(job).find("keeps its backing file"), std::string::npos) << job->info().error;
  EXPECT_EQ(job->info().current, job->info().total);
  EXPECT_EQ(events_of(JobEvent::Kind::kError), 1u);
  EXPECT_TRUE(same(read_guest_disk(), content));
  close_guest_disk();
  EXPECT_EQ(backing_of("disk1"), path("disk0"));
}

TEST_F(StreamFaultTest, a_full_disk_stops_the_job_until_there_is_room) {
  const std::string content = open_faulty(12);
  policy = OnError::kEnospc;
  faults("top-faults")->add({.kinds = kFaultWrite, .error = ENOSPC});
  const auto job = start(guest_disk->node());
  wait_for_status(job, JobStatus::kPaused);
  EXPECT_EQ(job->info().io_status, IoStatus::kNoSpace);
  faults("top-faults")->clear();
  EXPECT_TRUE(job->resume());
  EXPECT_EQ(end_of(job), "");
  EXPECT_TRUE(same(read_guest_disk(), content));
  close_guest_disk();
  expect_check_clean("disk1");
  expect_content("disk1", content);
}

TEST_F(StreamFaultTest, an_error_when_the_header_is_written_keeps_the_chain) {
  const std::string content = open_faulty(13);
  StreamOptions options;
  options.job = {.id = "one", .auto_finalize = false, .auto_dismiss = false};
  options.node = guest_disk->node();
  const auto job = expect_job(run(start_stream(manager, std::move(options))));
  wait_for_status(job, JobStatus::kPending);
  faults("top-faults")->add({.kinds = kFaultWrite, .error = EIO, .offset = 0});
  EXPECT_TRUE(job->finalize());
  EXPECT_NE(end_of(job), "");
  faults("top-faults")->clear();
  EXPECT_NE(next_in_chain(guest_disk->node()), nullptr);
  EXPECT_TRUE(same(read_guest_disk(), content));
  close_guest_disk();
  EXPECT_EQ(backing_of("disk1"), path("disk0"));
  expect_content("disk1", content);
}

TEST_F(StreamTest, two_jobs_do_not_work_on_the_same_images) {
  make_chain("disk", 4, kSize, 14);
  attach_guest("disk3");
  const NodePtr top = guest_disk->node();
  const auto job = start(top, nullptr, 1);
  ASSERT_NE(job, nullptr);
  StreamOptions options;
  options.job.id = "stream1";
  options.node = next_in_chain(top);
  auto second = run(start_stream(manager, std::move(options)));
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().kind(), ErrorKind::kBusy);
  EXPECT_NE(second.error().message().find("'stream0'"), std::string::npos) << second.error().message();
  StreamOptions same_id;
  same_id.job.id = "stream0";
  same_id.node = top;
  second = run(start_stream(manager, std::move(same_id)));
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().kind(), ErrorKind::kInvalidArgument);
  run(manager.shut_down());
  EXPECT_EQ(guest_disk->node(), top);
  close_guest_disk();
}

}  // namespace
}  // namespace ostler::block
