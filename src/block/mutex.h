// Waiting among coroutines of several contexts. A waiter is resumed on its own context, never on the waker's
// stack.
#pragma once

#include <coroutine>
#include <mutex>
#include <utility>

#include "block/io_context.h"

namespace ostler::block {

// Coroutines waiting for a condition that a std::mutex guards: as a condition variable is for threads.
//   std::unique_lock lock(mutex);
//   while (!condition) co_await queue.wait(lock);
// The lock is let go while waiting; it must not be held over any other co_await.
class WaitQueue {
 public:
  struct Waiter {
    WaitQueue& queue;
    std::unique_lock<std::mutex>& lock;
    std::coroutine_handle<> handle = nullptr;
    IoContext* context = nullptr;
    Waiter* next = nullptr;

    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> self) {
      handle = self;
      context = IoContext::current();
      ASSERT(context != nullptr, "coroutines of the block layer run on an I/O context");
      *queue.end_ = this;
      queue.end_ = &next;
      // Another thread may wake it from here on, but only this one resumes it, later.
      std::mutex* const mutex = lock.release();
      mutex_of_queue = mutex;
      mutex->unlock();
    }
    void await_resume() { lock = std::unique_lock(*mutex_of_queue); }
    std::mutex* mutex_of_queue = nullptr;
  };
  Waiter wait(std::unique_lock<std::mutex>& lock) { return {*this, lock}; }

  // With the mutex held.
  void wake_one() {
    Waiter* const waiter = first_;
    if (waiter == nullptr) return;
    first_ = waiter->next;
    if (first_ == nullptr) end_ = &first_;
    waiter->context->post(waiter->handle);
  }
  void wake_all() {
    while (first_ != nullptr) wake_one();
  }
  bool empty() const { return first_ == nullptr; }

  WaitQueue() = default;
  WaitQueue(const WaitQueue&) = delete;
  WaitQueue& operator=(const WaitQueue&) = delete;

 private:
  Waiter* first_ = nullptr;
  Waiter** end_ = &first_;
};

// Held over waits. `auto guard = co_await mutex.lock()`.
class Mutex {
 public:
  class [[nodiscard]] Guard {
   public:
    Guard() = default;
    explicit Guard(Mutex* mutex) : mutex_(mutex) {}
    Guard(Guard&& other) noexcept : mutex_(std::exchange(other.mutex_, nullptr)) {}
    Guard& operator=(Guard&& other) noexcept {
      if (this != &other) {
        unlock();
        mutex_ = std::exchange(other.mutex_, nullptr);
      }
      return *this;
    }
    ~Guard() { unlock(); }
    void unlock() {
      if (Mutex* const mutex = std::exchange(mutex_, nullptr)) mutex->unlock();
    }

   private:
    Mutex* mutex_ = nullptr;
  };

  Task<Guard> lock() {
    std::unique_lock lock(inner_);
    while (held_) co_await queue_.wait(lock);
    held_ = true;
    co_return Guard(this);
  }

 private:
  void unlock() {
    const std::lock_guard lock(inner_);
    held_ = false;
    queue_.wake_one();
  }
  std::mutex inner_;
  bool held_ = false;
  WaitQueue queue_;
};

// Many readers or one writer; a waiting writer holds new readers back.
class SharedMutex {
 public:
  template <bool kExclusive>
  class [[nodiscard]] BasicGuard {
   public:
    BasicGuard() = default;
    explicit BasicGuard(SharedMutex* mutex) : mutex_(mutex) {}
    BasicGuard(BasicGuard&& other) noexcept : mutex_(std::exchange(other.mutex_, nullptr)) {}
    BasicGuard& operator=(BasicGuard&& other) noexcept {
      if (this != &other) {
        unlock();
        mutex_ = std::exchange(other.mutex_, nullptr);
      }
      return *this;
    }
    ~BasicGuard() { unlock(); }
    void unlock() {
      if (SharedMutex* const mutex = std::exchange(mutex_, nullptr)) mutex->unlock(kExclusive);
    }

   private:
    SharedMutex* mutex_ = nullptr;
  };
  using Shared = BasicGuard<false>;
  using Exclusive = BasicGuard<true>;

  // Without waiting, from any thread: false if a writer is there.
  bool try_lock_shared(Shared& guard) {
    const std::lock_guard lock(inner_);
    if (writing_ || writers_waiting_ != 0) return false;
    ++readers_;
    guard = Shared(this);
    return true;
  }
  Task<Shared> lock_shared() {
    std::unique_lock lock(inner_);
    while (writing_ || writers_waiting_ != 0) co_await queue_.wait(lock);
    ++readers_;
    co_return Shared(this);
  }
  Task<Exclusive> lock() {
    std::unique_lock lock(inner_);
    ++writers_waiting_;
    while (writing_ || readers_ != 0) co_await queue_.wait(lock);
    --writers_waiting_;
    writing_ = true;
    co_return Exclusive(this);
  }

 private:
  void unlock(bool exclusive) {
    const std::lock_guard lock(inner_);
    if (exclusive)
      writing_ = false;
    else
      --readers_;
    if (readers_ == 0) queue_.wake_all();
  }
  std::mutex inner_;
  unsigned readers_ = 0;
  unsigned writers_waiting_ = 0;
  bool writing_ = false;
  WaitQueue queue_;
};

// Coroutines of one context that work side by side; wait() gives their first error.
//   TaskGroup group(8);
//   while (…) co_await group.start(part(…));     // waits while 8 are running
//   const int error = co_await group.wait();
class TaskGroup {
 public:
  explicit TaskGroup(unsigned most = 8) : most_(most) {}
  TaskGroup(const TaskGroup&) = delete;
  TaskGroup& operator=(const TaskGroup&) = delete;

  struct Room {
    TaskGroup& group;
    unsigned below;
    bool await_ready() const noexcept { return group.running_ < below; }
    void await_suspend(std::coroutine_handle<> handle) {
      group.waiter_ = handle;
      group.below_ = below;
    }
    int await_resume() const noexcept { return group.error_; }
  };
  // 0, or the first error so far: further work is pointless. The task is run even so: it may have something
  // to give back.
  Task<int> start(Task<int> task) {
    co_await Room{*this, most_};
    ++running_;
    spawn(run(std::move(task)));
    co_return error_;
  }
  Room wait() { return {*this, 1}; }
  int error() const { return error_; }

 private:
  Task<void> run(Task<int> task) {
    const int error = co_await task;
    if (error != 0 && error_ == 0) error_ = error;
    if (--running_ < below_ && waiter_) {
      // Not on this stack: the waiter may destroy the group.
      IoContext::current()->post(std::exchange(waiter_, nullptr));
    }
  }
  const unsigned most_;
  unsigned running_ = 0;
  unsigned below_ = 0;
  int error_ = 0;
  std::coroutine_handle<> waiter_;
};

}  // namespace ostler::block
