// Jobs by the names of a machine's disks; what the jobs do is tested where they are (tests/unit/block).
#include "machine/block_jobs.h"

#include <condition_variable>
#include <mutex>

#include "disks_fixture.h"
#include "machine/nbd_exports.h"

namespace ostler::machine {
namespace {

using block::CompletionMode;
using block::JobStatus;

class BlockJobsTest : public test::DisksTest {
 protected:
  void SetUp() override {
    qemu_img("create -q -f qcow2 " + path("a.qcow2") + " 4M");
    open({"-drive", "if=none,id=a,node-name=na,file=@/a.qcow2"});
    disk = take({.name = "a", .user = "-device test", .device = "dev"}).at(0);
    EXPECT_EQ(write(disk, 0, std::string(65536, 'a')), 0);
    jobs = std::make_unique<BlockJobs>(*disks);
    jobs->on_event([this](const block::JobEvent& event) {
      const std::lock_guard lock(mutex);
      last[event.info.id] = event.info;
      changed.notify_all();
    });
  }
  void TearDown() override {
    jobs.reset();
    DisksTest::TearDown();
  }
  block::JobOptions job(const std::string& id) { return {.id = id}; }
  // The error of a job that ends, "" without one.
  std::string end_of(const std::string& id) { return reach(id, JobStatus::kNull).error; }
  block::JobInfo reach(const std::string& id, JobStatus status) {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return last.contains(id) && last[id].status == status; });
    return last[id];
  }
  std::string error_of(Result<void> done) { return done ? "" : done.error().message(); }
  std::string raw(const std::string& name) {
    qemu_img("convert -O raw " + path(name) + " " + path("raw"));
    return content_of("raw");
  }
  // That nobody else has it open; an overlay's backing file may be in use.
  void check_alone(const std::string& name) {
    qemu_img(R"(check -q 'json:{"driver":"qcow2","backing":null,"file":{"driver":"file","filename":")" +
             path(name) + R"("}}')");
  }
  std::string file_of(Backend of) { return node_of(of)->filename(); }

  Backend disk = nullptr;
  std::unique_ptr<BlockJobs> jobs;
  std::mutex mutex;
  std::condition_variable changed;
  std::map<std::string, block::JobInfo> last;
};

TEST_F(BlockJobsTest, ASnapshotIsTakenAndCommittedAgain) {
  ASSERT_TRUE(jobs->snapshot({.disk = "dev", .overlay = {}, .file = path("top.qcow2")}));
  EXPECT_EQ(file_of(disk), path("top.qcow2"));
  EXPECT_EQ(write(disk, 4096, std::string(4096, 'b')), 0);
  ASSERT_TRUE(jobs->commit({.job = job("c"), .disk = "a"}));
  reach("c", JobStatus::kReady);
  ASSERT_TRUE((*jobs->job("c"))->complete());
  EXPECT_EQ(end_of("c"), "");
  EXPECT_EQ(file_of(disk), path("a.qcow2"));
  EXPECT_EQ(read(disk, 4096, 4096), std::string(4096, 'b'));
  // The overlay is closed.
  check_alone("top.qcow2");
}

TEST_F(BlockJobsTest, AnOverlayIsFilledByAStream) {
  ASSERT_TRUE(jobs->snapshot({.disk = "a", .overlay = {}, .file = path("top.qcow2")}));
  ASSERT_TRUE(jobs->stream({.job = job("s"), .disk = "dev"}));
  EXPECT_EQ(end_of("s"), "");
  EXPECT_EQ(read(disk, 0, 4096), std::string(4096, 'a'));
  jobs.reset();
  disks.reset();
  std::filesystem::remove(path("a.qcow2"));
  EXPECT_EQ(raw("top.qcow2").substr(0, 65536), std::string(65536, 'a'));
}

