// What leaves the code cache when it is full: docs/bt/design.md, "The code cache".
#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "bt/code_cache.h"

namespace ostler::bt {
namespace {

// Much of what a boot translates never runs again, and what a large program translates runs all the time. So
// the cache counts as full when it has this much, then, when that comes again soon, the second, and then all
// its room.
constexpr size_t kFirstLimit = size_t{32} << 20, kSecondLimit = size_t{48} << 20;
constexpr auto kSoon = std::chrono::seconds(10);

// Numbers are below 2^24, see Hot and Tlb::exec_shared: when there are so many, no more arenas are handed
// out, and those that have been need far fewer than the rest.
constexpr uint32_t kMostPages = 1u << 23;

}  // namespace

size_t CodeCache::first_limit() const {
  return std::min(memory_->size(), kFirstLimit);
}

void CodeCache::set_limit(size_t bytes) {
  limit_ = bytes;
  const size_t fit = bytes / (part_.hot + part_.cold);
  arenas_limit_ = static_cast<uint32_t>(std::clamp<size_t>(fit, 1, arenas_));
}

bool CodeCache::is_full() const {
  return taken_.size() >= arenas_limit_ || next_page_ >= kMostPages;
}

void CodeCache::make_room() {
  const auto now = std::chrono::steady_clock::now();
  const bool soon = now - last_full_ < kSoon;
  last_full_ = now;
  if (next_page_ >= kMostPages) return flush();
  const std::lock_guard lock(mutex_);
  if (soon) {
    const size_t second = std::min(memory_->size(), kSecondLimit);
    set_limit(limit_ < second ? second : memory_->size());
  }
  evict();
}

// The older half of the arenas. What remains is entered anew: that takes a few milliseconds, where finding
// out what leads to every single block that goes would take as many and leave the tables full of holes.
void CodeCache::evict() {
  const std::vector<bool> stay = take_back_arenas();
  forget_blocks();
  const std::vector<Straddle> straddles = std::exchange(straddles_, std::vector<Straddle>(1));
  std::vector<bool> pages(next_page_ + 1);
  each_live_block([&](uint32_t number) {
    Block& block = blocks_[number];
    block.incoming = kNone;
    pages[block.page] = true;
    const Straddle* straddle = block.straddle == kNone ? nullptr : &straddles[block.straddle];
    if (straddle != nullptr) pages[straddle->page] = true;
    enter(number, straddle);
  });
  each_live_block([&](uint32_t number) {
    const Block& block = blocks_[number];
    for (uint32_t exit = block.first_exit; exit < block.first_exit + block.exits; ++exit)
      link_again(exits_[exit], exit, stay);
  });
  // Numbers that no code is found by: processes come and go.
  std::erase_if(other_pages_, [&](const auto& page) { return !pages[page.second]; });
  ++statistics_.evictions;
  generation_.fetch_add(1, std::memory_order_acq_rel);
}

// Tells which ones stay, by number.
std::vector<bool> CodeCache::take_back_arenas() {
  std::vector<bool> stay(arenas_);
  const size_t leave = (taken_.size() + 1) / 2;
  for (size_t i = 0; i < leave; ++i) {
    const uint32_t number = taken_[i];
    free_.push_back(number);
    entered_[number] = {};
    const auto give_back = [&](uint32_t start, uint32_t size) {
      memory_->give_back(start + number * size, start + (number + 1) * size);
    };
    give_back(hot_start_, part_.hot);
    give_back(cold_start_, part_.cold);
    blocks_.clear(1 + number * part_.blocks, part_.blocks);
    exits_.clear(1 + number * part_.exits, part_.exits);
    branches_.clear(1 + number * part_.branches, part_.branches);
    insns_.clear(number * part_.insns, part_.insns);
  }
  taken_.erase(taken_.begin(), taken_.begin() + static_cast<ptrdiff_t>(leave));
  for (const uint32_t number : taken_) stay[number] = true;
  return stay;
}

void CodeCache::forget_blocks() {
  std::fill(table_.begin(), table_.end(), Slot{});
  blocks_in_table_ = 0;
  phys_pages_.forget_blocks();
}

template <class F>
void CodeCache::each_live_block(F&& f) {
  for (const uint32_t arena : taken_)
    for (uint32_t number = 1 + arena * part_.blocks; number < entered_[arena].blocks_end; ++number)
      if (!blocks_[number].dead) f(number);
}

// The target may have gone, or only what leads there (CodeCache::way_to()).
void CodeCache::link_again(Exit& exit, uint32_t number, const std::vector<bool>& stay) {
  if (exit.to == kNone) return;
  uint32_t distance = 0;
  std::memcpy(&distance, writable(exit.field), 4);
  const Offset way = exit.field + 4 + distance;
  const uint32_t arena =
      way < cold_start_ ? (way - hot_start_) / part_.hot : (way - cold_start_) / part_.cold;
  if (!stay[(exit.to - 1) / part_.blocks] || !stay[arena]) {
    patch(exit.field, exit.unlinked);
    exit.to = exit.next = kNone;
    return;
  }
  Block& target = blocks_[exit.to];
  exit.next = target.incoming;
  target.incoming = number;
}

}  // namespace ostler::bt
