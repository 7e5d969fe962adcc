#include "bt/code_cache.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/bytes.h"
#include "base/fd.h"

namespace ostler::bt {
namespace {

// Page numbers above are never given out: what a dead block's entry compares with.
constexpr uint32_t kNoPage = ~0u;

}  // namespace

Result<std::unique_ptr<CodeCache>> CodeCache::create(mmu::CodePages& pages, size_t bytes) {
  std::unique_ptr<CodeCache> cache(new CodeCache(pages));
  const Fd memory(memfd_create("ostler-code", MFD_CLOEXEC));
  if (!memory || ftruncate(memory.get(), static_cast<off_t>(bytes)) != 0)
    return errno_error("memory for translated code", errno);
  void* writable = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory.get(), 0);
  if (writable == MAP_FAILED) return errno_error("memory for translated code", errno);
  cache->size_ = bytes;
  cache->writable_ = static_cast<uint8_t*>(writable);
  void* executable = mmap(nullptr, bytes, PROT_READ | PROT_EXEC, MAP_SHARED, memory.get(), 0);
  if (executable == MAP_FAILED) return errno_error("executable memory for translated code", errno);
  cache->executable_ = static_cast<const uint8_t*>(executable);
  cache->hot_end_ = static_cast<Offset>(align_down(bytes / 3 * 2, 4096));
  cache->cold_used_ = cache->hot_end_;
  cache->table_.resize(size_t{1} << kTableBits);
  cache->blocks_.resize(1);
  cache->exits_.resize(1);
  pages.set_shared_observer(cache.get());
  return cache;
}

CodeCache::~CodeCache() {
  if (executable_ != nullptr) {
    pages_.set_shared_observer(nullptr);
    munmap(const_cast<uint8_t*>(executable_), size_);
  }
  if (writable_ != nullptr) munmap(writable_, size_);
}

uint32_t CodeCache::page_number(uint64_t linear, uint64_t phys) {
  const auto [at, added] = page_numbers_.try_emplace(PageKey{linear >> 12, phys >> 12}, 0);
  if (added) at->second = next_page_++;
  return at->second;
}

uint32_t CodeCache::known_page_number(uint64_t linear, uint64_t phys) const {
  const auto at = page_numbers_.find(PageKey{linear >> 12, phys >> 12});
  return at == page_numbers_.end() ? kNone : at->second;
}

Block* CodeCache::find(uint32_t page, uint64_t rip, Mode mode) {
  for (uint32_t number = table_[table_key(page, rip, mode) >> (64 - kTableBits)]; number != kNone;) {
    Block& candidate = blocks_[number];
    if (candidate.page == page && candidate.rip == rip && candidate.mode == mode && !candidate.dead)
      return &candidate;
    number = candidate.next_same;
  }
  return nullptr;
}

Block& CodeCache::add(Block block, Offset hot_end, Offset cold_end) {
  const auto number = static_cast<uint32_t>(blocks_.size());
  uint32_t& head = table_[table_key(block.page, block.rip, block.mode) >> (64 - kTableBits)];
  block.next_same = head;
  head = number;
  uint32_t& first = by_phys_[block.phys >> 12];
  block.next_in_page[0] = first;
  first = number * 2;
  if (block.second_page != kNone) {
    uint32_t& second = by_phys_[block.second_phys >> 12];
    block.next_in_page[1] = second;
    second = number * 2 + 1;
  }
  statistics_.blocks += 1;
  statistics_.instructions += block.count;
  statistics_.guest_bytes += block.bytes;
  statistics_.host_bytes += hot_end - hot_used_ + (cold_end - cold_used_);
  hot_used_ = hot_end;
  cold_used_ = cold_end;
  return blocks_.emplace_back(block);
}

// Other vCPUs may be running the jump: its field lies within one cache line and is written in one piece.
void CodeCache::patch(Offset field, Offset target) {
  const uint32_t distance = target - (field + 4);
  __atomic_store_n(reinterpret_cast<uint32_t*>(writable_ + field), distance, __ATOMIC_RELEASE);
}

