// Power cuts during jobs: whatever of the writes has reached the file, the disk reads as before.
#include "block/filters/write_log_node.h"
#include "block/jobs/commit.h"
#include "block/jobs/graph.h"
#include "block/jobs/stream.h"
#include "job_fixture.h"

namespace ostler::block {
namespace {

using test::JobTest;
using test::same;

constexpr uint64_t kSize = 1 << 20;

class JobPowerTest : public JobTest {
 protected:
  static nlohmann::json image(const std::string& file, bool logged) {
    nlohmann::json protocol = {{"driver", "file"}, {"filename", file}};
    if (logged) protocol = {{"driver", "blklogwrites"}, {"node-name", "log"}, {"file", protocol}};
    return {{"driver", "qcow2"}, {"file", protocol}};
  }
  static std::vector<std::byte> bytes_of(const std::string& content) {
    std::vector<std::byte> bytes(content.size());
    memcpy(bytes.data(), content.data(), content.size());
    return bytes;
  }
  // Cuts the log of `file`, which began as `before`, at many points; `top` must hold `content` after each.
  void expect_content_after_cuts(const std::string& file, const std::string& before,
                                 const std::vector<WriteRecord>& records, const std::string& top,
                                 const std::string& content) {
    ASSERT_GT(records.size(), 10u);
    std::mt19937 chance(3);
    const std::vector<std::byte> begin = bytes_of(before);
    for (size_t cut = 0; cut <= records.size(); cut += 1 + records.size() / 30) {
      SCOPED_TRACE("cut after " + std::to_string(cut) + " of " + std::to_string(records.size()));
      const auto left = image_after_power_cut(begin, records, cut, &chance);
      make_file(file, std::string(reinterpret_cast<const char*>(left.data()), left.size()));
      NodePtr node = open(path(top), "qcow2", false);
      ASSERT_NE(node, nullptr);
      ASSERT_TRUE(same(read(*node, 0, kSize), content));
      close(node);
    }
  }
};

TEST_F(JobPowerTest, a_cut_of_a_stream_loses_nothing) {
  const std::string content = make_chain("disk", 2, kSize, 81, {{"cluster_size", 4096}});
  const std::string before = content_of(path("disk1"));
  attach_guest(open_options(image(path("disk1"), true)));
  StreamOptions options;
  options.job.id = "job";
  options.node = guest_disk->node();
  const auto job = expect_job(run(start_stream(manager, std::move(options))));
  EXPECT_EQ(end_of(job), "");
  auto log = std::dynamic_pointer_cast<WriteLogNode>(opener.find("log"));
  const std::vector<WriteRecord> records = log->records();
  log = nullptr;
  close_guest_disk();
  expect_content_after_cuts("disk1", before, records, "disk1", content);
}

// Until the base is stable the image above names the old chain; from then on, the base.
TEST_F(JobPowerTest, a_cut_of_a_commit_loses_nothing) {
  const std::string content = make_chain("disk", 3, kSize, 82, {{"cluster_size", 4096}});
  const std::string base = content_of(path("disk0")), top = content_of(path("disk2"));
  nlohmann::json options = image(path("disk2"), false);
  options["backing"] = image(path("disk1"), false);
  options["backing"]["backing"] = image(path("disk0"), true);
  attach_guest(open_options(options));
  CommitOptions commit;
  commit.job.id = "job";
  commit.job.auto_finalize = false;
  commit.node = guest_disk->node();
  commit.top = next_in_chain(guest_disk->node());
  const auto job = expect_job(run(start_commit(manager, std::move(commit))));
  wait_for_status(job, JobStatus::kPending);
  auto log = std::dynamic_pointer_cast<WriteLogNode>(opener.find("log"));
  const std::vector<WriteRecord> records = log->records();
  EXPECT_TRUE(job->finalize());
  EXPECT_EQ(end_of(job), "");
  const std::vector<WriteRecord> all = log->records();
  log = nullptr;
  EXPECT_TRUE(same(read_guest_disk(), content));
  close_guest_disk();
  const std::string committed = content_of(path("disk2"));
  make_file("disk2", top);
  expect_content_after_cuts("disk0", base, records, "disk2", content);
  // The overlay's new header comes after a flush of the base: nothing that is needed may be missing.
  size_t flushed = all.size();
  while (flushed != 0 && all[flushed - 1].kind != WriteRecord::Kind::kFlushEnd) --flushed;
  std::mt19937 chance(4);
  const auto left = image_after_power_cut(bytes_of(base), all, flushed, &chance);
  make_file("disk0", std::string(reinterpret_cast<const char*>(left.data()), left.size()));
  make_file("disk2", committed);
  expect_content("disk2", content);
}

}  // namespace
}  // namespace ostler::block
