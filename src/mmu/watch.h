// Ranges of guest-linear addresses whose data accesses a debugger outside the guest wants to know. Pages with
// a watch are kept out of the software TLB's data tags, so that every access to them takes the slow path,
// where its address and size are known; accesses elsewhere cost nothing.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "memory/address.h"
#include "mmu/access.h"

namespace ostler::mmu {

struct Watch {
  uint64_t first = 0, last = 0;  // bytes, inclusive
  bool reads = false, writes = false;

  bool sees(Access access) const {
    return access == Access::kWrite ? writes : access == Access::kRead && reads;
  }
  friend bool operator==(const Watch&, const Watch&) = default;
};

struct WatchHit {
  uint64_t address = 0;  // the first watched byte that was accessed
  Access access = Access::kRead;
  bool present = false;
};

// One vCPU's thread, or while it is paused.
class Watches {
 public:
  bool empty() const { return list_.empty(); }
  const std::vector<Watch>& list() const { return list_; }
  void set(std::vector<Watch> list) { list_ = std::move(list); }

  bool on_page(uint64_t linear) const {
    const uint64_t first = linear & ~kPageMask, last = linear | kPageMask;
    return std::any_of(list_.begin(), list_.end(),
                       [&](const Watch& watch) { return watch.first <= last && first <= watch.last; });
  }
  // What an access of `size` bytes hits, which may wrap around at the end of the address space.
  WatchHit find(uint64_t linear, uint64_t size, Access access) const {
    for (const Watch& watch : list_) {
      if (!watch.sees(access)) continue;
      if (linear - watch.first <= watch.last - watch.first) return {linear, access, true};
      if (watch.first - linear < size) return {watch.first, access, true};
    }
    return {};
  }

 private:
  std::vector<Watch> list_;
};

}  // namespace ostler::mmu
