// A leaky bucket with bursts: how long a request must wait so that the average stays at a rate.
#pragma once

#include <algorithm>
#include <cstdint>

namespace ostler::block {

struct BucketLimits {
  double rate = 0;           // units per second; 0: no limit
  double burst_rate = 0;     // units per second for a short time; 0: bursts of a tenth of a second's rate
  double burst_seconds = 1;  // how long burst_rate may last
  bool enabled() const { return rate > 0; }
};

// Not thread-safe. Times in nanoseconds of any one clock.
class TokenBucket {
 public:
  void set_limits(const BucketLimits& limits) { limits_ = limits; }
  const BucketLimits& limits() const { return limits_; }

  // Nanoseconds until a request may begin.
  uint64_t wait(uint64_t now) {
    if (!limits_.enabled()) return 0;
    leak(now);
    uint64_t longest = over(level_ - capacity(), limits_.rate);
    if (limits_.burst_rate > 0)
      longest = std::max(longest, over(burst_level_ - limits_.burst_rate / 10, limits_.burst_rate));
    return longest;
  }
  void add(double units) {
    level_ += units;
    burst_level_ += units;
  }

 private:
  double capacity() const {
    return limits_.burst_rate > 0
               ? std::max((limits_.burst_rate - limits_.rate) * limits_.burst_seconds, limits_.rate / 10)
               : limits_.rate / 10;
  }
  static uint64_t over(double units, double rate) {
    return units <= 0 ? 0 : static_cast<uint64_t>(units / rate * 1e9) + 1;
  }
  void leak(uint64_t now) {
    const double seconds = now > last_ ? static_cast<double>(now - last_) / 1e9 : 0;
    last_ = std::max(last_, now);
    level_ = std::max(0.0, level_ - limits_.rate * seconds);
    burst_level_ = std::max(0.0, burst_level_ - limits_.burst_rate * seconds);
  }
  BucketLimits limits_;
  double level_ = 0, burst_level_ = 0;
  uint64_t last_ = 0;
};

}  // namespace ostler::block
