// -object filter-rate: no more than so many bytes a second pass in a direction. Nothing is dropped or kept:
// who sends too fast is told to wait, up to the guest or the host's socket.
#pragma once

#include "event/loop.h"
#include "net/filter.h"
#include "net/filter_options.h"

namespace ostler::net {

// A bucket that fills with `rate` bytes a second up to `burst`. What is taken from it may exceed what it has,
// so that a frame of any size passes in the end; then it must fill up above zero again. No locks.
class TokenBucket {
 public:
  TokenBucket(uint64_t rate, uint64_t burst);
  // Nanoseconds until something may be taken; 0: now. `now_ns` never goes back.
  int64_t wait(int64_t now_ns);
  void take(uint64_t bytes) { level_ -= static_cast<double>(bytes); }

 private:
  double rate_;  // bytes a nanosecond
  double burst_;
  double level_;
  int64_t filled_at_ = 0;
};

class RateFilter final : public Filter {
 public:
  RateFilter(Backend& inner, event::Loop& loop, const RateOptions& options);
  ~RateFilter() override;

  bool send(const Frame& frame, unsigned queue) override;

 private:
  struct Side {
    explicit Side(const RateOptions& options) : bucket(options.rate, options.burst) {}
    TokenBucket bucket;
    bool held = false;  // somebody was told to wait
  };
  bool receive(const Frame& frame, unsigned queue) override;
  // Zero, or the timer is set for when there is something to take.
  bool may_pass(Side& side);
  void take(Side& side, uint64_t bytes);
  void awake();

  Backend& inner_;
  event::Loop& loop_;
  const FilterDirection direction_;
  event::Timer timer_;
  std::mutex mutex_;  // innermost; guards what follows
  Side from_guest_, to_guest_;
  int64_t deadline_ = INT64_MAX;  // of timer_
};

}  // namespace ostler::net
