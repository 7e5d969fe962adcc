#include "base/adaptive_poll.h"

#include <sched.h>
#include <time.h>

#include <algorithm>

namespace ostler {
namespace {

constexpr uint64_t kFirst = 20'000;   // the window that is opened first
constexpr uint64_t kOthers = 20'000;  // a yield that takes as long was for another thread

}  // namespace

void AdaptivePoll::waited(uint64_t nanoseconds) {
  if (nanoseconds <= window_) return;
  window_ = nanoseconds > most_ ? 0 : std::min(most_, std::max(kFirst, window_ * 2));
}

uint64_t AdaptivePoll::now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

bool AdaptivePoll::let_others_run() {
  const uint64_t before = now();
  sched_yield();
  return now() - before < kOthers;
}

}  // namespace ostler
