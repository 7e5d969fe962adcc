// What jobs are made of: bitmaps of granules and locks of ranges.
#include <random>

#include "block/jobs/backup_filter.h"
#include "block/jobs/dirty_bitmap.h"
#include "block/range_locks.h"
#include "job_fixture.h"

namespace ostler::block {
namespace {

using test::BlockTest;
using test::JobTest;

TEST(DirtyBitmapTest, does_what_a_plain_array_does) {
  constexpr uint64_t kGranule = 4096, kDisk = kGranule * 70000 - 1000;
  DirtyBitmap bitmap(kDisk, kGranule);
  std::vector<bool> model(70000);
  std::mt19937_64 random(1);
  for (int i = 0; i < 1000; ++i) {
    const uint64_t offset = random() % kDisk, bytes = 1 + random() % (random() % 3 == 0 ? kDisk : 50000);
    const uint64_t end = std::min(offset + bytes, kDisk);
    const auto last = (end - 1) / kGranule;
    switch (random() % 4) {
      case 0:
        bitmap.set(offset, bytes);
        for (uint64_t k = offset / kGranule; k <= last; ++k) model[k] = true;
        break;
      case 1:
        bitmap.clear(offset, end - offset);
        for (uint64_t k = offset / kGranule; k <= last; ++k) model[k] = false;
        break;
      case 2:
        bitmap.clear_whole(offset, end - offset);
        for (uint64_t k = (offset + kGranule - 1) / kGranule; k <= last; ++k)
          if ((k + 1) * kGranule <= end || end == kDisk) model[k] = false;
        break;
      default: {
        uint64_t at = offset / kGranule, begin = 0, length = 0;
        while (at < model.size() && !model[at]) ++at;
        const bool found = bitmap.take(offset / kGranule * kGranule, 40960, begin, length);
        ASSERT_EQ(found, at < model.size());
        if (!found) break;
        ASSERT_EQ(begin, at * kGranule);
        uint64_t until = at;
        while (until < model.size() && until < at + 10 && model[until]) model[until++] = false;
        ASSERT_EQ(length, std::min(until * kGranule, kDisk) - begin);
      }
    }
    const auto count = static_cast<uint64_t>(std::count(model.begin(), model.end(), true));
    ASSERT_EQ(bitmap.dirty_bytes(), std::min(count * kGranule, kDisk));
    ASSERT_EQ(bitmap.any(offset, 1), model[offset / kGranule]);
  }
}

TEST(DirtyBitmapTest, a_huge_disk_gets_a_coarser_bitmap) {
  const DirtyBitmap bitmap(uint64_t{1} << 60, 4096);
  EXPECT_LE((uint64_t{1} << 60) / bitmap.granularity() / 8, DirtyBitmap::kMostBytes);
}

using Log = std::vector<std::string>;

Task<void> hold(RangeLocks& locks, uint64_t offset, RangeLocks::Mode mode, std::string name, Log& log) {
  const RangeLocks::Guard range = co_await locks.lock(offset, 10, mode);
  log.push_back(name + " begins");
  IoContext& context = *IoContext::current();
  co_await context.sleep_until(IoContext::now() + 1'000'000);
  log.push_back(name + " ends");
}

Task<int> compete(RangeLocks& locks, Log& log) {
  using Mode = RangeLocks::Mode;
  spawn(hold(locks, 0, Mode::kShared, "a", log));
  spawn(hold(locks, 5, Mode::kShared, "b", log));
  spawn(hold(locks, 0, Mode::kExclusive, "c", log));
  spawn(hold(locks, 30, Mode::kExclusive, "d", log));
  spawn(hold(locks, 9, Mode::kShared, "e", log));
  IoContext& context = *IoContext::current();
  while (log.size() < 10) co_await context.sleep_until(IoContext::now() + 1'000'000);
  co_return 0;
}

TEST_F(BlockTest, overlapping_ranges_wait_for_each_other_in_the_order_of_asking) {
  RangeLocks locks;
  Log log;
  context.run_until(compete(locks, log));
  const auto at = [&](const char* what) { return std::ranges::find(log, what) - log.begin(); };
  EXPECT_LT(at("b begins"), at("a ends"));
  EXPECT_LT(at("d begins"), at("a ends"));
  EXPECT_LT(at("a ends"), at("c begins"));
  EXPECT_LT(at("b ends"), at("c begins"));
  EXPECT_LT(at("c ends"), at("e begins"));
}

// A filter may tell of a failed request before the job that put it into the graph is started.
class UnstartedJob final : public Job {
 public:
  using Job::Job, Job::tell_error;

