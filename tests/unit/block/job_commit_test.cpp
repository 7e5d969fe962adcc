// The job "commit" under a guest that writes.
#include "block/jobs/commit.h"
#include "block/jobs/graph.h"
#include "job_fixture.h"

namespace ostler::block {
namespace {

using test::Guest;
using test::JobTest;
using test::same;

constexpr uint64_t kSize = 8 << 20;

class CommitTest : public JobTest {
 protected:
  std::shared_ptr<Job> start(NodePtr top, NodePtr base, uint64_t speed = 0) {
    CommitOptions options;
    options.job.id = "commit0";
    options.job.speed = speed;
    options.job.auto_dismiss = false;
    options.node = guest_disk->node();
    options.top = std::move(top);
    options.base = std::move(base);
    return expect_job(run(start_commit(manager, std::move(options))));
  }
  NodePtr image(unsigned depth) {
    NodePtr node = skip_filters(guest_disk->node());
    while (depth-- != 0) node = next_in_chain(node);
    return node;
  }
};

TEST_F(CommitTest, images_inside_the_chain_go_into_one_below) {
  for (unsigned seed = 31; seed < 34; ++seed) {
    SCOPED_TRACE(seed);
    const std::string content = make_chain("disk", 4, kSize, seed);
    attach_guest("disk3");
    Guest guest(guest_disk, content, seed);
    const auto job = start(image(1), seed == 31 ? nullptr : image(seed == 32 ? 3 : 2));
    ASSERT_NE(job, nullptr);
    EXPECT_EQ(end_of(job), "");
    guest.wait_for(20);
    const std::string wanted = guest.stop();
    EXPECT_TRUE(same(read_guest_disk(), wanted));
    EXPECT_TRUE(image(1)->read_only());
    close_guest_disk();
    const std::string base = seed == 33 ? "disk1" : "disk0";
    EXPECT_EQ(backing_of("disk3"), path(base));
    for (const std::string& gone : {std::string("disk2"), std::string(seed == 33 ? "" : "disk1")})
      if (!gone.empty()) std::filesystem::remove(path(gone));
    expect_check_clean(base);
    expect_check_clean("disk3");
    expect_content("disk3", wanted);
    ASSERT_TRUE(job->dismiss());
  }
}

TEST_F(CommitTest, the_image_that_is_written_goes_into_one_below) {
  for (unsigned seed = 41; seed < 43; ++seed) {
    SCOPED_TRACE(seed);
    const std::string content = make_chain("disk", 3, kSize, seed);
    attach_guest("disk2");
    Guest guest(guest_disk, content, seed);
    NodePtr base = seed % 2 == 0 ? image(1) : image(2);
    const auto job = start(nullptr, base);
    ASSERT_NE(job, nullptr);
    wait_for_status(job, JobStatus::kReady);
    guest.wait_for(50);
    EXPECT_TRUE(job->complete());
    EXPECT_EQ(end_of(job), "");
    EXPECT_EQ(guest_disk->node(), base);
    base = nullptr;
    guest.wait_for(50);
    const std::string wanted = guest.stop();
    EXPECT_TRUE(same(read_guest_disk(), wanted));
    close_guest_disk();
    const std::string file = seed % 2 == 0 ? "disk1" : "disk0";
    expect_check_clean(file);
    expect_content(file, wanted);
    ASSERT_TRUE(job->dismiss());
  }
}

TEST_F(CommitTest, cancelling_at_any_moment_keeps_the_disk) {
  std::mt19937 random(45);
  for (unsigned i = 0; i < 5; ++i) {
    SCOPED_TRACE(i);
    const std::string content = make_chain("disk", 3, kSize, i);
    attach_guest("disk2");
    NodePtr active = image(0);
    Guest guest(guest_disk, content, i);
    const auto job = start(i % 2 == 0 ? nullptr : image(1), nullptr, i < 4 ? 4 << 20 : 1);
    ASSERT_NE(job, nullptr);
    guest.wait_for(static_cast<unsigned>(random() % 50));
    const bool in_time = job->cancel(true).has_value();
    EXPECT_EQ(end_of(job) != "", in_time);
    const std::string wanted = guest.stop();
    EXPECT_TRUE(same(read_guest_disk(), wanted));
    EXPECT_EQ(image(0), active);
    EXPECT_EQ(guest_disk->node(), active);
    EXPECT_TRUE(image(1)->read_only());
    active = nullptr;
    close_guest_disk();
    for (const char* name : {"disk0", "disk2"}) expect_check_clean(name);
    expect_content("disk2", wanted);
    ASSERT_TRUE(job->dismiss());
  }
}

// The image is longer than the ones below: they grow, or zeros hide what they have behind its end.
TEST_F(CommitTest, sizes_may_differ) {
  create("base", {{"size", 3 << 20}});
  NodePtr node = open(path("base"), "qcow2");
  EXPECT_EQ(write(*node, 0, std::string(3 << 20, 'b')), 0);
  close(node);
  create("short", {{"size", 1 << 20}, {"backing_file", path("base")}, {"backing_fmt", "qcow2"}});
  create("top", {{"size", 4 << 20}, {"backing_file", path("short")}, {"backing_fmt", "qcow2"}});
  attach_guest("top");
  auto job = start(image(1), nullptr);
  EXPECT_EQ(end_of(job), "");
  ASSERT_TRUE(job->dismiss());
  std::string wanted = std::string(1 << 20, 'b') + std::string(3 << 20, '\0');
  EXPECT_TRUE(same(read_guest_disk(), wanted));
  job = start(nullptr, nullptr);
  wait_for_status(job, JobStatus::kReady);
  EXPECT_TRUE(job->complete());
  EXPECT_EQ(end_of(job), "");
  EXPECT_EQ(guest_disk->size(), 4u << 20);
  EXPECT_TRUE(same(read_guest_disk(), wanted));
  close_guest_disk();
  expect_check_clean("base");
  expect_content("base", wanted);
}

TEST_F(CommitTest, what_is_not_in_the_chain_is_refused) {
  make_chain("disk", 2, kSize, 46);
  attach_guest("disk1");
  CommitOptions options;
  options.job.id = "one";
  options.node = guest_disk->node();
  options.base = guest_disk->node();
  auto job = run(start_commit(manager, options));
  ASSERT_FALSE(job);
  EXPECT_NE(job.error().message().find("not in the chain"), std::string::npos) << job.error().message();
  options.base = nullptr;
  options.top = image(1);
  job = run(start_commit(manager, options));
  ASSERT_FALSE(job);
  EXPECT_NE(job.error().message().find("no backing file"), std::string::npos) << job.error().message();
  options = {};
  close_guest_disk();
}

TEST_F(CommitTest, an_overlay_that_cannot_be_written_keeps_its_chain) {
  const std::string content = make_chain("disk", 3, kSize, 47);
  NodePtr top = open_options(nlohmann::json::parse(
      R"({"driver": "qcow2", "file": {"driver": "blkdebug", "node-name": "faults", "image": {"driver": "file", "filename": ")" +
      path("disk2") + R"("}}})"));
  attach_guest(top);
  top = nullptr;
  auto faults = std::dynamic_pointer_cast<FaultNode>(opener.find("faults"));
  faults->add({.kinds = kFaultWrite, .error = EIO, .offset = 0});
  const auto job = start(image(1), nullptr);
  EXPECT_NE(end_of(job), "");
  faults->clear();
  faults = nullptr;
  EXPECT_NE(image(2), nullptr);
  EXPECT_TRUE(same(read_guest_disk(), content));
  close_guest_disk();
  EXPECT_EQ(backing_of("disk2"), path("disk1"));
  expect_content("disk2", content);
}

}  // namespace
}  // namespace ostler::block
