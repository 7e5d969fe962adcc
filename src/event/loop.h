// The event loop: file descriptors, timers on the virtual clock and on the host's, and posted tasks, all run
// on one thread.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/fd.h"
#include "event/clock.h"

namespace ostler::event {

class Loop;

// One deadline. set(), cancel() from any thread; the callback runs on the loop's thread, without any lock of
// the loop held, so it may take a device lock. A callback already on its way may run once after cancel() or a
// new set(): devices re-check their own deadline under their lock. The destructor waits for a running
// callback, so it must not be called under a lock that the callback takes, nor from the callback itself.
class Timer {
 public:
  Timer(Loop& loop, std::function<void()> callback);
  ~Timer();
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  void set(int64_t deadline_ns);  // virtual clock; in the past: as soon as possible
  void cancel();
  bool armed() const;

 private:
  friend class Loop;
  friend class HostTimer;
  Timer(Loop& loop, std::function<void()> callback, bool on_host_clock);
  Loop& loop_;
  const std::function<void()> callback_;
  const bool on_host_clock_ = false;
  int64_t deadline_ = -1;  // guarded by Loop::mutex_
};

// The same on the host's monotonic clock, which runs while the guest is paused: for what the host's side
// waits for.
class HostTimer {
 public:
  HostTimer(Loop& loop, std::function<void()> callback);
  void start(int64_t delay_ns);  // from now
  void cancel() { timer_.cancel(); }
  bool armed() const { return timer_.armed(); }

 private:
  Timer timer_;
};

class Loop {
 public:
  explicit Loop(VirtualClock& clock, std::string name = "main");
  ~Loop();
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  VirtualClock& clock() { return clock_; }

  // Runs until stop(). The calling thread becomes the loop's thread.
  void run();
  void stop();                            // any thread, async-signal-safe
  void post(std::function<void()> task);  // any thread: runs on the loop's thread soon
  bool on_loop_thread() const {
    return std::this_thread::get_id() == thread_.load(std::memory_order_relaxed);
  }

  // `callback` gets epoll events (EPOLLIN…). From the loop's thread or before run(). Not owned. False, and
  // nothing is watched, for what is always ready and cannot be polled: regular files. Where the host has no
  // room for it (ENOMEM; ENOSPC: fs.epoll.max_user_watches) it is heard of as soon as there is some.
  bool watch(int fd, uint32_t events, std::function<void(uint32_t)> callback);
  // Changes the interest. With 0 the callback is not called at all, not even for errors and hang-ups.
  void rewatch(int fd, uint32_t events);
  void unwatch(int fd);  // no callback of `fd` runs afterwards

  // Called after the clock was paused or resumed: deadlines are looked at anew.
  void clock_changed();

  // For a clock moved by hand (VirtualClock::advance) on a loop that does not run(): the caller is the loop's
  // thread.
  std::optional<int64_t> next_deadline() const;
  void run_due();  // timers with deadline <= now, then posted tasks
  // For tests: so much of the host's time has passed, for host timers.
  void skip_host_time(int64_t ns);
  bool host_timer_armed() const;  // any

 private:
  friend class Timer;
  friend class HostTimer;
  struct Watch {
    uint32_t generation;  // tells a descriptor from an earlier one of the same number
    uint32_t events;
    std::function<void(uint32_t)> callback;
    bool known = false;  // to epoll; without events it is not
  };
  void wake();
  // Of one clock. Guarded by mutex_.
  struct Timers {
    Fd alarm;
    std::set<std::pair<int64_t, Timer*>> waiting;
    int64_t armed = INT64_MAX;  // when the alarm rings, in the clock's time
  };
  Timers& timers_of(const Timer& timer) { return timer.on_host_clock_ ? host_timers_ : guest_timers_; }
  int64_t now_of(const Timers& timers) const { return &timers == &guest_timers_ ? clock_.now() : host_now(); }
  int64_t host_now() const;
  void run_timers(Timers& timers);
  void run_tasks();
  void arm_locked(Timers& timers);  // makes the alarm ring at the earliest deadline, or earlier
  void dispatch(int fd, uint32_t generation, uint32_t events);
  int control(int operation, int fd, uint32_t events, uint32_t generation) const;
  void tell_epoll(int fd, Watch& watch);
  void look_for_room();

  VirtualClock& clock_;
  std::string name_;
  Fd epoll_, wake_;
  std::atomic<int64_t> skipped_host_time_{0};
  std::atomic<std::thread::id> thread_;
  mutable std::mutex mutex_;      // guards all timers, running_, tasks_
  std::condition_variable idle_;  // running_ became null
  Timers guest_timers_, host_timers_;
  Timer* running_ = nullptr;
  std::vector<std::function<void()>> tasks_;
  std::unordered_map<int, std::shared_ptr<Watch>> watches_;  // loop thread only
  uint32_t next_generation_ = 1;
  bool told_of_room_ = false;
  std::atomic<bool> stop_{false};
  HostTimer room_;  // while epoll does not know what it should
};

}  // namespace ostler::event
