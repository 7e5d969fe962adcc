#include "mmu/code_pages.h"

#include <algorithm>
#include <bit>

namespace ostler::mmu {
namespace {

namespace flag = memory::page_flag;
using memory::RamBlock;

// How often a page was hit as a whole, kept in the page's flag byte.
constexpr uint8_t kHit = 32;
constexpr uint8_t kHitMask = 0xe0;
static_assert(CodePages::kWholePageHits * kHit <= kHitMask, "it fits into the flag byte");

unsigned hits_of(uint8_t flags) {
  return flags / kHit;
}

}  // namespace

CodePages::CodePages(memory::AddressSpace& space, VcpuGroup& group) : space_(space), group_(group) {
  space_.set_code_listener(this);
  space_.add_listener(*this);
}

CodePages::~CodePages() {
  space_.remove_listener(*this);
  space_.set_code_listener(nullptr);
}

// A commit publishes its view before it looks for code that goes with removed memory, so what is still there
// with the mutex held will be found.
bool CodePages::is_there(const RamBlock& ram, uint64_t offset, GuestPhys page) const {
  const auto view = space_.view();
  const memory::FlatRange* range = view->find(page);
  return range != nullptr && range->ram.get() == &ram && range->offset_of(page) == (offset & ~kPageMask);
}

bool CodePages::protect(Participant& who, RamBlock& ram, uint64_t offset, uint64_t length, GuestPhys page,
                        bool shared) {
  const unsigned owner = shared ? 0 : owner_of(who);
  const std::byte* host = ram.host() + (offset & ~kPageMask);
  std::atomic<uint8_t>& flags = ram.flags(offset);
  uint64_t generation;
  uint8_t before;
  {
    const std::lock_guard lock(mutex_);
    if (!is_there(ram, offset, page)) return false;
    auto [at, added] = pages_.try_emplace(host);
    Page& entry = at->second;
    if (added) {
      entry.ram = &ram;
      entry.generation = ++generations_;
    }
    if (entry.granules.size() <= owner) entry.granules.resize(owner + 1);
    entry.granules[owner] |= granules_of(offset, length);
    if (std::find(entry.aliases.begin(), entry.aliases.end(), page) == entry.aliases.end())
      entry.aliases.push_back(page);
    generation = entry.generation;
    before = flags.fetch_or(flag::kCode, std::memory_order_seq_cst);
  }
  if ((before & flag::kCodeSettled) != 0) return true;
  if ((before & flag::kWriteTagged) != 0) group_.drop_write_access(host);
  const std::lock_guard lock(mutex_);
  const auto at = pages_.find(host);
  // If the code was hit meanwhile, the owner of these bytes has been told to drop what it makes of them.
  if (at == pages_.end() || at->second.generation != generation) return true;
  flags.fetch_or(flag::kCodeSettled, std::memory_order_seq_cst);
  flags.fetch_and(static_cast<uint8_t>(~flag::kWriteTagged), std::memory_order_seq_cst);
  return true;
}

void CodePages::tell_locked(const Page& page, unsigned owner, uint64_t mask, const Participant* who,
                            std::vector<Stale>* own) {
  const auto first = static_cast<uint16_t>(std::countr_zero(mask) * kGranule);
  const auto last = static_cast<uint16_t>((64 - std::countl_zero(mask)) * kGranule - 1);
  for (const GuestPhys alias : page.aliases) {
    if (owner == 0)
      shared_observer_->shared_code_written(alias, first, last);
    else if (who != nullptr && owner_of(*who) == owner)
      own->push_back({alias, first, last});
    else
      group_.post_stale_code(owner - 1, alias, first, last);
  }
}

bool CodePages::release_if_unused_locked(Pages::iterator at) {
  const Page& page = at->second;
  if (std::any_of(page.granules.begin(), page.granules.end(), [](uint64_t mask) { return mask != 0; }))
    return false;
  const auto offset = static_cast<uint64_t>(at->first - page.ram->host());
  page.ram->flags(offset).fetch_and(static_cast<uint8_t>(~(flag::kCode | flag::kCodeSettled)),
                                    std::memory_order_seq_cst);
  pages_.erase(at);
  return true;
}

void CodePages::written_locked(const Participant* who, RamBlock& ram, uint64_t offset, uint64_t length,
                               std::vector<Stale>* own) {
  const auto at = pages_.find(ram.host() + (offset & ~kPageMask));
  if (at == pages_.end()) return;
  Page& page = at->second;
  const uint64_t touched = granules_of(offset, length);
  uint64_t hit = 0;
  for (const uint64_t mask : page.granules) hit |= mask & touched;
  if (hit == 0) return;

  std::atomic<uint8_t>& flags = ram.flags(offset);
  const bool whole = hits_of(flags.load(std::memory_order_relaxed)) < CodePages::kWholePageHits;
  if (whole) flags.fetch_add(kHit, std::memory_order_relaxed);
  for (unsigned owner = 0; owner < page.granules.size(); ++owner) {
    const uint64_t dropped = whole ? page.granules[owner] : page.granules[owner] & touched;
    if (dropped == 0) continue;
    if (owner == 0) shared_epoch_.fetch_add(1);
    page.granules[owner] &= ~dropped;
    tell_locked(page, owner, dropped, who, own);
  }
  // A page that has lost all its code piece by piece is likely to become something else: it may begin anew.
  if (release_if_unused_locked(at) && !whole)
    flags.fetch_and(static_cast<uint8_t>(~kHitMask), std::memory_order_relaxed);
}

void CodePages::written(const Participant& who, RamBlock& ram, uint64_t offset, uint64_t length,
                        std::vector<Stale>& own) {
  const std::lock_guard lock(mutex_);
  written_locked(&who, ram, offset, length, &own);
}

void CodePages::code_written(RamBlock& ram, uint64_t offset, uint64_t length) {
  const std::lock_guard lock(mutex_);
  written_locked(nullptr, ram, offset, length, nullptr);
}

void CodePages::forget(const Participant& who) {
  const std::lock_guard lock(mutex_);
  forget_locked(owner_of(who));
}

void CodePages::forget_shared() {
  const std::lock_guard lock(mutex_);
  forget_locked(0);
}

void CodePages::forget_locked(unsigned owner) {
  if (owner == 0) shared_epoch_.fetch_add(1);
  for (auto at = pages_.begin(); at != pages_.end();) {
    const auto next = std::next(at);
    if (owner < at->second.granules.size() && at->second.granules[owner] != 0) {
      at->second.granules[owner] = 0;
      release_if_unused_locked(at);
    }
    at = next;
  }
}

void CodePages::forget(const Participant& who, RamBlock& ram, uint64_t offset) {
  const std::lock_guard lock(mutex_);
  const auto at = pages_.find(ram.host() + (offset & ~kPageMask));
  const unsigned owner = owner_of(who);
  if (at == pages_.end() || owner >= at->second.granules.size()) return;
  at->second.granules[owner] = 0;
  release_if_unused_locked(at);
}

void CodePages::view_changed(const memory::ViewChange& change) {
  bool ram_removed = false;
  for (const memory::FlatRange& range : change.removed) {
    if (!range.is_ram()) continue;
    ram_removed = true;
    const std::byte* first = range.ram->host() + range.offset;
    const std::byte* last = first + (range.last - range.first);
    const std::lock_guard lock(mutex_);
    shared_epoch_.fetch_add(1);
    for (auto at = pages_.begin(); at != pages_.end();) {
      const auto next = std::next(at);
      if (at->first + kPageMask >= first && at->first <= last) {
        Page& page = at->second;
        for (unsigned owner = 0; owner < page.granules.size(); ++owner) {
          if (page.granules[owner] == 0) continue;
          tell_locked(page, owner, page.granules[owner], nullptr, nullptr);
          page.granules[owner] = 0;
        }
        release_if_unused_locked(at);
      }
      at = next;
    }
  }
  if (ram_removed) group_.drop_translations();
}

}  // namespace ostler::mmu
