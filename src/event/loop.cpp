// Timers of a clock share one timerfd. A thread that sets the earliest deadline arms it itself, so that a
// vCPU which programs its timer thousands of times a second does not wake the loop's thread each time.
#include "event/loop.h"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/adaptive_poll.h"
#include "base/assert.h"
#include "base/log.h"

namespace ostler::event {
namespace {

constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kLookForRoomNs = 100'000'000;
constexpr uint64_t kPoll = 50'000;  // nanoseconds; frames that follow each other closely find the loop awake

void drain(int fd) {
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t got = ::read(fd, &count, sizeof count);  // EAGAIN: already drained
}

bool is_want_of_room(int error) {
  return error == ENOSPC || error == ENOMEM;
}

Fd alarm() {
  return Fd(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
}

}  // namespace

Timer::Timer(Loop& loop, std::function<void()> callback) : Timer(loop, std::move(callback), false) {}

Timer::Timer(Loop& loop, std::function<void()> callback, bool on_host_clock)
    : loop_(loop), callback_(std::move(callback)), on_host_clock_(on_host_clock) {}

Timer::~Timer() {
  std::unique_lock lock(loop_.mutex_);
  if (deadline_ >= 0) loop_.timers_of(*this).waiting.erase({deadline_, this});
  ASSERT(loop_.running_ != this || !loop_.on_loop_thread(), "a timer is not destroyed by its own callback");
  loop_.idle_.wait(lock, [&] { return loop_.running_ != this; });
}

void Timer::set(int64_t deadline_ns) {
  deadline_ns = std::max<int64_t>(deadline_ns, 0);
  const std::lock_guard lock(loop_.mutex_);
  if (deadline_ == deadline_ns) return;
  Loop::Timers& timers = loop_.timers_of(*this);
  if (deadline_ >= 0) timers.waiting.erase({deadline_, this});
  deadline_ = deadline_ns;
  timers.waiting.insert({deadline_, this});
  if (deadline_ < timers.armed) loop_.arm_locked(timers);
}

void Timer::cancel() {
  const std::lock_guard lock(loop_.mutex_);
  if (deadline_ < 0) return;
  loop_.timers_of(*this).waiting.erase({deadline_, this});
  deadline_ = -1;  // the alarm may ring for nothing: cheaper than a system call here
}

bool Timer::armed() const {
  const std::lock_guard lock(loop_.mutex_);
  return deadline_ >= 0;
}

HostTimer::HostTimer(Loop& loop, std::function<void()> callback) : timer_(loop, std::move(callback), true) {}

void HostTimer::start(int64_t delay_ns) {
  timer_.set(timer_.loop_.host_now() + delay_ns);
}

Loop::Loop(VirtualClock& clock, std::string name)
    : clock_(clock),
      name_(std::move(name)),
      epoll_(epoll_create1(EPOLL_CLOEXEC)),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      guest_timers_{.alarm = alarm(), .waiting = {}},
      host_timers_{.alarm = alarm(), .waiting = {}},
      room_(*this, [this] { look_for_room(); }) {
  ASSERT(epoll_ && wake_ && guest_timers_.alarm && host_timers_.alarm,
         "a process has descriptors for its event loop");
  watch(wake_.get(), EPOLLIN, [this](uint32_t) { drain(wake_.get()); });
  watch(guest_timers_.alarm.get(), EPOLLIN, [this](uint32_t) { drain(guest_timers_.alarm.get()); });
  watch(host_timers_.alarm.get(), EPOLLIN, [this](uint32_t) {
    drain(host_timers_.alarm.get());
    run_timers(host_timers_);
  });
  ASSERT(!room_.armed(), "the host has room for an event loop");
}

Loop::~Loop() {
  room_.cancel();
  ASSERT(guest_timers_.waiting.empty() && host_timers_.waiting.empty(),
         "timers are destroyed before their loop");
}

int64_t Loop::host_now() const {
  return host_monotonic_ns() + skipped_host_time_.load(std::memory_order_relaxed);
}

void Loop::run() {
  thread_.store(std::this_thread::get_id(), std::memory_order_relaxed);
  AdaptivePoll poll(kPoll);
  while (!stop_.load(std::memory_order_acquire)) {
    std::array<epoll_event, 16> events;
    const auto wait = [&](int timeout) {
      return epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeout);
    };
    int count = 0;
    if (!poll.look([&] { return (count = wait(0)) != 0; })) count = wait(-1);
    poll.end();
    ASSERT(count >= 0 || errno == EINTR, "the arguments of epoll_wait are ours");
    for (int i = 0; i < count; ++i) {
      const uint64_t tag = events[static_cast<size_t>(i)].data.u64;
      dispatch(static_cast<int>(static_cast<uint32_t>(tag)), static_cast<uint32_t>(tag >> 32),
               events[static_cast<size_t>(i)].events);
    }
    if (!clock_.paused()) run_timers(guest_timers_);
    run_tasks();
  }
  stop_.store(false, std::memory_order_release);
  thread_.store(std::thread::id{}, std::memory_order_relaxed);
}

void Loop::stop() {
  stop_.store(true, std::memory_order_release);
  wake();
}

void Loop::wake() {
  const uint64_t one = 1;
  const int saved = errno;  // stop() runs in signal handlers
  [[maybe_unused]] const ssize_t put = ::write(wake_.get(), &one, sizeof one);  // EAGAIN: already awake
  errno = saved;
}

void Loop::post(std::function<void()> task) {
  bool first = false;
  {
    const std::lock_guard lock(mutex_);
    first = tasks_.empty();
    tasks_.push_back(std::move(task));
  }
  if (first) wake();
}

void Loop::run_tasks() {
  std::vector<std::function<void()>> tasks;
  {
    const std::lock_guard lock(mutex_);
    tasks.swap(tasks_);
  }
  for (auto& task : tasks) task();
}

void Loop::run_timers(Timers& timers) {
  std::unique_lock lock(mutex_);
  // Timers that are set anew to a time that has passed meanwhile wait for the next turn: descriptors get
  // theirs.
  const int64_t now = now_of(timers);
  while (!timers.waiting.empty() && timers.waiting.begin()->first <= now) {
    Timer* timer = timers.waiting.begin()->second;
    timers.waiting.erase(timers.waiting.begin());
    timer->deadline_ = -1;
    running_ = timer;
    lock.unlock();
    timer->callback_();
    lock.lock();
    running_ = nullptr;
    idle_.notify_all();
  }
  arm_locked(timers);
}

void Loop::arm_locked(Timers& timers) {
  const int64_t next = timers.waiting.empty() ? INT64_MAX : timers.waiting.begin()->first;
  const int64_t now = now_of(timers);
  if (next == INT64_MAX || (&timers == &guest_timers_ && clock_.paused())) {
    timers.armed = INT64_MAX;  // an alarm that still rings is harmless
    return;
  }
  if (next == timers.armed && next > now) return;
  timers.armed = next;
  const int64_t delay = std::max<int64_t>(next - now, 1);  // 0 would disarm
  itimerspec spec{};
  spec.it_value.tv_sec = delay / kSecond;
  spec.it_value.tv_nsec = delay % kSecond;
  timerfd_settime(timers.alarm.get(), 0, &spec, nullptr);
}

void Loop::clock_changed() {
  const std::lock_guard lock(mutex_);
  guest_timers_.armed = INT64_MAX;
  arm_locked(guest_timers_);
}

std::optional<int64_t> Loop::next_deadline() const {
  const std::lock_guard lock(mutex_);
  if (guest_timers_.waiting.empty()) return std::nullopt;
  return guest_timers_.waiting.begin()->first;
}

void Loop::run_due() {
  run_timers(guest_timers_);
  run_timers(host_timers_);
  run_tasks();
}

void Loop::skip_host_time(int64_t ns) {
  skipped_host_time_.fetch_add(ns, std::memory_order_relaxed);
  const std::lock_guard lock(mutex_);
  host_timers_.armed = INT64_MAX;
  arm_locked(host_timers_);
}

bool Loop::host_timer_armed() const {
  const std::lock_guard lock(mutex_);
  return !host_timers_.waiting.empty();
}

bool Loop::watch(int fd, uint32_t events, std::function<void(uint32_t)> callback) {
  const auto [at, fresh] =
      watches_.emplace(fd, std::make_shared<Watch>(Watch{next_generation_++, events, std::move(callback)}));
  ASSERT(fresh, "a descriptor is watched once");
  Watch& watch = *at->second;
  // Also without events: whether it can be polled.
  const int error = control(EPOLL_CTL_ADD, fd, events, watch.generation) == 0 ? 0 : errno;
  ASSERT(error == 0 || error == EPERM || is_want_of_room(error), "watched descriptors are open");
  if (error == EPERM) {
    watches_.erase(at);
    return false;
  }
  watch.known = error == 0;
  if (watch.known != (events != 0)) tell_epoll(fd, watch);
  return true;
}

// Makes epoll look for watch.events, now or later.
void Loop::tell_epoll(int fd, Watch& watch) {
  // epoll tells of errors and hang-ups whether asked or not, and would again and again.
  const bool wanted = watch.events != 0;
  if (!wanted && !watch.known) return;
  const int operation = !wanted ? EPOLL_CTL_DEL : watch.known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
  const bool done = control(operation, fd, watch.events, watch.generation) == 0;
  if (done || operation != EPOLL_CTL_ADD) {
    watch.known = wanted;
    return;
  }
  if (!is_want_of_room(errno) || room_.armed()) return;
  if (!std::exchange(told_of_room_, true))
    log::warning(
        fmt::format("the host has no room for what this guest waits for: {}; some of it comes late until the "
                    "limit fs.epoll.max_user_watches is raised, or memory is free",
                    std::strerror(errno)));
  room_.start(kLookForRoomNs);
}

void Loop::look_for_room() {
  for (const auto& [fd, watch] : watches_)
    if (watch->events != 0 && !watch->known) tell_epoll(fd, *watch);
}

int Loop::control(int operation, int fd, uint32_t events, uint32_t generation) const {
  epoll_event event{};
  event.events = events;
  event.data.u64 = static_cast<uint64_t>(generation) << 32 | static_cast<uint32_t>(fd);
  return epoll_ctl(epoll_.get(), operation, fd, &event);
}

void Loop::rewatch(int fd, uint32_t events) {
  const auto found = watches_.find(fd);
  ASSERT(found != watches_.end(), "only a watched descriptor changes its interest");
  if (found->second->events == events) return;
  found->second->events = events;
  tell_epoll(fd, *found->second);
}

void Loop::unwatch(int fd) {
  if (watches_.erase(fd) != 0) epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

void Loop::dispatch(int fd, uint32_t generation, uint32_t events) {
  const auto found = watches_.find(fd);
  if (found == watches_.end() || found->second->generation != generation) return;  // gone since epoll_wait
  const std::shared_ptr<Watch> watch = found->second;  // the callback may unwatch itself
  watch->callback(events);
}

}  // namespace ostler::event
