// What jobs are made of: bitmaps of granules and locks of ranges.
#include <random>

#include "block/jobs/dirty_bitmap.h"
#include "block/jobs/range_locks.h"
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

}  // namespace
}  // namespace ostler::block