TEST_F(BlockJobsTest, AMirrorTakesTheDiskToAnotherFile) {
  ASSERT_TRUE(
      jobs->mirror({.job = job("m"), .disk = "a", .target = {.file = path("m.raw"), .format = "raw"}}));
  reach("m", JobStatus::kReady);
  EXPECT_EQ(write(disk, 0, std::string(512, 'z')), 0);
  ASSERT_TRUE((*jobs->job("m"))->complete());
  EXPECT_EQ(end_of("m"), "");
  EXPECT_EQ(file_of(disk), path("m.raw"));
  EXPECT_EQ(read(disk, 0, 1024), std::string(512, 'z') + std::string(512, 'a'));
  jobs.reset();
  disks.reset();
  EXPECT_EQ(content_of("m.raw").substr(0, 1024), std::string(512, 'z') + std::string(512, 'a'));
}

TEST_F(BlockJobsTest, ABackupsFileIsClosedAtItsEnd) {
  ASSERT_TRUE(jobs->backup({.job = job("b"), .disk = "a", .target = {.file = path("b.qcow2")}}));
  EXPECT_EQ(end_of("b"), "");
  EXPECT_EQ(raw("b.qcow2").substr(0, 65536), std::string(65536, 'a'));
}

TEST_F(BlockJobsTest, AnIncrementalBackupAfterAFullOne) {
  ASSERT_TRUE(
      jobs->transaction({BitmapRequest{.disk = "a", .name = "bits"},
                         BackupRequest{.job = job("b"), .disk = "a", .target = {.file = path("b.qcow2")}}},
                        CompletionMode::kGrouped));
  EXPECT_EQ(end_of("b"), "");
  EXPECT_EQ(write(disk, 131072, std::string(512, 'i')), 0);
  ASSERT_TRUE(jobs->backup({.job = job("i"),
                            .disk = "a",
                            .target = {.file = path("b.qcow2"), .existing = true},
                            .sync = block::SyncMode::kIncremental,
                            .bitmap = "bits"}));
  EXPECT_EQ(end_of("i"), "");
  const std::string copy = raw("b.qcow2");
  EXPECT_EQ(copy.substr(0, 65536), std::string(65536, 'a'));
  EXPECT_EQ(copy.substr(131072, 512), std::string(512, 'i'));
  ASSERT_TRUE(jobs->remove_bitmap("a", "bits"));
}

TEST_F(BlockJobsTest, ARefusedTransactionLeavesNothingOpen) {
  const auto done =
      jobs->transaction({BackupRequest{.job = job("b"), .disk = "a", .target = {.file = path("b.qcow2")}},
                         SnapshotRequest{.disk = "a", .overlay = {}, .file = path("top.qcow2")}},
                        CompletionMode::kIndividual);
  EXPECT_NE(error_of(done).find("in use by job 'b'"), std::string::npos);
  EXPECT_EQ(file_of(disk), path("a.qcow2"));
  for (const char* name : {"b.qcow2", "top.qcow2"}) check_alone(name);
}

TEST_F(BlockJobsTest, JobsEndWithTheMachine) {
  ASSERT_TRUE(
      jobs->backup({.job = {.id = "b", .speed = 1}, .disk = "a", .target = {.file = path("b.qcow2")}}));
  jobs.reset();
  EXPECT_NE(end_of("b"), "");
  EXPECT_EQ(write(disk, 0, std::string(512, 'w')), 0);
}

TEST_F(BlockJobsTest, MistakesNameTheDisk) {
  EXPECT_EQ(error_of(jobs->stream({.job = job("s"), .disk = "b"})),
            "there is no disk or block node 'b'; did you mean 'a'?");
  EXPECT_NE(error_of(jobs->mirror({.job = job("m"), .disk = "a", .target = {}})).find("needs a target"),
            std::string::npos);
  EXPECT_EQ(error_of(jobs->backup({.job = job("not an id"), .disk = "a", .target = {.file = path("x")}}))
                .find("'not an id' is not a job's id"),
            0u);
  EXPECT_FALSE(jobs->job("x"));
  // What was opened for it is free again.
  check_alone("x");
}

}  // namespace
}  // namespace ostler::machine
