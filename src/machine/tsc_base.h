// What the vCPUs' TSC offsets are added to: the host's TSC while the guest runs. While it is paused the value
// stands still, and it is a part of the saved state; resume() tells by how much the offsets have to change so
// that each vCPU's TSC goes on where it was.
#pragma once

#include <x86intrin.h>

#include <atomic>
#include <cstdint>

#include "state/archive.h"

namespace ostler::machine {

class TscBase {
 public:
  uint64_t now() const {  // any thread
    return running_.load(std::memory_order_acquire) ? __rdtsc() : stopped_at_.load(std::memory_order_relaxed);
  }

  // ---- control thread, vCPUs paused ----
  void pause() {
    if (!running_.load(std::memory_order_relaxed)) return;
    stopped_at_.store(__rdtsc(), std::memory_order_relaxed);
    running_.store(false, std::memory_order_release);
  }
  // To be added to every offset, before anything reads a TSC.
  uint64_t resume() {
    const uint64_t change = stopped_at_.load(std::memory_order_relaxed) - __rdtsc();
    running_.store(true, std::memory_order_release);
    return change;
  }
  // With the offsets 0, every TSC is 0 (SDM 3A, table 9-1).
  void reset() { stopped_at_.store(0, std::memory_order_relaxed); }
  void state(state::Archive& archive) {
    uint64_t value = stopped_at_.load(std::memory_order_relaxed);
    archive.field("tsc_base", value);
    stopped_at_.store(value, std::memory_order_relaxed);
  }

 private:
  std::atomic<bool> running_{false};  // a machine is built paused
  std::atomic<uint64_t> stopped_at_{0};
};

}  // namespace ostler::machine
