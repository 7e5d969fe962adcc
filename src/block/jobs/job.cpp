#include "block/jobs/job.h"

#include <fmt/format.h>

#include <algorithm>

#include "block/jobs/job_group.h"
#include "block/jobs/job_manager.h"

namespace ostler::block {
namespace {

// How soon a changed speed, a pause or a cancellation is noticed by a job that waits for its turn.
constexpr uint64_t kLook = 20'000'000;  // ns

}  // namespace

std::string_view job_type_name(JobType type) {
  static constexpr std::string_view kNames[] = {"stream", "commit", "mirror", "backup"};
  return kNames[static_cast<size_t>(type)];
}

std::string_view job_status_name(JobStatus status) {
  static constexpr std::string_view kNames[] = {"created", "running", "paused",   "ready",     "standby",
                                                "waiting", "pending", "aborting", "concluded", "null"};
  return kNames[static_cast<size_t>(status)];
}

Result<OnError> parse_on_error(std::string_view name) {
  static constexpr std::string_view kNames[] = {"report", "ignore", "stop", "enospc"};
  for (size_t i = 0; i < std::size(kNames); ++i)
    if (kNames[i] == name) return static_cast<OnError>(i);
  return Error(
      ErrorKind::kInvalidArgument,
      fmt::format("'{}' is not what a job can do about an error: report, ignore, stop or enospc", name));
}

Job::Job(JobManager& manager, JobType type, JobOptions options)
    : type_(type),
      options_(std::move(options)),
      manager_(manager),
      events_(manager.events()),
      speed_(options_.speed) {
  bucket_.set_limits({.rate = static_cast<double>(speed_)});
}

JobInfo Job::info_locked() const {
  JobInfo info;
  info.id = options_.id;
  info.type = type_;
  info.status = status_;
  info.current = current_;
  info.total = total_;
  info.speed = speed_;
  info.ready = status_ == JobStatus::kReady || status_ == JobStatus::kStandby;
  info.paused = pauses_ != 0;
  info.auto_finalize = options_.auto_finalize;
  info.auto_dismiss = options_.auto_dismiss;
  info.io_status = io_status_;
  info.error = error_;
  return info;
}

JobInfo Job::info() const {
  const std::lock_guard lock(mutex_);
  return info_locked();
}

void Job::set_status_locked(JobStatus status) {
  if (status_ == status) return;
  status_ = status;
  untold_.push_back(info_locked());
  changed_.wake_all();
}

// One thread tells them, in their order: dismiss() comes from any thread, maybe from a handler of an event.
void Job::tell_changes() {
  std::unique_lock lock(mutex_);
  if (telling_) return;
  telling_ = true;
  while (!untold_.empty()) {
    std::vector<JobInfo> changes;
    changes.swap(untold_);
    lock.unlock();
    if (events_)
      for (JobInfo& each : changes) events_({.info = std::move(each)});
    lock.lock();
  }
  telling_ = false;
}

void Job::tell(JobEvent::Kind kind) {
  tell_changes();
  if (events_) events_({.kind = kind, .info = info()});
}

// --- control ---

Result<void> Job::refuse_locked(std::string_view what) const {
  return Error(ErrorKind::kState,
               fmt::format("job '{}' cannot {}: it is {}", options_.id, what, job_status_name(status_)));
}

Result<void> Job::set_speed(uint64_t bytes_per_second) {
  const std::lock_guard lock(mutex_);
  if (status_ >= JobStatus::kWaiting) return refuse_locked("change its speed");
  speed_ = bytes_per_second;
  bucket_ = TokenBucket();
  bucket_.set_limits({.rate = static_cast<double>(speed_)});
  return {};
}

Result<void> Job::pause() {
  const std::lock_guard lock(mutex_);
  if (status_ >= JobStatus::kWaiting || cancelled_) return refuse_locked("be paused");
  ++pauses_;
  ++wakes_;
  changed_.wake_all();
  return {};
}

Result<void> Job::resume() {
  const std::lock_guard lock(mutex_);
  if (pauses_ == 0)
    return Error(ErrorKind::kState, fmt::format("job '{}' cannot be resumed: it is not paused", options_.id));
  --pauses_;
  stopped_by_error_ = false;
  io_status_ = IoStatus::kOk;
  changed_.wake_all();
  return {};
}

Result<void> Job::cancel(bool force) {
  {
    const std::lock_guard lock(mutex_);
    if (status_ >= JobStatus::kAborting || finalizing_) return refuse_locked("be cancelled");
    const bool ready = status_ == JobStatus::kReady || status_ == JobStatus::kStandby;
    if (ready && !force) {
      if (complete_) return refuse_locked("be cancelled while it completes");
      soft_cancelled_ = true;
    } else {
      cancelled_ = true;
    }
    pauses_ = 0;
    ++wakes_;
    changed_.wake_all();
  }
  if (!cancelled_) return {};
  on_cancel();
  if (options_.group) options_.group->fail();
  return {};
}

Result<void> Job::complete() {
  const std::lock_guard lock(mutex_);
  if (status_ != JobStatus::kReady || soft_cancelled_ || cancelled_) return refuse_locked("be completed");
  if (pauses_ != 0) return refuse_locked("be completed while it is paused");
  complete_ = true;
  ++wakes_;
  changed_.wake_all();
  return {};
}

Result<void> Job::finalize() {
  const std::lock_guard lock(mutex_);
  if (status_ != JobStatus::kPending || options_.auto_finalize) return refuse_locked("be finalized");
  finalize_ = true;
  changed_.wake_all();
  return {};
}

Result<void> Job::dismiss() {
  {
    const std::lock_guard lock(mutex_);
    if (status_ != JobStatus::kConcluded) return refuse_locked("be dismissed");
    set_status_locked(JobStatus::kNull);
  }
  const auto self = shared_from_this();
  manager_.forget(*this);
  tell_changes();
  return {};
}

Task<void> Job::concluded() {
  std::unique_lock lock(mutex_);
  while (status_ < JobStatus::kConcluded) co_await changed_.wait(lock);
}

// --- for the work ---

Task<Result<void>> Job::prepare() {
  co_return Result<void>();
}

Task<bool> Job::pause_point() {
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      if (cancelled_) co_return false;
      if (pauses_ == 0) {
        if (status_ == JobStatus::kPaused)
          set_status_locked(JobStatus::kRunning);
        else if (status_ == JobStatus::kStandby)
          set_status_locked(JobStatus::kReady);
      } else if (status_ == JobStatus::kPaused || status_ == JobStatus::kStandby) {
        co_await changed_.wait(lock);
        continue;
      } else {
        set_status_locked(status_ == JobStatus::kReady ? JobStatus::kStandby : JobStatus::kPaused);
      }
    }
    tell_changes();
    if (pauses_ == 0) co_return !cancelled_;
  }
}

