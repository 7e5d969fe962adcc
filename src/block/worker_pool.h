// Threads for I/O that may wait. Started as they are needed, at most a few; idle ones sleep.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace ostler::block {

// run() from any thread. The queue is bounded by its users: each request in flight is one task.
class WorkerPool {
 public:
  explicit WorkerPool(unsigned most_threads = 4) : most_threads_(most_threads) {}
  ~WorkerPool();  // after the last task has run
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // Runs `task` on a worker; at once when the caller is one, so that tasks which wait for tasks cannot
  // starve.
  void run(std::function<void()> task);

 private:
  void work();

  const unsigned most_threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;
  std::vector<std::thread> threads_;
  unsigned idle_ = 0;
  bool stop_ = false;
};

}  // namespace ostler::block
