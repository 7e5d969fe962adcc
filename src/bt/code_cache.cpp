#include "bt/code_cache.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/bytes.h"
#include "base/fd.h"
#include "bt/assembler.h"

namespace ostler::bt {
namespace {

// Never a page's number: what a dead block's entry compares with.
constexpr uint32_t kNoPage = ~0u;
// Numbers are below this, see Hot and Tlb::exec_shared.
constexpr uint32_t kMostPages = (1u << 24) - 16;

// What a block may need of the tables.
constexpr size_t kMostExits = 160, kMostInsnBytes = 256;
constexpr size_t kTrampoline = 64;  // bytes, at most

// Memory of the code is made present in pieces of this size: page faults one by one cost more than half of
// the time there is for a translation.
constexpr Offset kPiece = 256 * 1024;

// Much of what a boot translates never runs again, and what a large program translates runs all the time. So
// the cache is emptied when it has this much, and may have all its room when that comes again soon.
constexpr size_t kFirstLimit = size_t{64} << 20;
constexpr auto kSoon = std::chrono::seconds(10);

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
  cache->hot_committed_ = 0;
  cache->cold_committed_ = cache->hot_end_;
  if (!cache->blocks_.reserve(bytes / 48) || !cache->exits_.reserve(bytes / 24) ||
      !cache->insns_.reserve(bytes / 8) || !cache->branches_.reserve(bytes / 64))
    return errno_error("memory for the tables of translated code", errno);
  cache->empty_tables();
  cache->set_limit(std::min(bytes, kFirstLimit));
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

void CodeCache::set_limit(size_t bytes) {
  hot_limit_ = static_cast<Offset>(std::min<size_t>(hot_end_, bytes / 3 * 2));
  cold_limit_ = static_cast<Offset>(std::min(size_, hot_end_ + bytes / 3));
}

void CodeCache::empty_tables() {
  blocks_.clear();
  exits_.clear();
  insns_.clear();
  branches_.clear();
  blocks_.add({});
  exits_.add({});
  straddles_.assign(1, {});
  table_ = std::vector<Slot>(size_t{1} << 12);
  by_phys_.clear();
  other_pages_.clear();
  next_page_ = 1;
}

// ---- pages ----

CodeCache::PageNumbers CodeCache::known_page(uint64_t linear, uint64_t phys) const {
  PageNumbers numbers;
  const auto at = by_phys_.find(phys >> 12);
  if (at == by_phys_.end()) return numbers;
  numbers.shared = at->second.shared;
  if (at->second.own != kNone && at->second.linear == linear >> 12) {
    numbers.own = at->second.own;
    return numbers;
  }
  const auto other = other_pages_.find(PageKey{linear >> 12, phys >> 12});
  if (other != other_pages_.end()) numbers.own = other->second;
  return numbers;
}

uint32_t CodeCache::new_page_number() {
  // Those that Tlb::exec_shared could not tell from an empty slot are left out.
  if (++next_page_ % kPageSize == 0) ++next_page_;
  return next_page_;
}

uint32_t CodeCache::own_page(uint64_t linear, uint64_t phys) {
  PhysPage& page = by_phys_[phys >> 12];
  if (page.own == kNone) {
    page.linear = linear >> 12;
    page.own = new_page_number();
  }
  if (page.linear == linear >> 12) return page.own;
  uint32_t& number = other_pages_[PageKey{linear >> 12, phys >> 12}];
  if (number == kNone) number = new_page_number();
  return number;
}

bool CodeCache::better_shared(uint64_t linear, uint64_t phys) const {
  const auto at = by_phys_.find(phys >> 12);
  return at != by_phys_.end() && at->second.own != kNone && at->second.linear != linear >> 12;
}

uint32_t CodeCache::shared_page(uint64_t phys) {
  uint32_t& number = by_phys_[phys >> 12].shared;
  if (number == kNone) number = new_page_number();
  return number;
}

// ---- blocks ----

CodeCache::Slot& CodeCache::slot_of(uint64_t key) {
  const size_t mask = table_.size() - 1;
  size_t at = (key * 0x9e3779b97f4a7c15 >> 20) & mask;
  while (table_[at].key != key && table_[at].key != 0) at = (at + 1) & mask;
  return table_[at];
}

Block* CodeCache::find(uint32_t page, uint64_t rip, Mode mode) {
  const Slot& slot = slot_of(key_of(page, rip, mode));
  return slot.block == kNone ? nullptr : &blocks_[slot.block];
}

void CodeCache::grow_table() {
  std::vector<Slot> old(table_.size() * 2);
  old.swap(table_);
  for (const Slot& slot : old)
    if (slot.block != kNone) slot_of(slot.key) = slot;
}

bool CodeCache::has_room() const {
  return hot_used_ + kMostHot <= hot_limit_ && cold_used_ + kMostCold <= cold_limit_ && blocks_.room() > 1 &&
         exits_.room() > kMostExits && insns_.room() > kMostInsnBytes && branches_.room() > 1 &&
         next_page_ < kMostPages;
}

uint32_t CodeCache::add_branch(const IndirectBranch& branch) {
  branches_.add(branch);
  return static_cast<uint32_t>(branches_.size() - 1);
}

// Where pages are missing they are brought in by page faults, as they would be without this.
void CodeCache::commit(Offset& committed, Offset used, Offset end) {
  while (used > committed && committed < end) {
    const Offset piece = std::min(kPiece, end - committed);
    madvise(writable_ + committed, piece, MADV_POPULATE_WRITE);
    madvise(const_cast<uint8_t*>(executable_) + committed, piece, MADV_POPULATE_READ);
    committed += piece;
  }
}

// The map of instructions is a byte or two for each: bits 0 to 3 the guest's length, 4 whether the host's
// flags are the guest's, 5 whether what follows is two bytes; then how far behind the one before its host
// code starts.
Block& CodeCache::add(Block block, Offset hot_end, Offset cold_end, std::span<const InsnMap> insns,
                      unsigned guest_bytes, const Straddle* straddle) {
  const auto number = static_cast<uint32_t>(blocks_.size());
  block.first_insn = static_cast<uint32_t>(insns_.size());
  block.count = static_cast<uint8_t>(insns.size());
  Offset host = block.start;
  for (size_t i = 0; i < insns.size(); ++i) {
    const unsigned end = i + 1 < insns.size() ? insns[i + 1].guest : guest_bytes;
    const unsigned distance = insns[i].host - host;
    host = insns[i].host;
    const bool wide = distance > 0xff;
    insns_.add(
        static_cast<uint8_t>((end - insns[i].guest) | (insns[i].host_flags ? 16u : 0u) | (wide ? 32u : 0u)));
    insns_.add(static_cast<uint8_t>(distance));
    if (wide) insns_.add(static_cast<uint8_t>(distance >> 8));
  }
  PhysPage& page = by_phys_[block.phys >> 12];
  block.next_in_page = page.blocks;
  page.blocks = number;
  if (straddle != nullptr) {
    block.straddle = static_cast<uint32_t>(straddles_.size());
    PhysPage& second = by_phys_[straddle->phys >> 12];
    straddles_.push_back(*straddle);
    straddles_.back().block = number;
    straddles_.back().next = second.straddles;
    second.straddles = block.straddle;
  }
  if ((blocks_.size() + 1) * 2 > table_.size()) grow_table();
  const uint64_t key = key_of(block.page, block.rip, block.mode);
  slot_of(key) = {.key = key, .block = number};
  statistics_.blocks += 1;
  statistics_.instructions += block.count;
  statistics_.guest_bytes += guest_bytes;
  statistics_.host_bytes += hot_end - hot_used_ + (cold_end - cold_used_);
  hot_used_ = hot_end;
  cold_used_ = cold_end;
  // Ahead of the next block, of which most are far smaller than the most there may be.
  commit(hot_committed_, hot_used_ + 4096, hot_end_);
  commit(cold_committed_, cold_used_ + 4096, static_cast<Offset>(size_));
  return blocks_.add(block);
}

// Other vCPUs may be running the jump: its field lies within one cache line and is written in one piece.
void CodeCache::patch(Offset field, Offset target) {
  const uint32_t distance = target - (field + 4);
  __atomic_store_n(reinterpret_cast<uint32_t*>(writable_ + field), distance, __ATOMIC_RELEASE);
}

// Whoever jumps to the entry of shared code that checks the page brings its RIP along in kS0; and where an
// exit of shared code leads depends on where it runs. So such jumps are made by a few instructions of their
// own. 0: there is no room.
Offset CodeCache::way_to(const Exit& exit, const Block& source, const Block& target) {
  if (!source.shared && !target.shared) return target.checked;
  const auto distance = static_cast<int64_t>(exit.target);
  // Where the code runs elsewhere the hash table would lead back to the version with the window.
  if (source.shared && !target.shared && (exit.mode & mode::kNoWindow) != 0) return 0;
  if (cold_used_ + kTrampoline > size_ || (source.shared && distance != static_cast<int32_t>(distance)))
    return 0;
  const Offset at = cold_used_;
  Assembler a(writable(at), at);
  if (source.shared) {
    a.load(kS0, offsetof(Hot, page_base));
    a.lea(kS0, {.base = kS0, .disp = static_cast<int32_t>(distance)});
  } else {
    a.mov_imm(kS0, exit.target);
  }
  if (!target.shared) {
    a.mov_imm(kS1, target.rip);
    a.cmp(kS0, kS1);
    a.jcc(kCcNe, user_lookup_);
  }
  a.jmp(target.checked);
  statistics_.host_bytes += a.offset() - cold_used_;
  cold_used_ = a.offset();
  return at;
}

void CodeCache::link(uint32_t number, Block& target) {
  Exit& exit = exits_[number];
  const Block& source = blocks_[exit.block];
  if (exit.to != kNone || source.dead) return;
  const bool direct = exit.same_page && source.page == target.page && target.straddle == kNone &&
                      (target.entry_flags == 0 || (exit.flags_in_host && !exit.backward));
  // The checked entry finds flags in memory; the cold code of an exit that is not linked puts them there.
  if (!direct && target.entry_flags != 0 && exit.live != 0 && exit.flags_in_host) return;
  const Offset way = direct ? target.entry : way_to(exit, source, target);
  if (way == 0) return;
  exit.to = number_of(target);
  exit.next = target.incoming;
  target.incoming = number;
  ++statistics_.links;
  patch(exit.field, way);
}

void CodeCache::kill(Block& block) {
  if (block.dead) return;
  block.dead = true;
  ++statistics_.killed;
  slot_of(key_of(block.page, block.rip, block.mode)).block = kNone;
  __atomic_store_n(reinterpret_cast<uint32_t*>(writable_ + block.id_field), kNoPage, __ATOMIC_RELEASE);
  if (block.straddle != kNone)
    __atomic_store_n(reinterpret_cast<uint32_t*>(writable_ + straddles_[block.straddle].id_field), kNoPage,
                     __ATOMIC_RELEASE);
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
  for (uint32_t number = at->second.blocks; number != kNone; number = blocks_[number].next_in_page)
    kill(blocks_[number]);
  for (uint32_t number = at->second.straddles; number != kNone; number = straddles_[number].next)
    kill(blocks_[straddles_[number].block]);
  // What comes next is other code, for which another linear page may be the first.
  by_phys_.erase(at);
}

void CodeCache::make_room() {
  const auto now = std::chrono::steady_clock::now();
  if (now - last_full_ < kSoon) set_limit(size_);
  last_full_ = now;
  flush();
}

void CodeCache::flush() {
  pages_.forget_shared();
  const std::lock_guard lock(mutex_);
  empty_tables();
  // Its memory is given back; where that cannot be done it is used again.
  madvise(writable_ + hot_start_, size_ - hot_start_, MADV_REMOVE);
  hot_used_ = hot_start_;
  cold_used_ = hot_end_;
  hot_committed_ = 0;
  cold_committed_ = hot_end_;
  ++statistics_.flushes;
  generation_.fetch_add(1, std::memory_order_acq_rel);
}

// ---- from host code to guest code ----

// Calls f(InsnMap) for the block's instructions until it returns false.
template <class F>
void CodeCache::each_insn(const Block& block, F&& f) const {
  InsnMap insn{.host = block.start};
  const uint8_t* at = insns_.data() + block.first_insn;
  for (; insn.index < block.count; ++insn.index) {
    const uint8_t head = *at++;
    insn.host += *at++;
    if ((head & 32) != 0) insn.host += unsigned{*at++} << 8;
    insn.host_flags = (head & 16) != 0;
    if (!f(insn)) return;
    insn.guest = static_cast<uint16_t>(insn.guest + (head & 15));
  }
}

const Block* CodeCache::find_host(const uint8_t* host, InsnMap& insn) const {
  const auto at = static_cast<Offset>(host - executable_);
  // Blocks lie in the order of their numbers.
  const auto* after =
      std::upper_bound(blocks_.begin() + 1, blocks_.end(), at,
                       [](Offset offset, const Block& block) { return offset < block.start; });
  if (after == blocks_.begin() + 1 || at >= hot_used_) return nullptr;
  const Block& block = *(after - 1);
  bool found = false;
  each_insn(block, [&](const InsnMap& candidate) {
    if (candidate.host > at) return false;
    insn = candidate;
    return found = true;
  });
  return found ? &block : nullptr;
}

InsnMap CodeCache::insn_at(const Block& block, unsigned guest) const {
  InsnMap found;
  each_insn(block, [&](const InsnMap& candidate) {
    found = candidate;
    return candidate.guest < guest;
  });
  return found;
}

}  // namespace ostler::bt
