#include "fs9p/workers.h"

#include <pthread.h>
#include <signal.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <system_error>
#include <utility>

namespace ostler::fs9p {

struct Workers::State {
  std::mutex mutex;
  std::condition_variable wake;
  // Guarded by mutex.
  std::deque<Job> jobs;
  size_t idle = 0;
  bool stop = false;
};

Workers::Workers(size_t most) : most_(most), state_(std::make_shared<State>()) {}

Workers::~Workers() {
  bool come_back = false;
  {
    const std::lock_guard lock(state_->mutex);
    state_->stop = true;
    come_back = state_->jobs.empty() && state_->idle == threads_.size();
  }
  state_->wake.notify_all();
  for (std::thread& thread : threads_) come_back ? thread.join() : thread.detach();
}

bool Workers::run(Job job) {
  bool more = false;
  {
    const std::lock_guard lock(state_->mutex);
    state_->jobs.push_back(std::move(job));
    more = state_->jobs.size() > state_->idle && threads_.size() < most_;
  }
  state_->wake.notify_one();
  if (!more || start_one() || !threads_.empty()) return true;
  const std::lock_guard lock(state_->mutex);
  state_->jobs.clear();
  return false;
}

bool Workers::start_one() {
  // Signals are for the main thread.
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  bool started = true;
  try {
    threads_.emplace_back([state = state_] { work(state); });
  } catch (const std::system_error&) {
    started = false;
  }
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
  return started;
}

void Workers::work(const std::shared_ptr<State>& state) {
  pthread_setname_np(pthread_self(), "ostler-9p");
  std::unique_lock lock(state->mutex);
  for (;;) {
    ++state->idle;
    state->wake.wait(lock, [&] { return state->stop || !state->jobs.empty(); });
    --state->idle;
    if (state->jobs.empty()) return;
    {
      const Job job = std::move(state->jobs.front());
      state->jobs.pop_front();
      lock.unlock();
      job();
    }  // what it owns goes before the lock is taken
    lock.lock();
  }
}

}  // namespace ostler::fs9p
