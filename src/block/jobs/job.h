// A job: work on the block graph that goes on while a guest runs, with progress, pause, a speed limit and an
// end that is told. Names are those of QMP (qapi/job.json and block-core.json of the QEMU documentation).
//
// The work is a coroutine on the job's I/O context; control functions come from any thread and take effect
// there, at the next pause point.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "block/filters/token_bucket.h"
#include "block/mutex.h"
#include "block/node.h"

namespace ostler::block {

class JobGroup;
class JobManager;

enum class JobType { kStream, kCommit, kMirror, kBackup };
enum class JobStatus {
  kCreated,
  kRunning,
  kPaused,   // while it was running
  kReady,    // a mirror that has caught up and goes on until it is completed or cancelled
  kStandby,  // paused while it was ready
  kWaiting,
  kPending,  // the work is done; finalize() makes it count
  kAborting,
  kConcluded,
  kNull,  // forgotten by its manager
};
std::string_view job_type_name(JobType type);        // "stream"
std::string_view job_status_name(JobStatus status);  // "running"

// What a job does about a request that failed. Ignore: a stream goes on and fails at its end, others try
// again later. Stop: it pauses as if a user had asked, and tries again when resumed. Enospc: stop when the
// host's disk is full, else report.
enum class OnError { kReport, kIgnore, kStop, kEnospc };
Result<OnError> parse_on_error(std::string_view name);
enum class IoStatus { kOk, kFailed, kNoSpace };

struct JobOptions {
  std::string id;
  uint64_t speed = 0;  // bytes per second; 0: no limit
  bool auto_finalize = true;
  bool auto_dismiss = true;
  std::shared_ptr<JobGroup> group = {};  // it ends with the others; null: by itself
};

struct JobInfo {
  std::string id;
  JobType type = JobType::kStream;
  JobStatus status = JobStatus::kCreated;
  uint64_t current = 0, total = 0;  // progress; bytes, of no fixed scale but for their quotient
  uint64_t speed = 0;
  bool ready = false, paused = false;  // paused: a user asked for it
  bool auto_finalize = true, auto_dismiss = true;
  IoStatus io_status = IoStatus::kOk;
  std::string error;  // of a concluded job; empty: success
};

struct JobEvent {
  // Concluded jobs say kCompleted (an error may be in `info`) or kCancelled.
  enum class Kind { kStatusChange, kReady, kPending, kCompleted, kCancelled, kError };
  Kind kind = Kind::kStatusChange;
  JobInfo info;
  // Of kError:
  bool is_read = false;
  int error = 0;  // errno
  OnError action = OnError::kReport;
};
// Called on the job's context or the thread of a control function, without locks.
using JobEvents = std::function<void(const JobEvent&)>;

class Job : public std::enable_shared_from_this<Job> {
 public:
  Job(JobManager& manager, JobType type, JobOptions options);
  virtual ~Job() = default;
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  const std::string& id() const { return options_.id; }
  JobInfo info() const;

  // --- control; kState where the present state does not allow it ---
  Result<void> set_speed(uint64_t bytes_per_second);
  Result<void> pause();  // nests
  Result<void> resume();
  // A mirror that is ready ends without its target taking over, unless `force`: what it has copied then is
  // of one moment. Others stop as soon as they can and leave the graph as it was.
  Result<void> cancel(bool force = false);
  Result<void> complete();  // of a ready mirror: the target takes over
  Result<void> finalize();  // of a pending job
  Result<void> dismiss();   // of a concluded job

  // Until it has concluded.
  Task<void> concluded();

 protected:
  // --- what a kind of job does, in this order, on its context ---
  // The work. After an error or a cancellation: clean() follows at once.
  virtual Task<Result<void>> run() = 0;
  // Makes the work count: changes to the graph, whole or not at all. It must come to an end by itself.
  virtual Task<Result<void>> prepare();
  // Takes away what the job has put into the graph; always, once.
  virtual Task<void> clean(bool success) = 0;
  // Ends waits of the work's own; any thread.
  virtual void on_cancel() {}

  // --- for the work ---
  bool cancelled() const { return cancelled_; }
  bool soft_cancelled() const { return soft_cancelled_; }
  bool asked_to_complete() const { return complete_; }
  bool pause_wanted() const { return pauses_ != 0; }
  // Waits while a pause is asked for. No request of the job is under way. False: it was cancelled.
  Task<bool> pause_point();
  // Waits until the speed limit allows `bytes` and books them, or until a pause or cancellation is asked for;
  // there is no limit at the end.
  // False: it waits no longer because of those, and nothing is booked.
  Task<bool> limit_speed(uint64_t bytes);
  // Sleeps; less when it is controlled.
  Task<void> rest(uint64_t nanoseconds);
  // Waits until wake() was called since `seen` was loaded from wakes(), or somebody controls the job.
  Task<void> wait_for_wake(uint64_t seen);
  uint64_t wakes() const { return wakes_; }
  void wake();  // any thread
  void set_progress(uint64_t current, uint64_t total);
  void advance(uint64_t bytes) { current_ += bytes; }
  void set_ready();
  // Tells of a failed request (a negative errno) and what is to be done: kReport, kIgnore or kStop; kReport
  // whatever the policy, when it is too late to cancel. Any thread.
  OnError tell_error(OnError policy, bool is_read, int error);
  JobManager& manager() const { return manager_; }

 private:
  friend class JobManager;
  void set_status_locked(JobStatus status);
  void tell(JobEvent::Kind kind);
  void tell_changes();
  JobInfo info_locked() const;
  Result<void> refuse_locked(std::string_view what) const;
  Task<void> live();
  Task<Result<void>> work();
  Task<void> conclude(Result<void> result);

  const JobType type_;
  const JobOptions options_;
  JobManager& manager_;
  const JobEvents events_;
  std::atomic<uint64_t> current_{0}, total_{0};
  std::atomic<bool> cancelled_{false}, soft_cancelled_{false}, complete_{false};
  std::atomic<bool> finalizing_{false};  // too late to cancel
  std::atomic<unsigned> pauses_{0};
  std::atomic<uint64_t> wakes_{0};

  mutable std::mutex mutex_;  // of the following
  WaitQueue changed_;
  JobStatus status_ = JobStatus::kCreated;
  std::vector<JobInfo> untold_;  // changes of status
  bool telling_ = false;         // a thread is in tell_changes()
  TokenBucket bucket_;
  uint64_t speed_ = 0;
  bool finalize_ = false;
  bool stopped_by_error_ = false;
  IoStatus io_status_ = IoStatus::kOk;
  std::string error_;
};

}  // namespace ostler::block
