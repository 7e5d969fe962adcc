// Which requests may still use a host cluster that was just given up: those that began before. A cluster is
// used again only when they have ended, so that a late write of theirs cannot reach another owner's data.
#pragma once

#include <cstdint>
#include <deque>

namespace ostler::block::qcow2 {

// Guarded by the owner's mutex.
class Epochs {
 public:
  uint64_t enter() {
    ++counts_.back();
    return first_ + counts_.size() - 1;
  }
  void leave(uint64_t epoch) {
    --counts_[epoch - first_];
    while (counts_.size() > 1 && counts_.front() == 0) {
      counts_.pop_front();
      ++first_;
    }
  }
  // Begins a new one; what was given up so far may be used again when is_over(the result).
  uint64_t advance() {
    const uint64_t ended = first_ + counts_.size() - 1;
    if (counts_.size() == 1 && counts_.front() == 0)
      ++first_;
    else
      counts_.push_back(0);
    return ended;
  }
  bool is_over(uint64_t epoch) const { return epoch < first_; }

 private:
  std::deque<uint64_t> counts_ = {0};
  uint64_t first_ = 0;
};

}  // namespace ostler::block::qcow2
