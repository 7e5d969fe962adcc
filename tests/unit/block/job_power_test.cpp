// Power cuts during jobs: whatever of the writes has reached the file, the disk reads as before.
#include "block/jobs/backup.h"
#include "block/jobs/commit.h"
#include "block/jobs/graph.h"
#include "block/jobs/mirror.h"
#include "block/jobs/stream.h"
#include "job_fixture.h"
#include "write_log.h"

namespace ostler::block {
namespace {

using test::JobTest;
using test::same;
using test::WriteLogNode;
using test::WriteRecord;

constexpr uint64_t kSize = 1 << 20;

class JobPowerTest : public JobTest {
 protected:
  enum class Logged { kNo, kYes, kReadOnly };
  nlohmann::json image(const std::string& file, Logged logged) {
    nlohmann::json protocol = {{"driver", "file"}, {"filename", file}};
    if (logged != Logged::kNo) {
      log = test::add_write_log(context, opener, file, logged == Logged::kYes);
      protocol = "log";
    }
    return {{"driver", "qcow2"}, {"file", protocol}};
  }
  std::shared_ptr<WriteLogNode> log;  // let go before the file is opened again
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
  // What a cut right after the last completed flush of `records` leaves of `file`, which began as `before`.
  void cut_after_last_flush(const std::string& file, const std::string& before,
                            const std::vector<WriteRecord>& records) {
    size_t flushed = records.size();
    while (flushed != 0 && records[flushed - 1].kind != WriteRecord::Kind::kFlushEnd) --flushed;
    ASSERT_NE(flushed, 0u);
    std::mt19937 chance(4);
    const auto left = image_after_power_cut(bytes_of(before), records, flushed, &chance);
    make_file(file, std::string(reinterpret_cast<const char*>(left.data()), left.size()));
  }
  // An image that a job was filling may be cut anywhere: it may leak clusters, and nothing else.
  void expect_usable_after_cuts(const std::string& file, const std::string& before,
                                const std::vector<WriteRecord>& records) {
    ASSERT_GT(records.size(), 10u);
    std::mt19937 chance(5);
    for (size_t cut = 0; cut <= records.size(); cut += 1 + records.size() / 12) {
      SCOPED_TRACE("cut after " + std::to_string(cut) + " of " + std::to_string(records.size()));
      const auto left = image_after_power_cut(bytes_of(before), records, cut, &chance);
      make_file(file, std::string(reinterpret_cast<const char*>(left.data()), left.size()));
      const int status = std::system(("qemu-img check -q -f qcow2 " + path(file) + " >/dev/null").c_str());
      ASSERT_TRUE(WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 3)) << status;
    }
  }
  // Changes sectors of the guest's disk and of `content`, with a flush now and then.
  void guest_writes(std::string& content, unsigned seed) {
    std::mt19937 random(seed);
    for (unsigned i = 0; i < 30; ++i) {
      const uint64_t offset = random() % (kSize / 512 - 16) * 512;
      const std::string bytes((1 + random() % 16) * 512, static_cast<char>('A' + i));
      const iovec piece{const_cast<char*>(bytes.data()), bytes.size()};
      ASSERT_EQ(context.run_until(guest_disk->write(offset, Buffers(&piece, 1))), 0);
      content.replace(offset, bytes.size(), bytes);
      if (i % 4 != 0) continue;
      ASSERT_EQ(context.run_until(guest_disk->flush()), 0);
    }
  }
};

TEST_F(JobPowerTest, a_cut_of_a_stream_loses_nothing) {
  const std::string content = make_chain("disk", 2, kSize, 81, {{"cluster_size", 4096}});
  const std::string before = content_of(path("disk1"));
  attach_guest(open_options(image(path("disk1"), Logged::kYes)));
  StreamOptions options;
  options.job.id = "job";
  options.node = guest_disk->node();
  const auto job = expect_job(run(start_stream(manager, std::move(options))));
  EXPECT_EQ(end_of(job), "");
  const std::vector<WriteRecord> records = log->records();
  log = nullptr;
  close_guest_disk();
  expect_content_after_cuts("disk1", before, records, "disk1", content);
}

// Until the base is stable the image above names the old chain; from then on, the base.
TEST_F(JobPowerTest, a_cut_of_a_commit_loses_nothing) {
  const std::string content = make_chain("disk", 3, kSize, 82, {{"cluster_size", 4096}});
  const std::string base = content_of(path("disk0")), top = content_of(path("disk2"));
  nlohmann::json options = image(path("disk2"), Logged::kNo);
  options["backing"] = image(path("disk1"), Logged::kNo);
  options["backing"]["backing"] = image(path("disk0"), Logged::kReadOnly);
  attach_guest(open_options(options));
  CommitOptions commit;
  commit.job.id = "job";
  commit.job.auto_finalize = false;
  commit.node = guest_disk->node();
  commit.top = next_in_chain(guest_disk->node());
  const auto job = expect_job(run(start_commit(manager, std::move(commit))));
  wait_for_status(job, JobStatus::kPending);
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

// The base is written where the top hides it: until the guest goes over to it, both read the same.
TEST_F(JobPowerTest, a_cut_of_a_commit_of_the_active_layer_loses_nothing) {
  const std::string content = make_chain("disk", 2, kSize, 83, {{"cluster_size", 4096}});
  const std::string base = content_of(path("disk0"));
  nlohmann::json options = image(path("disk1"), Logged::kNo);
  options["backing"] = image(path("disk0"), Logged::kReadOnly);
  attach_guest(open_options(options));
  CommitOptions commit;
  commit.job.id = "job";
  commit.node = guest_disk->node();
  const auto job = expect_job(run(start_commit(manager, std::move(commit))));
  wait_for_status(job, JobStatus::kReady);
  EXPECT_TRUE(job->complete());
  EXPECT_EQ(end_of(job), "");
  const std::vector<WriteRecord> records = log->records();
  log = nullptr;
  close_guest_disk();
  expect_content_after_cuts("disk0", base, records, "disk1", content);
  cut_after_last_flush("disk0", base, records);
  expect_content("disk0", content);
}

// The guest goes over to a target that is stable.
TEST_F(JobPowerTest, a_cut_after_a_mirror_loses_nothing) {
  std::string content = make_chain("disk", 1, kSize, 84, {{"cluster_size", 4096}});
  attach_guest("disk0");
  create("target", {{"size", kSize}, {"cluster_size", 4096}});
  const std::string before = content_of(path("target"));
  MirrorOptions mirror;
  mirror.job.id = "job";
  mirror.node = guest_disk->node();
  mirror.target = open_options(image(path("target"), Logged::kYes));
  const auto job = expect_job(run(start_mirror(manager, std::move(mirror))));
  guest_writes(content, 84);
  wait_for_status(job, JobStatus::kReady);
  EXPECT_TRUE(job->complete());
  EXPECT_EQ(end_of(job), "");
  const std::vector<WriteRecord> records = log->records();
  log = nullptr;
  close_guest_disk();
  expect_usable_after_cuts("target", before, records);
  cut_after_last_flush("target", before, records);
  expect_content("target", content);
}

// A backup that has ended is stable; one that is cut leaves the disk as it is and its target usable.
TEST_F(JobPowerTest, a_cut_after_a_backup_loses_nothing) {
  const std::string content = make_chain("disk", 1, kSize, 85, {{"cluster_size", 4096}});
  attach_guest("disk0");
  create("target", {{"size", kSize}, {"cluster_size", 4096}});
  const std::string before = content_of(path("target"));
  BackupOptions backup;
  backup.job.id = "job";
  backup.node = guest_disk->node();
  backup.target = open_options(image(path("target"), Logged::kYes));
  NodePtr target = backup.target;
  const auto job = expect_job(run(start_backup(manager, std::move(backup))));
  std::string changed = content;
  guest_writes(changed, 85);
  EXPECT_EQ(end_of(job), "");
  const std::vector<WriteRecord> records = log->records();
  log = nullptr;
  EXPECT_TRUE(same(read_guest_disk(), changed));
  close_guest_disk();
  close(target);
  expect_usable_after_cuts("target", before, records);
  cut_after_last_flush("target", before, records);
  expect_content("target", content);
}

// The disk under a backup: what the guest has flushed is there, whatever the copying did.
TEST_F(JobPowerTest, a_cut_of_the_disk_under_a_backup_loses_nothing) {
  std::string content = make_chain("disk", 1, kSize, 86, {{"cluster_size", 4096}});
  const std::string before = content_of(path("disk0"));
  attach_guest(open_options(image(path("disk0"), Logged::kYes)));
  create("target", {{"size", kSize}});
  BackupOptions backup;
  backup.job.id = "job";
  backup.node = guest_disk->node();
  backup.target = open(path("target"), "qcow2");
  NodePtr target = backup.target;
  const auto job = expect_job(run(start_backup(manager, std::move(backup))));
  guest_writes(content, 86);
  ASSERT_EQ(context.run_until(guest_disk->flush()), 0);
  const std::vector<WriteRecord> records = log->records();
  log = nullptr;
  EXPECT_EQ(end_of(job), "");
  close_guest_disk();
  close(target);
  cut_after_last_flush("disk0", before, records);
  expect_content("disk0", content);
}

}  // namespace
}  // namespace ostler::block