Task<bool> Job::limit_speed(uint64_t bytes) {
  IoContext& context = *IoContext::current();
  while (!cancelled_ && pauses_ == 0) {
    if (soft_cancelled_ || finalizing_) co_return true;
    uint64_t wait;
    {
      const std::lock_guard lock(mutex_);
      wait = bucket_.wait(IoContext::now());
      if (wait == 0) bucket_.add(static_cast<double>(bytes));
    }
    if (wait == 0) co_return true;
    co_await context.sleep_until(IoContext::now() + std::min(wait, kLook));
  }
  co_return false;
}

Task<void> Job::rest(uint64_t nanoseconds) {
  IoContext& context = *IoContext::current();
  const uint64_t end = IoContext::now() + nanoseconds;
  while (IoContext::now() < end && !cancelled_ && pauses_ == 0)
    co_await context.sleep_until(std::min(end, IoContext::now() + kLook));
}

Task<void> Job::wait_for_wake(uint64_t seen) {
  std::unique_lock lock(mutex_);
  while (wakes_ == seen && !cancelled_ && pauses_ == 0) co_await changed_.wait(lock);
}

void Job::wake() {
  const std::lock_guard lock(mutex_);
  ++wakes_;
  changed_.wake_all();
}

void Job::set_progress(uint64_t current, uint64_t total) {
  current_ = current;
  total_ = total;
}

