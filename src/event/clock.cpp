#include "event/clock.h"

#include <ctime>

#include "base/assert.h"
#include "state/archive.h"

namespace ostler::event {

int64_t host_monotonic_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * int64_t{1'000'000'000} + now.tv_nsec;
}

// The release store to paused_ publishes the value that belongs to the new mode; the acquire load of the
// reader pairs with it. A reader that raced with pause() sees a time of at most its own delay after the stop.
int64_t VirtualClock::now() const {
  if (paused_.load(std::memory_order_acquire)) return stopped_at_.load(std::memory_order_relaxed);
  return host_monotonic_ns() + offset_.load(std::memory_order_relaxed);
}

void VirtualClock::pause() {
  if (paused()) return;
  stopped_at_.store(now(), std::memory_order_relaxed);
  paused_.store(true, std::memory_order_release);
}

void VirtualClock::resume() {
  if (!paused()) return;
  offset_.store(stopped_at_.load(std::memory_order_relaxed) - host_monotonic_ns(), std::memory_order_relaxed);
  paused_.store(false, std::memory_order_release);
}

void VirtualClock::advance(int64_t ns) {
  ASSERT(paused() && ns >= 0, "only a stopped clock is moved by hand, and only forwards");
  stopped_at_.fetch_add(ns, std::memory_order_release);
}

void VirtualClock::state(state::Archive& archive) {
  ASSERT(paused(), "the machine is saved and restored while paused");
  archive.section("virtual-clock", 1);
  int64_t time = now();
  archive.field("now", time);
  // 73 years of uptime: devices add delays and dates to it without overflow.
  archive.check(time >= 0 && time < INT64_MAX / 4, "now");
  if (archive.loading() && !archive.failed()) stopped_at_.store(time, std::memory_order_release);
}

}  // namespace ostler::event
