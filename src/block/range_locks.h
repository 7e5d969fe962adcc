// Ranges of a disk that one request at a time may have: writes of a guest and copies of a job that overlap
// wait for each other, others do not.
#pragma once

#include <cstdint>
#include <list>
#include <mutex>

#include "block/mutex.h"

namespace ostler::block {

// First come, first served among those that overlap. A coroutine holds one range at a time.
class RangeLocks {
 public:
  enum class Mode { kShared, kExclusive };  // shared ones overlap each other

 private:
  struct Range {
    uint64_t first, end;
    Mode mode;
  };

 public:
  class [[nodiscard]] Guard {
   public:
    Guard() = default;
    Guard(Guard&& other) noexcept : locks_(std::exchange(other.locks_, nullptr)), place_(other.place_) {}
    Guard& operator=(Guard&& other) noexcept {
      std::swap(locks_, other.locks_);
      std::swap(place_, other.place_);
      return *this;
    }
    ~Guard() {
      if (locks_ != nullptr) locks_->unlock(place_);
    }

   private:
    friend class RangeLocks;
    Guard(RangeLocks* locks, std::list<Range>::iterator place) : locks_(locks), place_(place) {}
    RangeLocks* locks_ = nullptr;
    std::list<Range>::iterator place_;
  };

  // Bytes [offset, offset + bytes). On an I/O context; any thread may let go.
  Task<Guard> lock(uint64_t offset, uint64_t bytes, Mode mode) {
    std::unique_lock lock(mutex_);
    ranges_.push_back({offset, offset + bytes, mode});
    const auto place = std::prev(ranges_.end());
    while (must_wait(place)) co_await waiting_.wait(lock);
    co_return Guard(this, place);
  }

 private:
  bool must_wait(std::list<Range>::iterator place) {
    for (auto other = ranges_.begin(); other != place; ++other) {
      const bool overlap = other->first < place->end && place->first < other->end;
      if (overlap && (other->mode == Mode::kExclusive || place->mode == Mode::kExclusive)) return true;
    }
    return false;
  }
  void unlock(std::list<Range>::iterator place) {
    const std::lock_guard lock(mutex_);
    ranges_.erase(place);
    waiting_.wake_all();
  }
  std::mutex mutex_;
  std::list<Range> ranges_;  // held and waited for, in the order of asking
  WaitQueue waiting_;
};

}  // namespace ostler::block
