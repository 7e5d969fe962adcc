// What the code cache knows of physical pages that code was found in: an open hash table, because every
// translation asks several times.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "bt/block.h"

namespace ostler::bt {

struct PhysPage {
  uint64_t frame = 0;       // physical address / 4096, and 1; 0: an empty slot
  uint64_t linear = 0;      // the first linear page that its code was found at
  uint64_t version = 0;     // never used twice; 0: nothing is known of it (any more)
  uint32_t own = kNone;     // number of the two
  uint32_t shared = kNone;  // number of its shared code
  uint32_t blocks = kNone;  // linked by Block::next_in_page
  uint32_t straddles = kNone;
};

class PhysPages {
 public:
  PhysPages() { clear(); }

  // Null: nothing is known of the page.
  const PhysPage* find(uint64_t phys) const {
    const PhysPage& page = slots_[slot_of(phys >> 12)];
    return page.version == 0 ? nullptr : &page;
  }
  // May move the others.
  PhysPage& get(uint64_t phys) {
    if (used_ * 2 >= slots_.size()) grow();
    PhysPage& page = slots_[slot_of(phys >> 12)];
    if (page.version != 0) return page;
    used_ += page.frame == 0;
    page = {.frame = (phys >> 12) + 1, .version = ++versions_};
    return page;
  }
  // Its slot remains: there are no more of them than pages.
  void forget(uint64_t phys) {
    PhysPage& page = slots_[slot_of(phys >> 12)];
    if (page.frame != 0) page = {.frame = page.frame};
  }
  void forget_blocks() {
    for (PhysPage& page : slots_) page.blocks = page.straddles = kNone;
  }
  void clear() {
    slots_ = std::vector<PhysPage>(kLeast);
    used_ = 0;
  }

 private:
  static constexpr size_t kLeast = 1024;  // a power of two

  size_t slot_of(uint64_t frame) const {
    size_t at = (frame * 0x9e3779b97f4a7c15 >> 24) & (slots_.size() - 1);
    while (slots_[at].frame != frame + 1 && slots_[at].frame != 0) at = (at + 1) & (slots_.size() - 1);
    return at;
  }
  void grow() {
    std::vector<PhysPage> old(slots_.size() * 2);
    old.swap(slots_);
    for (const PhysPage& page : old)
      if (page.frame != 0) slots_[slot_of(page.frame - 1)] = page;
  }

  std::vector<PhysPage> slots_;
  size_t used_ = 0;
  uint64_t versions_ = 0;
};

}  // namespace ostler::bt
