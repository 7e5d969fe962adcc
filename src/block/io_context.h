// One thread's input and output: an io_uring, or, where the kernel refuses one, worker threads that make
// system calls. Coroutines of the block layer run on a context and come back to it.
//
// Requests queued in one turn of the loop are submitted by one system call. A context is run by one thread
// only: the one which calls run() or run_until() first.
#pragma once

#include <sys/uio.h>

#include <coroutine>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <queue>
#include <span>
#include <thread>
#include <vector>

#include "base/adaptive_poll.h"
#include "base/fd.h"
#include "block/task.h"
#include "block/worker_pool.h"

struct io_uring;
struct io_uring_sqe;

namespace ostler::block {

enum class Aio { kIoUring, kThreads };

// A request to the kernel, awaited where it is made: `const int result = co_await readv(fd, iov, offset)`.
// The result is what the system call returns, or a negative errno; short transfers are the caller's to
// continue.
struct IoRequest {
  enum class Kind : uint8_t { kRead, kWrite, kSync, kAllocate, kPoll };
  Kind kind;
  int fd;
  const iovec* iov = nullptr;
  unsigned iov_count = 0;
  int mode = 0;  // of fallocate; events of poll
  uint64_t offset = 0;
  uint64_t length = 0;
  bool on_worker = false;  // a worker thread makes the system call, though there may be a ring
  int result = 0;
  std::coroutine_handle<> waiter = nullptr;
  IoRequest* next = nullptr;

  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> handle);
  int await_resume() const noexcept { return result; }
  // The system call itself, on any thread that may wait.
  int perform() const;
};

// At most IOV_MAX pieces are taken. The iovecs stay valid until the result.
IoRequest readv(int fd, std::span<const iovec> iov, uint64_t offset);
IoRequest writev(int fd, std::span<const iovec> iov, uint64_t offset);
IoRequest datasync(int fd);
// fallocate(2); `mode` as there.
IoRequest allocate(int fd, int mode, uint64_t offset, uint64_t length);
// Waits until poll(2) would give one of `events` or an error for `fd`; the result is what it would give. It
// takes no worker thread. To end it early, make the descriptor ready: shut the socket down.
IoRequest poll_for(int fd, short events);

class IoContext {
 public:
  explicit IoContext(Aio aio = Aio::kIoUring);
  ~IoContext();
  IoContext(const IoContext&) = delete;
  IoContext& operator=(const IoContext&) = delete;

  // The context that runs on this thread, or null.
  static IoContext* current();

  // Resumes `handle` in the loop. Any thread.
  void post(std::coroutine_handle<> handle);
  // Starts `task` in the loop. Any thread.
  void spawn(Task<void> task) { post(detail::detach(std::move(task)).handle); }

  // Runs until stop() and until nothing that was posted is left.
  void run();
  void stop();  // any thread
  // Looks for work so many nanoseconds before it sleeps, while that pays. Before it first runs.
  void poll_for(uint64_t most) { poll_ = AdaptivePoll(most); }
  // Runs `task` and whatever else is ready until it has finished. Not within run().
  template <class T>
  T run_until(Task<T> task) {
    std::optional<T> result;
    run_task(store(std::move(task), result));
    return std::move(*result);
  }
  void run_until(Task<void> task) { run_task(std::move(task)); }

  // False: worker threads make the system calls. Known after the loop first ran.
  bool has_ring() const { return ring_ != nullptr; }
  uint64_t sent_to_ring() const { return sent_to_ring_; }  // requests so far; this context's thread
  void submit(IoRequest& request);                         // this context's thread

  // co_await context.offload(function): runs it on a worker thread, for calls that block and for computing.
  struct Offload {
    IoContext& context;
    std::function<void()> function;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> handle);
    void await_resume() const noexcept {}
  };
  Offload offload(std::function<void()> function) { return {*this, std::move(function)}; }

  // co_await context.sleep_until(t): t in nanoseconds of CLOCK_MONOTONIC.
  struct Sleep {
    IoContext& context;
    uint64_t time;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> handle);
    void await_resume() const noexcept {}
  };
  Sleep sleep_until(uint64_t time) { return {*this, time}; }
  static uint64_t now();

 private:
  friend struct IoRequest;
  struct Timer {
    uint64_t time;
    uint64_t order;
    std::coroutine_handle<> waiter;
    bool operator<(const Timer& other) const {
      return time != other.time ? time > other.time : order > other.order;
    }
  };
  template <class T>
  static Task<void> store(Task<T> task, std::optional<T>& result) {
    result.emplace(co_await task);
  }
  void run_task(Task<void> task);
  void begin();
  void turn(const std::function<bool()>& finished);
  void wait(bool block);
  bool has_work();
  void wait_on_ring(bool block);
  void wait_on_event(bool block);
  bool fill(IoRequest& request);
  void arm_wakeup();
  bool take_posted(bool before_sleep);
  void work(std::function<void()> job, std::coroutine_handle<> then);
  void fire_timers();
  void wake();

  const Aio aio_;
  bool begun_ = false;
  std::thread::id thread_;
  std::unique_ptr<io_uring> ring_;
  Fd event_;
  uint64_t event_count_ = 0;  // where the ring reads event_ to
  bool wakeup_armed_ = false;
  AdaptivePoll poll_{0};
  std::vector<std::coroutine_handle<>> ready_, running_;
  std::priority_queue<Timer> timers_;
  uint64_t timer_order_ = 0;
  IoRequest* backlog_first_ = nullptr;  // waiting for a place in the submission queue
  IoRequest** backlog_end_ = &backlog_first_;
  unsigned in_ring_ = 0;
  std::vector<IoRequest*> polls_;  // without a ring: what the loop itself polls
  uint64_t sent_to_ring_ = 0;

  std::mutex mutex_;  // of what follows
  std::vector<std::coroutine_handle<>> posted_;
  unsigned working_ = 0;  // jobs of workers_
  bool sleeping_ = false;
  bool stop_ = false;

  WorkerPool workers_;  // last: its tasks post to the above
};

// A context with a thread of its own.
class IoThread {
 public:
  // Looks for work so many nanoseconds before it sleeps, while that pays: a guest waits for it.
  static constexpr uint64_t kPoll = 100'000;
  explicit IoThread(Aio aio = Aio::kIoUring, uint64_t poll = kPoll);
  ~IoThread();  // after everything posted so far has run
  IoContext& context() { return context_; }
  // Runs `task` there and waits for it, on another thread.
  template <class T>
  T wait_for(Task<T> task) {
    std::promise<T> result;
    context_.spawn(deliver(std::move(task), result));
    return result.get_future().get();
  }
  // Returns when what was ready to run there has run: a request that has told its end holds nothing any more.
  void settle() { wait_for(nothing()); }

 private:
  static Task<bool> nothing() { co_return true; }
  template <class T>
  static Task<void> deliver(Task<T> task, std::promise<T>& result) {
    result.set_value(co_await task);
  }
  IoContext context_;
  std::thread thread_;
};

}  // namespace ostler::block
