// The timer of the local APIC (SDM 3A §11.5.4). It counts nanoseconds of the virtual clock divided by the
// divide configuration; in TSC-deadline mode the deadline is converted to virtual time when it is set and
// checked against the TSC when it comes, so that rounding never makes it early.
#include <algorithm>

#include "devices/chipset/local_apic.h"
#include "devices/chipset/local_apic_registers.h"

namespace ostler::chipset {

using namespace apic;

namespace {

// A periodic timer that is quicker than this would only serve to occupy the event loop.
constexpr int64_t kShortestPeriodNs = 20'000;
// A deadline further away is looked at again when this has passed.
constexpr int64_t kLongestSleepNs = int64_t{3600} * 1'000'000'000;

}  // namespace

LocalApic::TimerMode LocalApic::timer_mode_locked() const {
  return static_cast<TimerMode>((lvt_[kLvtTimer] >> 17) & 3);
}

// Divide configuration bits 3, 1, 0: 2, 4, 8 … 128, 1 (figure 11-10).
int64_t LocalApic::tick_ns_locked() const {
  const unsigned code = (divide_ & 3) | (divide_ >> 1 & 4);
  return code == 7 ? 1 : int64_t{2} << code;
}

void LocalApic::stop_timer_locked() {
  expires_ = -1;
  tsc_deadline_ = 0;
  timer_.cancel();
}

void LocalApic::start_count_locked(int64_t now) {
  expires_ = -1;
  timer_.cancel();
  if (initial_count_ == 0) return;
  int64_t period = initial_count_ * tick_ns_locked();
  if (timer_mode_locked() == TimerMode::kPeriodic) period = std::max(period, kShortestPeriodNs);
  expires_ = now + period;
  timer_.set(expires_);
}

void LocalApic::write_initial_count(uint32_t value) {
  const std::lock_guard lock(mutex_);
  if (timer_mode_locked() == TimerMode::kTscDeadline) return;  // §11.5.4.1: ignored
  initial_count_ = value;
  start_count_locked(loop_.clock().now());
}

uint32_t LocalApic::current_count() {
  const std::lock_guard lock(mutex_);
  if (expires_ < 0 || timer_mode_locked() == TimerMode::kTscDeadline) return 0;
  const int64_t left = expires_ - loop_.clock().now();
  if (left <= 0) return 0;
  return static_cast<uint32_t>(std::min<int64_t>(left / tick_ns_locked(), initial_count_));
}

void LocalApic::write_divide(uint32_t value) {
  const std::lock_guard lock(mutex_);
  if (divide_ == (value & 0xb)) return;
  const int64_t now = loop_.clock().now();
  // A saved state may have set it further away than the register counts.
  const int64_t ticks_left =
      expires_ > now ? std::min<int64_t>((expires_ - now) / tick_ns_locked(), UINT32_MAX) : 0;
  divide_ = value & 0xb;
  if (expires_ < 0 || timer_mode_locked() == TimerMode::kTscDeadline) return;
  expires_ = now + ticks_left * tick_ns_locked();  // the count goes on at the new rate
  timer_.set(expires_);
}

uint64_t LocalApic::deadline() const {
  const std::lock_guard lock(mutex_);
  return timer_mode_locked() == TimerMode::kTscDeadline ? tsc_deadline_ : 0;
}

void LocalApic::write_deadline(uint64_t value) {
  uint32_t entry = kLvtMasked;
  {
    const std::lock_guard lock(mutex_);
    if (timer_mode_locked() != TimerMode::kTscDeadline) return;  // §11.5.4.1: ignored
    tsc_deadline_ = value;
    if (!arm_deadline_locked()) return;
    entry = lvt_[kLvtTimer];
  }
  if ((entry & kLvtMasked) == 0) accept(static_cast<uint8_t>(entry), false);
}

bool LocalApic::arm_deadline_locked() {
  expires_ = -1;
  if (tsc_deadline_ == 0) {
    timer_.cancel();
    return false;
  }
  const uint64_t now = tsc_.guest_tsc();
  if (tsc_deadline_ <= now) {
    tsc_deadline_ = 0;  // §11.5.4.1: disarmed when it fires
    timer_.cancel();
    return true;
  }
  __extension__ using Wide = unsigned __int128;
  const Wide ns =
      (static_cast<Wide>(tsc_deadline_ - now) * 1'000'000'000 + tsc_.frequency() - 1) / tsc_.frequency();
  const int64_t delay = ns > static_cast<Wide>(kLongestSleepNs) ? kLongestSleepNs : static_cast<int64_t>(ns);
  expires_ = loop_.clock().now() + delay;
  timer_.set(expires_);
  return false;
}

void LocalApic::tsc_changed() {
  if (in_kernel()) return;
  uint32_t entry = kLvtMasked;
  {
    const std::lock_guard lock(mutex_);
    if (timer_mode_locked() != TimerMode::kTscDeadline || !arm_deadline_locked()) return;
    entry = lvt_[kLvtTimer];
  }
  if ((entry & kLvtMasked) == 0) accept(static_cast<uint8_t>(entry), false);
}

void LocalApic::timer_expired() {
  uint32_t entry = kLvtMasked;
  {
    const std::lock_guard lock(mutex_);
    const int64_t now = loop_.clock().now();
    if (expires_ < 0 || now < expires_) return;  // stopped or set anew meanwhile
    if (timer_mode_locked() == TimerMode::kTscDeadline) {
      if (!arm_deadline_locked()) return;
    } else if (timer_mode_locked() == TimerMode::kPeriodic) {
      // Periods that went by unseen are not made up: the guest gets one interrupt for them.
      const int64_t period = std::max(initial_count_ * tick_ns_locked(), kShortestPeriodNs);
      expires_ += ((now - expires_) / period + 1) * period;
      timer_.set(expires_);
    } else {
      expires_ = -1;
    }
    entry = lvt_[kLvtTimer];
  }
  if ((entry & kLvtMasked) == 0) accept(static_cast<uint8_t>(entry), false);
}

}  // namespace ostler::chipset
