// The event loop: file descriptors, timers on the virtual clock, and posted tasks, all run on one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/fd.h"
#include "event/clock.h"

namespace ostler::event {

class Loop;

// One deadline. set(), cancel() from any thread; the callback runs on the loop's thread, without any lock of the
// loop held, so it may take a device lock. A callback already on its way may run once after cancel() or a new
// set(): devices re-check their own deadline under their lock. The destructor waits for a running callback, so
// it must not be called under a lock that the callback takes.
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
  Loop& loop_;
  std::function<void()> callback_;
  int64_t deadline_ = -1;  // guarded by Loop::mutex_
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
  void stop();                             // any thread, async-signal-safe
  void post(std::function<void()> task);   // any thread: runs on the loop's thread soon
  bool on_loop_thread() const { return std::this_thread::get_id() == thread_; }

  // `callback` gets epoll events (EPOLLIN…). From the loop's thread or before run(). Not owned.
  void watch(int fd, uint32_t events, std::function<void(uint32_t)> callback);
  void rewatch(int fd, uint32_t events);   // change the interest
  void unwatch(int fd);                    // no callback of `fd` runs afterwards

  // Called after the clock was paused or resumed: deadlines are looked at anew.
  void clock_changed();

 private:
  friend class Timer;
  void wake();
  int run_timers();  // runs what is due; ms until the next deadline or -1
  void run_tasks();

  VirtualClock& clock_;
  std::string name_;
  Fd epoll_, wake_;
  std::thread::id thread_;
  mutable std::mutex mutex_;  // guards timers_, running_, tasks_, Timer::deadline_
  std::set<std::pair<int64_t, Timer*>> timers_;
  Timer* running_ = nullptr;
  std::vector<std::function<void()>> tasks_;
  std::unordered_map<int, std::shared_ptr<std::function<void(uint32_t)>>> watches_;  // loop thread only
  std::atomic<bool> stop_{false};
};

}  // namespace ostler::event
