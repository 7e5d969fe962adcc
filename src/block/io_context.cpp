#include "block/io_context.h"

#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>

namespace ostler::block {
namespace {

thread_local IoContext* current_context = nullptr;

constexpr unsigned kEntries = 256;
constexpr uint64_t kSecond = 1'000'000'000;

class CurrentScope {
 public:
  explicit CurrentScope(IoContext* context) : before_(std::exchange(current_context, context)) {}
  ~CurrentScope() { current_context = before_; }

 private:
  IoContext* const before_;
};

unsigned pieces(std::span<const iovec> iov) {
  return static_cast<unsigned>(std::min<size_t>(iov.size(), IOV_MAX));
}

std::unique_ptr<io_uring> make_ring() {
  auto ring = std::make_unique<io_uring>();
  // Completions are run when this thread asks for them, not by interrupting it. Older kernels do without.
  for (const unsigned flags :
       {unsigned{IORING_SETUP_SINGLE_ISSUER} | IORING_SETUP_DEFER_TASKRUN, unsigned{IORING_SETUP_CLAMP}}) {
    io_uring_params parameters = {};
    parameters.flags = flags;
    if (io_uring_queue_init_params(kEntries, ring.get(), &parameters) == 0) return ring;
  }
  return nullptr;
}

}  // namespace

IoRequest readv(int fd, std::span<const iovec> iov, uint64_t offset) {
  return {.kind = IoRequest::Kind::kRead,
          .fd = fd,
          .iov = iov.data(),
          .iov_count = pieces(iov),
          .offset = offset};
}

IoRequest writev(int fd, std::span<const iovec> iov, uint64_t offset) {
  return {.kind = IoRequest::Kind::kWrite,
          .fd = fd,
          .iov = iov.data(),
          .iov_count = pieces(iov),
          .offset = offset};
}

IoRequest datasync(int fd) {
  return {.kind = IoRequest::Kind::kSync, .fd = fd};
}

IoRequest allocate(int fd, int mode, uint64_t offset, uint64_t length) {
  return {.kind = IoRequest::Kind::kAllocate, .fd = fd, .mode = mode, .offset = offset, .length = length};
}

IoRequest poll_for(int fd, short events) {
  return {.kind = IoRequest::Kind::kPoll, .fd = fd, .mode = events};
}

void IoRequest::await_suspend(std::coroutine_handle<> handle) {
  waiter = handle;
  IoContext* const context = IoContext::current();
  ASSERT(context != nullptr, "coroutines of the block layer run on an I/O context");
  context->submit(*this);
}

int IoRequest::perform() const {
  for (;;) {
    ssize_t done = 0;
    const auto at = static_cast<off_t>(offset);
    switch (kind) {
      case Kind::kRead:
        done = preadv(fd, iov, static_cast<int>(iov_count), at);
        break;
      case Kind::kWrite:
        done = pwritev(fd, iov, static_cast<int>(iov_count), at);
        break;
      case Kind::kSync:
        done = fdatasync(fd);
        break;
      case Kind::kAllocate:
        done = fallocate(fd, mode, at, static_cast<off_t>(length));
        break;
      case Kind::kPoll: {
        pollfd entry = {fd, static_cast<short>(mode), 0};
        done = poll(&entry, 1, -1);
        if (done > 0) done = entry.revents;
        break;
      }
    }
    if (done >= 0) return static_cast<int>(done);
    if (errno != EINTR) return -errno;
  }
}

IoContext::IoContext(Aio aio) : aio_(aio), event_(eventfd(0, EFD_CLOEXEC)) {
  ASSERT(event_, "a process may have one more file descriptor");
}

IoContext::~IoContext() {
  if (ring_) io_uring_queue_exit(ring_.get());
}

IoContext* IoContext::current() {
  return current_context;
}

uint64_t IoContext::now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<uint64_t>(time.tv_sec) * kSecond + static_cast<uint64_t>(time.tv_nsec);
}

void IoContext::begin() {
  if (begun_) {
    ASSERT(thread_ == std::this_thread::get_id(), "a context stays with its thread");
    return;
  }
  begun_ = true;
  thread_ = std::this_thread::get_id();
  if (aio_ == Aio::kIoUring) ring_ = make_ring();
}

void IoContext::wake() {
  const uint64_t one = 1;
  while (write(event_.get(), &one, sizeof one) < 0 && errno == EINTR) {
  }
}

void IoContext::post(std::coroutine_handle<> handle) {
  if (current_context == this) {
    ready_.push_back(handle);
    return;
  }
  bool sleeping;
  {
    const std::lock_guard lock(mutex_);
    posted_.push_back(handle);
    sleeping = std::exchange(sleeping_, false);
  }
  if (sleeping) wake();
}

