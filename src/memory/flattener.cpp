#include "memory/flattener.h"

#include <algorithm>

#include "base/assert.h"

namespace ostler::memory {
namespace {

// Aliases of containers nest a few levels; more means an alias that shows itself.
constexpr unsigned kMaxDepth = 32;

}  // namespace

std::vector<FlatRange> Flattener::flatten(const Region& root) {
  Flattener flattener;
  if (root.size_ != 0) flattener.draw(root, 0, 0, root.size_ - 1, 0);
  return std::move(flattener.ranges_);
}

void Flattener::draw(const Region& region, uint64_t shift, uint64_t first, uint64_t last, unsigned depth) {
  ASSERT(depth < kMaxDepth, "no region is placed or aliased within itself");
  if (!region.enabled_ || region.size_ == 0) return;
  // Clip to the region. `first - shift` is the offset within it, and never below 0 here.
  if (first - shift > region.size_ - 1) return;
  last = std::min(last - shift, region.size_ - 1) + shift;

  for (const Region* child : region.children_) {
    // In offsets of this region, where nothing wraps around: what of the child lies within [from, to].
    const uint64_t from = first - shift, to = last - shift;
    if (child->size_ == 0 || child->offset_ > to) continue;
    const uint64_t room = ~uint64_t{0} - child->offset_;
    const uint64_t end = child->offset_ + std::min(child->size_ - 1, room);
    if (end < from) continue;
    draw(*child, shift + child->offset_, std::max(from, child->offset_) + shift, std::min(to, end) + shift,
         depth + 1);
  }

  if (const auto* alias = dynamic_cast<const AliasRegion*>(&region)) {
    const uint64_t target_shift = shift - alias->target_offset_;
    draw(alias->target_, target_shift, first, last, depth + 1);
    return;
  }
  FlatRange range;
  range.first = {first};
  range.last = {last};
  const uint64_t offset = first - shift;
  if (const auto* ram = dynamic_cast<const RamRegion*>(&region)) {
    range.ram = ram->ram_;
    range.offset = ram->ram_offset_ + offset;
  } else if (const auto* rom = dynamic_cast<const RomRegion*>(&region)) {
    range.ram = rom->ram_;
    range.offset = rom->ram_offset_ + offset;
    range.read_only = true;
    range.handler = rom->writes_;
  } else if (const auto* io = dynamic_cast<const IoRegion*>(&region)) {
    range.handler = &io->handler_;
    range.offset = offset;
    range.max_access = io->max_access_;
  } else {
    return;  // a container is nothing by itself
  }
  draw_leaf(std::move(range));
}

void Flattener::draw_leaf(FlatRange range) {
  std::vector<FlatRange> gaps;
  const auto piece = [&](GuestPhys first, GuestPhys last) {
    FlatRange part = range;
    part.first = first;
    part.last = last;
    part.offset = range.offset_of(first);
    gaps.push_back(std::move(part));
  };
  GuestPhys next = range.first;
  bool covered = false;
  auto at = std::lower_bound(ranges_.begin(), ranges_.end(), range.first,
                             [](const FlatRange& r, GuestPhys wanted) { return r.last < wanted; });
  for (; at != ranges_.end() && at->first <= range.last; ++at) {
    if (at->first > next) piece(next, {at->first.value - 1});
    if (at->last >= range.last) {
      covered = true;
      break;
    }
    next = at->last + 1;
  }
  if (!covered) piece(next, range.last);
  for (FlatRange& gap : gaps) {
    const auto where =
        std::lower_bound(ranges_.begin(), ranges_.end(), gap.first,
                         [](const FlatRange& r, GuestPhys wanted) { return r.first < wanted; });
    ranges_.insert(where, std::move(gap));
  }
}

}  // namespace ostler::memory
