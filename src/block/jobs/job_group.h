// Jobs that succeed together or not at all ("completion-mode": "grouped" of QMP's transaction).
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "base/result.h"
#include "block/mutex.h"
#include "block/task.h"

namespace ostler::block {

class Job;

// All members from any thread, coroutines on an I/O context.
class JobGroup {
 public:
  explicit JobGroup(unsigned members) : members_(members) {}

  void join(const std::shared_ptr<Job>& job);
  // Each member calls it when its work is done, and again when its work has been made to count: waits until
  // all have. False: one has failed, and all the others are cancelled.
  Task<bool> vote(bool success);
  // A member will not come to its end, or was never begun.
  void fail();

 private:
  const unsigned members_;
  std::mutex mutex_;  // of the following
  WaitQueue changed_;
  unsigned votes_ = 0;
  bool failed_ = false;
  std::vector<std::weak_ptr<Job>> jobs_;
};

}  // namespace ostler::block