void IoContext::stop() {
  bool sleeping;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    sleeping = std::exchange(sleeping_, false);
  }
  if (sleeping) wake();
}

// With `before_sleep`, and nothing there: from now on a poster wakes the loop.
bool IoContext::take_posted(bool before_sleep) {
  const std::lock_guard lock(mutex_);
  if (!posted_.empty()) {
    ready_.insert(ready_.end(), posted_.begin(), posted_.end());
    posted_.clear();
    return true;
  }
  if (!before_sleep) return false;
  sleeping_ = true;
  return stop_ && working_ == 0;
}

// Runs `job` on a worker and resumes `then` in the loop, which does not end before.
void IoContext::work(std::function<void()> job, std::coroutine_handle<> then) {
  {
    const std::lock_guard lock(mutex_);
    ++working_;
  }
  workers_.run([this, job = std::move(job), then] {
    job();
    bool sleeping;
    {
      const std::lock_guard lock(mutex_);
      --working_;
      posted_.push_back(then);
      sleeping = std::exchange(sleeping_, false);
    }
    if (sleeping) wake();
  });
}

void IoContext::submit(IoRequest& request) {
  if (!ring_ && request.kind == IoRequest::Kind::kPoll) {
    polls_.push_back(&request);
    return;
  }
  if (!ring_ || request.on_worker) {
    work([&request] { request.result = request.perform(); }, request.waiter);
    return;
  }
  if (backlog_first_ == nullptr && fill(request)) return;
  request.next = nullptr;
  *backlog_end_ = &request;
  backlog_end_ = &request.next;
}

bool IoContext::fill(IoRequest& request) {
  io_uring_sqe* sqe = io_uring_get_sqe(ring_.get());
  if (sqe == nullptr) return false;
  switch (request.kind) {
    case IoRequest::Kind::kRead:
      if (request.iov_count == 1)
        io_uring_prep_read(sqe, request.fd, request.iov->iov_base,
                           static_cast<unsigned>(std::min<size_t>(request.iov->iov_len, INT_MAX)),
                           request.offset);
      else
        io_uring_prep_readv(sqe, request.fd, request.iov, request.iov_count, request.offset);
      break;
    case IoRequest::Kind::kWrite:
      if (request.iov_count == 1)
        io_uring_prep_write(sqe, request.fd, request.iov->iov_base,
                            static_cast<unsigned>(std::min<size_t>(request.iov->iov_len, INT_MAX)),
                            request.offset);
      else
        io_uring_prep_writev(sqe, request.fd, request.iov, request.iov_count, request.offset);
      break;
    case IoRequest::Kind::kSync:
      io_uring_prep_fsync(sqe, request.fd, IORING_FSYNC_DATASYNC);
      break;
    case IoRequest::Kind::kAllocate:
      io_uring_prep_fallocate(sqe, request.fd, request.mode, static_cast<off_t>(request.offset),
                              static_cast<off_t>(request.length));
      break;
    case IoRequest::Kind::kPoll:
      io_uring_prep_poll_add(sqe, request.fd, static_cast<unsigned>(request.mode));
      break;
  }
  io_uring_sqe_set_data(sqe, &request);
  ++in_ring_;
  ++sent_to_ring_;
  return true;
}

void IoContext::arm_wakeup() {
  if (wakeup_armed_) return;
  io_uring_sqe* sqe = io_uring_get_sqe(ring_.get());
  if (sqe == nullptr) return;  // a full queue is submitted first; the next turn arms it
  io_uring_prep_read(sqe, event_.get(), &event_count_, sizeof event_count_, 0);
  io_uring_sqe_set_data(sqe, nullptr);
  wakeup_armed_ = true;
}

void IoContext::wait_on_ring(bool block) {
  while (backlog_first_ != nullptr) {
    IoRequest* const request = backlog_first_;
    IoRequest* const next = request->next;
    if (!fill(*request)) break;
    backlog_first_ = next;
    if (next == nullptr) backlog_end_ = &backlog_first_;
  }
  if (backlog_first_ != nullptr) block = false;  // there is more to submit
  if (block) {
    arm_wakeup();
    if (!wakeup_armed_) block = false;
  }
  if (block && !timers_.empty()) {
    const uint64_t time = timers_.top().time, current = now();
    const uint64_t left = time > current ? time - current : 0;
    __kernel_timespec timeout = {static_cast<int64_t>(left / kSecond),
                                 static_cast<long long>(left % kSecond)};
    io_uring_cqe* first = nullptr;
    io_uring_submit_and_wait_timeout(ring_.get(), &first, 1, &timeout, nullptr);
  } else if (block) {
    io_uring_submit_and_wait(ring_.get(), 1);
  } else if (io_uring_sq_ready(ring_.get()) != 0 || in_ring_ != 0) {
    io_uring_submit_and_get_events(ring_.get());
  }
  // An error of submission (EINTR, EAGAIN, EBUSY) leaves the entries in the queue for the next turn.
  std::array<io_uring_cqe*, 64> batch;
  while (const unsigned count = io_uring_peek_batch_cqe(ring_.get(), batch.data(), batch.size())) {
    for (unsigned i = 0; i < count; ++i) {
      auto* const request = static_cast<IoRequest*>(io_uring_cqe_get_data(batch[i]));
      if (request == nullptr) {
        wakeup_armed_ = false;
        continue;
      }
      request->result = batch[i]->res;
      --in_ring_;
      ready_.push_back(request->waiter);
    }
    io_uring_cq_advance(ring_.get(), count);
  }
}