 protected:
  Task<Result<void>> run() override { co_return Result<void>(); }
  Task<void> clean(bool) override { co_return; }
};

TEST_F(JobTest, errors_before_the_start_are_told_too) {
  const auto job = std::make_shared<UnstartedJob>(manager, JobType::kMirror, JobOptions{.id = "early"});
  EXPECT_EQ(job->tell_error(OnError::kIgnore, false, -EIO), OnError::kIgnore);
  EXPECT_EQ(events_of(JobEvent::Kind::kError), 1u);
}

class LateFailureJob final : public Job {
 public:
  using Job::Job;
  std::vector<OnError> answers;

 protected:
  Task<Result<void>> run() override { co_return Result<void>(); }
  Task<Result<void>> prepare() override {
    for (const OnError policy : {OnError::kStop, OnError::kIgnore})
      answers.push_back(tell_error(policy, false, -EIO));
    const bool go_on = co_await pause_point();
    if (!go_on) co_return Error(ErrorKind::kState, "it cannot be cancelled here");
    co_return Result<void>();
  }
  Task<void> clean(bool) override { co_return; }
};

TEST_F(JobTest, an_error_when_it_is_too_late_to_cancel_is_reported_whatever_the_policy) {
  const auto job = std::make_shared<LateFailureJob>(manager, JobType::kMirror, JobOptions{.id = "late"});
  ASSERT_TRUE(manager.start(job));
  EXPECT_EQ(end_of(job), "");
  EXPECT_EQ(job->answers, (std::vector<OnError>{OnError::kReport, OnError::kReport}));
  EXPECT_EQ(events_of(JobEvent::Kind::kError), 2u);
}

TEST_F(JobTest, changes_are_told_one_after_the_other_though_another_thread_dismisses) {
  std::vector<std::string> told;
  std::shared_ptr<Job> job;
  JobManager own(jobs.context(), opener, [&](const JobEvent& event) {
    if (event.kind != JobEvent::Kind::kStatusChange) return;
    const std::string status(job_status_name(event.info.status));
    told.push_back(status + " begins");
    if (event.info.status == JobStatus::kConcluded) std::thread([&] { EXPECT_TRUE(job->dismiss()); }).join();
    told.push_back(status + " ends");
  });
  job = std::make_shared<UnstartedJob>(own, JobType::kMirror, JobOptions{.id = "j", .auto_dismiss = false});
  ASSERT_TRUE(own.start(job));
  run(job->concluded());
  run(own.shut_down());
  ASSERT_GE(told.size(), 4u);
  EXPECT_EQ(std::vector<std::string>(told.end() - 4, told.end()),
            (std::vector<std::string>{"concluded begins", "concluded ends", "null begins", "null ends"}));
}

// The job may see that its filter is broken before the filter's handler is called.
TEST_F(JobTest, a_backup_filter_knows_why_it_is_broken_when_it_tells) {
  const uint64_t size = 1 << 20;
  const auto left = std::make_shared<DirtyBitmap>(size, 65536);
  left->set(0, size);
  const auto filter = std::make_shared<BackupFilter>(left, BackupFilter::Settings{});
  ASSERT_TRUE(filter->connect(open(make_file("source", std::string(size, 's')), "raw"),
                              {.used = kPermissionRead | kPermissionWrite}));
  const auto target = std::make_shared<FaultNode>();
  ASSERT_TRUE(target->connect(open(make_file("target", std::string(size, 't')), "raw"),
                              {.used = kPermissionRead | kPermissionWrite}));
  target->add({.kinds = kFaultWrite, .error = ENOSPC});
  ASSERT_TRUE(filter->connect_target(target));
  int seen = 0;
  filter->on_broken([&](int) { seen = filter->broken(); });
  EXPECT_EQ(write(*filter, 0, "x"), 0);
  EXPECT_EQ(seen, -ENOSPC);
  filter->give_up();
  EXPECT_EQ(filter->broken(), -ENOSPC);
}

}  // namespace
}  // namespace ostler::block
