// Keeps vCPUs out of guest code while memory slots change: a guest that ran meanwhile could find memory
// missing that only moves. A vCPU passes the gate around each KVM_RUN, and is never inside it while it is
// inside a device.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <utility>
#include <vector>

namespace ostler::accel::kvm {

class Gate {
 public:
  // `kick` makes a vCPU leave KVM_RUN soon; any thread. While no vCPU runs.
  void add(const void* owner, std::function<void()> kick) {
    const std::lock_guard lock(mutex_);
    kicks_.emplace_back(owner, std::move(kick));
  }
  void remove(const void* owner) {
    const std::lock_guard lock(mutex_);
    std::erase_if(kicks_, [&](const auto& kick) { return kick.first == owner; });
  }

  void enter() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !closed_; });
    ++inside_;
  }
  void leave() {
    const std::lock_guard lock(mutex_);
    --inside_;
    if (closed_) changed_.notify_all();
  }

  // Runs f with no vCPU inside. Any thread that is outside itself; one after the other.
  template <class F>
  void run_closed(F&& f) {
    const std::lock_guard one(closing_);
    {
      std::unique_lock lock(mutex_);
      closed_ = true;
      if (inside_ != 0)
        for (const auto& kick : kicks_) kick.second();
      changed_.wait(lock, [&] { return inside_ == 0; });
    }
    f();
    const std::lock_guard lock(mutex_);
    closed_ = false;
    changed_.notify_all();
  }

 private:
  std::mutex closing_;  // before mutex_
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::pair<const void*, std::function<void()>>> kicks_;
  unsigned inside_ = 0;
  bool closed_ = false;
};

}  // namespace ostler::accel::kvm