void CodeCache::link(uint32_t number, Block& target) {
  Exit& exit = exits_[number];
  if (exit.to != kNone || blocks_[exit.block].dead) return;
  const bool direct = exit.same_page && target.second_page == kNone &&
                      (target.entry_flags == 0 || (exit.flags_in_host && !exit.backward));
  // The checked entry finds flags in memory; the cold code of an exit that is not linked puts them there.
  if (!direct && target.entry_flags != 0 && exit.live != 0 && exit.flags_in_host) return;
  exit.to = number_of(target);
  exit.next = target.incoming;
  target.incoming = number;
  ++statistics_.links;
  patch(exit.field, direct ? target.entry : target.checked);
}

void CodeCache::kill(Block& block) {
  if (block.dead) return;
  block.dead = true;
  ++statistics_.killed;
  for (const Offset field : block.id_fields)
    if (field != 0)
      __atomic_store_n(reinterpret_cast<uint32_t*>(writable_ + field), kNoPage, __ATOMIC_RELEASE);
  for (uint32_t number = block.incoming; number != kNone;) {
    Exit& exit = exits_[number];
    patch(exit.field, exit.unlinked);
    number = exit.next;
    exit.to = exit.next = kNone;
  }
  block.incoming = kNone;
  // Its own exits stay linked: whoever is still inside leaves by them; but they must not be found by their
  // targets' lists when the numbers are reused, and those are not reused.
}

void CodeCache::shared_code_written(GuestPhys page, unsigned, unsigned) {
  writes_.fetch_add(1, std::memory_order_acq_rel);
  const std::lock_guard lock(mutex_);
  const auto at = by_phys_.find(page.value >> 12);
  if (at == by_phys_.end()) return;
  for (uint32_t link = at->second; link != kNone;) {
    Block& block = blocks_[link / 2];
    kill(block);
    link = block.next_in_page[link & 1];
  }
  by_phys_.erase(at);
}

void CodeCache::flush() {
  pages_.forget_shared();
  const std::lock_guard lock(mutex_);
  blocks_.resize(1);
  exits_.resize(1);
  insns_.clear();
  std::fill(table_.begin(), table_.end(), kNone);
  by_phys_.clear();
  page_numbers_.clear();
  // No generation has as many blocks as numbers that are left. By the time they come again, after hours of
  // nothing but flushes, TLBs have been filled anew.
  if (next_page_ > uint32_t{1} << 31) next_page_ = 1;
  first_page_ = next_page_;
  hot_used_ = hot_start_;
  cold_used_ = hot_end_;
  ++statistics_.flushes;
  generation_.fetch_add(1, std::memory_order_acq_rel);
}

const Block* CodeCache::find_host(const uint8_t* host, InsnMap& insn) const {
  const auto at = static_cast<Offset>(host - executable_);
  // Blocks lie in the order of their numbers.
  const auto after = std::upper_bound(
      blocks_.begin() + 1, blocks_.end(), at,
      [](Offset offset, const Block& block) { return offset < std::min(block.checked, block.entry); });
  if (after == blocks_.begin() + 1) return nullptr;
  const Block& block = *(after - 1);
  if (at >= block.end) return nullptr;
  const auto first = insns_.begin() + block.first_insn;
  const auto next = std::upper_bound(first, first + block.count, at,
                                     [](Offset offset, const InsnMap& map) { return offset < map.host; });
  if (next == first) return nullptr;
  insn = *(next - 1);
  return &block;
}

const Block& CodeCache::block_of_insn(uint32_t index) const {
  const auto after = std::upper_bound(blocks_.begin() + 1, blocks_.end(), index,
                                      [](uint32_t i, const Block& block) { return i < block.first_insn; });
  return *(after - 1);
}

}  // namespace ostler::bt
