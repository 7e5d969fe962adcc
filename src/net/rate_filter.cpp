#include "net/rate_filter.h"

#include <algorithm>
#include <cmath>

namespace ostler::net {
namespace {

constexpr double kNsPerSecond = 1e9;
constexpr uint64_t kBurstsPerSecond = 10;

}  // namespace

TokenBucket::TokenBucket(uint64_t rate, uint64_t burst)
    : rate_(static_cast<double>(rate) / kNsPerSecond),
      burst_(static_cast<double>(burst != 0 ? burst : std::max<uint64_t>(rate / kBurstsPerSecond, 1))),
      level_(burst_) {}

int64_t TokenBucket::wait(int64_t now_ns) {
  const auto passed = static_cast<double>(std::max<int64_t>(now_ns - filled_at_, 0));
  level_ = std::min(burst_, level_ + passed * rate_);
  filled_at_ = now_ns;
  if (level_ > 0) return 0;
  return static_cast<int64_t>(std::ceil(-level_ / rate_)) + 1;
}

RateFilter::RateFilter(Backend& inner, event::Loop& loop, const RateOptions& options)
    : Filter(inner),
      inner_(inner),
      loop_(loop),
      direction_(options.direction),
      timer_(loop, [this] { awake(); }),
      from_guest_(options),
      to_guest_(options) {}

RateFilter::~RateFilter() {
  attach(nullptr);
}

bool RateFilter::may_pass(Side& side) {
  const std::lock_guard lock(mutex_);
  const int64_t now = loop_.clock().now();
  const int64_t left = side.bucket.wait(now);
  if (left == 0) return true;
  side.held = true;
  if (now + left < deadline_) {
    deadline_ = now + left;
    timer_.set(deadline_);
  }
  return false;
}

void RateFilter::take(Side& side, uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  side.bucket.take(bytes);
}

void RateFilter::awake() {
  bool sender = false, receiver = false;
  {
    const std::lock_guard lock(mutex_);
    deadline_ = INT64_MAX;
    sender = std::exchange(from_guest_.held, false);
    receiver = std::exchange(to_guest_.held, false);
  }
  for (unsigned queue = 0; queue < queue_pairs(); ++queue) {
    if (sender) sendable(queue);
    if (receiver) inner_.receiver_ready(queue);
  }
}

bool RateFilter::send(const Frame& frame, unsigned queue) {
  if (direction_ == FilterDirection::kToGuest) return Filter::send(frame, queue);
  if (!may_pass(from_guest_) || !Filter::send(frame, queue)) return false;
  take(from_guest_, frame.bytes.size());
  return true;
}

bool RateFilter::receive(const Frame& frame, unsigned queue) {
  if (direction_ == FilterDirection::kFromGuest) return Filter::receive(frame, queue);
  if (!may_pass(to_guest_) || !Filter::receive(frame, queue)) return false;
  take(to_guest_, frame.bytes.size());
  return true;
}

}  // namespace ostler::net