void IoContext::wait_on_event(bool block) {
  std::vector<pollfd> entries = {{event_.get(), POLLIN, 0}};
  for (const IoRequest* request : polls_)
    entries.push_back({request->fd, static_cast<short>(request->mode), 0});
  timespec timeout = {}, *limit = block ? nullptr : &timeout;
  if (block && !timers_.empty()) {
    const uint64_t time = timers_.top().time, current = now();
    const uint64_t left = time > current ? time - current : 0;
    timeout = {static_cast<time_t>(left / kSecond), static_cast<long>(left % kSecond)};
    limit = &timeout;
  }
  if (ppoll(entries.data(), entries.size(), limit, nullptr) <= 0) return;
  if (entries[0].revents != 0) {
    uint64_t count;
    static_cast<void>(read(event_.get(), &count, sizeof count) < 0);
  }
  size_t left = 0;
  for (size_t i = 0; i < polls_.size(); ++i) {
    if (entries[i + 1].revents == 0) {
      polls_[left++] = polls_[i];
      continue;
    }
    polls_[i]->result = entries[i + 1].revents;
    ready_.push_back(polls_[i]->waiter);
  }
  polls_.resize(left);
}

bool IoContext::has_work() {
  if (backlog_first_ != nullptr || take_posted(false)) return true;
  if (ring_) {
    io_uring_submit_and_get_events(ring_.get());
    if (io_uring_cq_ready(ring_.get()) != 0) return true;
  }
  return !timers_.empty() && timers_.top().time <= now();
}

void IoContext::wait(bool block) {
  const bool idle = block;
  if (block && (poll_.look([this] { return has_work(); }) || take_posted(true))) block = false;
  if (ring_)
    wait_on_ring(block);
  else if (block || !polls_.empty())
    wait_on_event(block);
  if (block) {
    const std::lock_guard lock(mutex_);
    sleeping_ = false;
  }
  if (idle) poll_.end();
}

void IoContext::fire_timers() {
  if (timers_.empty()) return;
  const uint64_t current = now();
  while (!timers_.empty() && timers_.top().time <= current) {
    ready_.push_back(timers_.top().waiter);
    timers_.pop();
  }
}

void IoContext::turn(const std::function<bool()>& finished) {
  take_posted(false);
  fire_timers();
  while (!ready_.empty()) {
    running_.swap(ready_);
    for (const std::coroutine_handle<> handle : running_) handle.resume();
    running_.clear();
    // Requests reach the kernel before coroutines that wake one another go round once more.
    if (ring_ && io_uring_sq_ready(ring_.get()) != 0) break;
  }
  if (finished()) return;
  wait(ready_.empty());
}

void IoContext::run() {
  begin();
  const CurrentScope scope(this);
  bool end = false;
  while (!end) {
    turn([&] {
      if (!ready_.empty() || in_ring_ != 0 || backlog_first_ != nullptr || !polls_.empty()) return false;
      const std::lock_guard lock(mutex_);
      end = stop_ && posted_.empty() && working_ == 0;
      return end;
    });
  }
}

void IoContext::run_task(Task<void> task) {
  begin();
  ASSERT(current_context != this, "run_until() is for threads outside the loop");
  const CurrentScope scope(this);
  bool done = false;
  const auto finish = [](Task<void> inner, bool& flag) -> Task<void> {
    co_await inner;
    flag = true;
  };
  block::spawn(finish(std::move(task), done));
  while (!done) turn([&] { return done; });
}

void IoContext::Offload::await_suspend(std::coroutine_handle<> handle) {
  context.work([this] { function(); }, handle);
}

void IoContext::Sleep::await_suspend(std::coroutine_handle<> handle) {
  context.timers_.push({time, context.timer_order_++, handle});
}

IoThread::IoThread(Aio aio, uint64_t poll) : context_(aio) {
  context_.poll_for(poll);
  // Signals are for the main thread.
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  thread_ = std::thread([this] {
    pthread_setname_np(pthread_self(), "ostler-io");
    context_.run();
  });
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
}

IoThread::~IoThread() {
  context_.stop();
  thread_.join();
}

}  // namespace ostler::block
