// A mutex for what takes a microsecond or two: who finds it taken looks again for some microseconds before it
// sleeps, because falling asleep and being woken takes longer than that. A Lockable, as std::mutex is.
#pragma once

#include <immintrin.h>

#include <mutex>

namespace ostler {

class AdaptiveMutex {
 public:
  void lock() {
    for (unsigned i = 0; i < kTries; ++i) {
      if (mutex_.try_lock()) return;
      _mm_pause();
    }
    mutex_.lock();
  }
  bool try_lock() { return mutex_.try_lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  static constexpr unsigned kTries = 200;  // of some 40 ns each

  std::mutex mutex_;
};

}  // namespace ostler
