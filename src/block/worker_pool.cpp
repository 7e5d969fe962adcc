#include "block/worker_pool.h"

#include <pthread.h>
#include <signal.h>

#include <system_error>

namespace ostler::block {
namespace {
thread_local const WorkerPool* current_pool = nullptr;
}

WorkerPool::~WorkerPool() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (auto& thread : threads_) thread.join();
}

void WorkerPool::run(std::function<void()> task) {
  if (current_pool == this) return task();
  {
    const std::lock_guard lock(mutex_);
    // A task in the queue takes an idle thread each.
    if (idle_ <= tasks_.size() && threads_.size() < most_threads_) {
      // Signals are for the main thread.
      sigset_t all, old;
      sigfillset(&all);
      pthread_sigmask(SIG_SETMASK, &all, &old);
      try {
        threads_.emplace_back([this] { work(); });
      } catch (const std::system_error&) {
        // No thread to be had: the existing ones, or this very thread, will do.
      }
      pthread_sigmask(SIG_SETMASK, &old, nullptr);
    }
    if (!threads_.empty()) {
      tasks_.push_back(std::move(task));
      task = nullptr;
    }
  }
  if (task)
    task();
  else
    wake_.notify_one();
}

void WorkerPool::work() {
  current_pool = this;
  pthread_setname_np(pthread_self(), "ostler-io");
  std::unique_lock lock(mutex_);
  for (;;) {
    ++idle_;
    wake_.wait(lock, [this] { return stop_ || !tasks_.empty(); });
    --idle_;
    if (tasks_.empty()) return;
    auto task = std::move(tasks_.front());
    tasks_.pop_front();
    lock.unlock();
    task();
    task = nullptr;
    lock.lock();
  }
}

}  // namespace ostler::block
