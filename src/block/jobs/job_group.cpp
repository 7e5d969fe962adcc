#include "block/jobs/job_group.h"

#include "block/jobs/job.h"

namespace ostler::block {

void JobGroup::join(const std::shared_ptr<Job>& job) {
  const std::lock_guard lock(mutex_);
  jobs_.push_back(job);
}

void JobGroup::fail() {
  std::vector<std::weak_ptr<Job>> jobs;
  {
    const std::lock_guard lock(mutex_);
    if (failed_) return;
    failed_ = true;
    jobs = jobs_;
    changed_.wake_all();
  }
  // Refused by those that have come to their end, or are about to hear of it.
  for (const auto& each : jobs)
    if (const auto job = each.lock()) static_cast<void>(job->cancel(true));
}

Task<bool> JobGroup::vote(bool success) {
  if (!success) {
    fail();
    co_return false;
  }
  std::unique_lock lock(mutex_);
  const unsigned round = votes_++ / members_;
  changed_.wake_all();
  while (!failed_ && votes_ < (round + 1) * members_) co_await changed_.wait(lock);
  co_return !failed_;
}

}  // namespace ostler::block