void Job::set_ready() {
  {
    const std::lock_guard lock(mutex_);
    set_status_locked(JobStatus::kReady);
  }
  tell(JobEvent::Kind::kReady);
}

OnError Job::tell_error(OnError policy, bool is_read, int error) {
  OnError action = policy;
  if (policy == OnError::kEnospc) action = error == -ENOSPC ? OnError::kStop : OnError::kReport;
  JobEvent event;
  event.kind = JobEvent::Kind::kError;
  event.is_read = is_read;
  event.error = -error;
  {
    const std::lock_guard lock(mutex_);
    // Nobody can give it up any more: it neither waits for a user nor tries for ever.
    if (finalizing_) action = OnError::kReport;
    event.action = action;
    io_status_ = error == -ENOSPC ? IoStatus::kNoSpace : IoStatus::kFailed;
    // Several requests may fail together: one resume() is to be enough.
    if (action == OnError::kStop && !stopped_by_error_ && !cancelled_) {
      stopped_by_error_ = true;
      ++pauses_;
    }
    event.info = info_locked();
  }
  if (events_) events_(event);
  return action;
}

// --- life ---

Task<Result<void>> Job::work() {
  CO_TRY(co_await run());
  if (cancelled_) co_return Result<void>();
  {
    const std::lock_guard lock(mutex_);
    set_status_locked(JobStatus::kWaiting);
  }
  tell_changes();
  if (options_.group) {
    const bool all = co_await options_.group->vote(true);
    if (!all) cancelled_ = true;
    if (!all) co_return Result<void>();
  }
  {
    const std::lock_guard lock(mutex_);
    set_status_locked(JobStatus::kPending);
  }
  if (!options_.auto_finalize) {
    tell(JobEvent::Kind::kPending);
    std::unique_lock lock(mutex_);
    while (!finalize_ && !cancelled_) co_await changed_.wait(lock);
  }
  tell_changes();
  {
    // From here on it is too late to cancel.
    const std::lock_guard lock(mutex_);
    if (cancelled_) co_return Result<void>();
    finalizing_ = true;
    pauses_ = 0;
  }
  auto result = co_await prepare();
  if (result && options_.group) {
    const bool all = co_await options_.group->vote(true);
    if (!all) cancelled_ = true;
  }
  co_return result;
}

Task<void> Job::live() {
  const auto self = shared_from_this();
  {
    const std::lock_guard lock(mutex_);
    set_status_locked(JobStatus::kRunning);
  }
  tell_changes();
  auto result = co_await work();
  co_await conclude(std::move(result));
}

Task<void> Job::conclude(Result<void> result) {
  const bool success = result && !cancelled_;
  if (!success) {
    if (options_.group) options_.group->fail();
    {
      const std::lock_guard lock(mutex_);
      if (!result)
        error_ = result.error().message();
      else
        error_ = fmt::format("job '{}' was cancelled", options_.id);
      set_status_locked(JobStatus::kAborting);
    }
    tell_changes();
  }
  co_await clean(success);
  const bool was_cancelled = cancelled_ && result;
  if (events_)
    events_(
        {.kind = was_cancelled ? JobEvent::Kind::kCancelled : JobEvent::Kind::kCompleted, .info = info()});
  // Who waits for the conclusion finds it forgotten, if it is to be.
  if (options_.auto_dismiss) manager_.forget(*this);
  {
    const std::lock_guard lock(mutex_);
    set_status_locked(JobStatus::kConcluded);
    if (options_.auto_dismiss) set_status_locked(JobStatus::kNull);
  }
  tell_changes();
}

}  // namespace ostler::block
