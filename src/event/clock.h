// The virtual clock: nanoseconds of guest time. Stops while the guest is paused.
#pragma once

#include <atomic>
#include <cstdint>

namespace ostler::state {
class Archive;
}

namespace ostler::event {

int64_t host_monotonic_ns();

// Any thread may read; pause, resume and restore belong to the control thread.
class VirtualClock {
 public:
  int64_t now() const;  // ns
  void pause();
  void resume();
  bool paused() const { return paused_.load(std::memory_order_acquire); }
  // Moves a paused clock: tests and deterministic execution drive time by hand.
  void advance(int64_t ns);
  void state(state::Archive& archive);

 private:
  std::atomic<int64_t> offset_{0};  // now = monotonic + offset while running
  std::atomic<int64_t> stopped_at_{0};
  std::atomic<bool> paused_{true};  // a machine is built paused
};

}  // namespace ostler::event
