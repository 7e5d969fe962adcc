// Turns a tree of regions into sorted ranges.
#pragma once

#include <cstdint>
#include <vector>

#include "memory/flat_view.h"
#include "memory/region.h"

namespace ostler::memory {

struct Flattener {
  // Called with the mutex of the address space held.
  static std::vector<FlatRange> flatten(const Region& root);

 private:
  // Draws what `region` shows of [first, last], region-relative `shift` = address - offset in region (modulo
  // 2^64), wherever nothing was drawn before.
  void draw(const Region& region, uint64_t shift, uint64_t first, uint64_t last, unsigned depth);
  void draw_leaf(FlatRange range);

  std::vector<FlatRange> ranges_;  // sorted, disjoint
};

}  // namespace ostler::memory
