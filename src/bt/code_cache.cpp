#include "bt/code_cache.h"

#include <algorithm>
#include <cstring>

#include "base/assert.h"
#include "base/bytes.h"
#include "bt/assembler.h"
#include "bt/guest_code.h"

namespace ostler::bt {
namespace {

// Never a page's number: what a dead block's entry compares with.
constexpr uint32_t kNoPage = ~0u;
constexpr size_t kTrampoline = 64;  // bytes, at most

// Of host code. The least has room for a block of any kind, a vCPU shall
// have a few before the cache is full.
constexpr size_t kLeastArena = size_t{192} << 10, kMostArena = size_t{768} << 10;
constexpr size_t kArenasForEach = 8, kLeastForEach = 2;
// Of an arena's eighths: what code needs of the two, as -d stats tells.
constexpr size_t kHotParts = 5, kColdParts = 3, kParts = kHotParts + kColdParts;
static_assert(kLeastArena / kParts * kHotParts >= Arena::kHotOfInsn * (GuestCode::kMost + 2) &&
              kLeastArena / kParts * kColdParts >= Arena::kColdOfInsn * (GuestCode::kMost + 2));

}  // namespace

Result<std::unique_ptr<CodeCache>> CodeCache::create(mmu::CodePages& pages, size_t bytes, unsigned vcpus) {
  std::unique_ptr<CodeCache> cache(new CodeCache(pages));
  bytes = std::max(bytes, (vcpus * kLeastForEach + 1) * kLeastArena);
  auto memory = CodeMemory::create(bytes);
  if (!memory) return std::move(memory).error();
  cache->memory_ = *std::move(memory);
  cache->vcpus_ = vcpus;
  if (!cache->blocks_.reserve(bytes / 48) || !cache->exits_.reserve(bytes / 24) ||
      !cache->insns_.reserve(bytes / 8) || !cache->branches_.reserve(bytes / 64))
    return errno_error("memory for the tables of translated code", errno);
  cache->reserve(0, 0);
  pages.set_shared_observer(cache.get());
  return cache;
}

void CodeCache::reserve(size_t bytes, Offset user_lookup) {
  hot_start_ = static_cast<Offset>(align_up(bytes, kPageSize));
  user_lookup_ = user_lookup;
  const size_t first = first_limit();
  const size_t arena =
      align_down(std::clamp(first / vcpus_ / kArenasForEach, kLeastArena, kMostArena), kParts * kPageSize);
  part_.hot = static_cast<uint32_t>(arena / kParts * kHotParts);
  part_.cold = static_cast<uint32_t>(arena / kParts * kColdParts);
  arenas_ = static_cast<uint32_t>((memory_->size() - hot_start_) / arena);
  cold_start_ = hot_start_ + arenas_ * part_.hot;
  const auto share = [&](size_t all) { return static_cast<uint32_t>((all - 1) / arenas_); };
  part_.blocks = share(blocks_.size());
  part_.exits = share(exits_.size());
  part_.branches = share(branches_.size());
  part_.insns = share(insns_.size());
  set_limit(first);
  empty_tables();
}

CodeCache::~CodeCache() {
  pages_.set_shared_observer(nullptr);
}

void CodeCache::empty_tables() {
  blocks_.clear();
  exits_.clear();
  insns_.clear();
  branches_.clear();
  entered_.assign(arenas_, {});
  taken_.clear();
  free_.clear();
  for (uint32_t number = arenas_; number-- > 0;) free_.push_back(number);
  straddles_.assign(1, {});
  table_ = std::vector<Slot>(size_t{1} << 12);
  phys_pages_.clear();
  other_pages_.clear();
  next_page_ = 1;
  blocks_in_table_ = 0;
}

// ---- arenas ----

bool CodeCache::take_arena(Arena& arena) {
  if (is_full()) return false;
  const uint32_t number = free_.back();
  free_.pop_back();
  taken_.push_back(number);
  const auto part = [&](uint32_t start, uint32_t size) {
    return Range{start + number * size, start + (number + 1) * size};
  };
  arena = {.number = number,
           .generation = generation(),
           .hot = part(hot_start_, part_.hot),
           .cold = part(cold_start_, part_.cold),
           .blocks = part(1, part_.blocks),
           .exits = part(1, part_.exits),
           .branches = part(1, part_.branches),
           .insns = part(0, part_.insns)};
  entered_[number] = {.hot = arena.hot.next, .blocks_end = arena.blocks.next};
  return true;
}

void CodeCache::populate(const Arena& arena) {
  memory_->provide(arena.hot.next, arena.hot.end);
  memory_->provide(arena.cold.next, arena.cold.end);
}

// ---- pages ----

CodeCache::PageNumbers CodeCache::known_page(uint64_t linear, uint64_t phys) const {
  const PhysPage* page = phys_pages_.find(phys);
  if (page == nullptr) return {};
  PageNumbers numbers{.shared = page->shared, .version = page->version};
  if (page->own != kNone && page->linear == linear >> 12) {
    numbers.own = page->own;
    return numbers;
  }
  if (other_pages_.empty()) return numbers;
  const auto other = other_pages_.find(PageKey{linear >> 12, phys >> 12});
  if (other != other_pages_.end()) numbers.own = other->second;
  return numbers;
}

uint64_t CodeCache::version_of(uint64_t phys) const {
  const PhysPage* page = phys_pages_.find(phys);
  return page == nullptr ? 0 : page->version;
}

uint32_t CodeCache::new_page_number() {
  // Those that Tlb::exec_shared could not tell from an empty slot are left out.
  if (++next_page_ % kPageSize == 0) ++next_page_;
  return next_page_;
}

uint32_t CodeCache::own_page(uint64_t linear, uint64_t phys) {
  PhysPage& page = phys_pages_.get(phys);
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
  const PhysPage* page = phys_pages_.find(phys);
  return page != nullptr && page->own != kNone && page->linear != linear >> 12;
}

uint32_t CodeCache::shared_page(uint64_t phys) {
  uint32_t& number = phys_pages_.get(phys).shared;
  if (number == kNone) number = new_page_number();
  return number;
}

// ---- blocks ----

// Blocks of the same 128 bytes of code lie together, in the order of their places: code that is looked for
// soon after other code is in the host's caches. Larger pieces would lie across each other in long runs.
size_t CodeCache::first_slot_of(uint64_t key) const {
  constexpr unsigned kPiece = 128, kSlots = 8;  // bytes, and slots for the blocks that begin there
  const size_t mask = table_.size() - 1;
  const uint64_t place = key >> 8 & kPageMask, piece = (key >> 20) * (kPageSize / kPiece) + place / kPiece;
  return ((piece * 0x9e3779b97f4a7c15 >> 24) * kSlots + place % kPiece / (kPiece / kSlots)) & mask;
}

CodeCache::Slot& CodeCache::slot_of(uint64_t key) {
  const size_t mask = table_.size() - 1;
  size_t at = first_slot_of(key);
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

// Makes the block known by its page and its place.
void CodeCache::enter(uint32_t number, const Straddle* straddle) {
  Block& block = blocks_[number];
  PhysPage& page = phys_pages_.get(block.phys);
  block.next_in_page = page.blocks;
  page.blocks = number;
  if (straddle != nullptr) {
    block.straddle = static_cast<uint32_t>(straddles_.size());
    PhysPage& second = phys_pages_.get(straddle->phys);
    straddles_.push_back(*straddle);
    straddles_.back().block = number;
    straddles_.back().next = second.straddles;
    second.straddles = block.straddle;
  }
  const uint64_t key = key_of(block.page, block.rip, block.mode);
  slot_of(key) = {.key = key, .block = number};
  ++blocks_in_table_;
}

Block& CodeCache::add(Arena& arena, const Draft& draft) {
  ASSERT(draft.hot.end <= arena.hot.end && draft.cold.end <= arena.cold.end &&
             draft.exits_end <= arena.exits.end && draft.insns_end <= arena.insns.end,
         "Arena::has_room() knows the most that a block needs");
  const uint32_t number = arena.blocks.next++;
  arena.hot.next = draft.hot.end;
  arena.cold.next = draft.cold.end;
  arena.exits.next = draft.exits_end;
  arena.branches.next = draft.branches_end;
  arena.insns.next = draft.insns_end;
  entered_[arena.number] = {.hot = draft.hot.end, .blocks_end = number + 1};
  Block& block = blocks_[number] = draft.block;
  if ((blocks_in_table_ + 1) * 2 > table_.size()) grow_table();
  enter(number, draft.straddles ? &draft.straddle : nullptr);
  statistics_.blocks += 1;
  statistics_.instructions += draft.guest_instructions;
  statistics_.guest_bytes += draft.guest_bytes;
  statistics_.host_bytes += draft.hot.left() + draft.cold.left();
  return block;
}

// Other vCPUs may be running the jump: its field lies within one cache line and is written in one piece.
void CodeCache::patch(Offset field, Offset target) {
  const uint32_t distance = target - (field + 4);
  __atomic_store_n(reinterpret_cast<uint32_t*>(writable(field)), distance, __ATOMIC_RELEASE);
}

// Whoever jumps to the entry of shared code that checks the page brings its RIP along in kS0; and where an
// exit of shared code leads depends on where it runs. So such jumps are made by a few instructions of their
// own. 0: there is no room.
Offset CodeCache::way_to(const Exit& exit, const Block& source, const Block& target, Arena& arena) {
  if (!source.shared && !target.shared) return target.checked;
  const auto distance = static_cast<int64_t>(exit.target);
  // Where the code runs elsewhere the hash table would lead back to the version with the window.
  if (source.shared && !target.shared && (exit.mode & mode::kNoWindow) != 0) return 0;
  if (arena.generation != generation() || arena.cold.left() < kTrampoline ||
      (source.shared && distance != static_cast<int32_t>(distance)))
    return 0;
  const Offset at = arena.cold.next;
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
  statistics_.host_bytes += a.offset() - at;
  arena.cold.next = a.offset();
  return at;
}

void CodeCache::link(uint32_t number, Block& target, Arena& arena) {
  Exit& exit = exits_[number];
  const Block& source = blocks_[exit.block];
  if (exit.to != kNone || source.dead) return;
  // What runs in another mode must not be reached without whoever changes it.
  if (((exit.mode ^ target.mode) & ~mode::kNoWindow) != 0) return;
  const bool direct = exit.same_page && source.page == target.page && target.straddle == kNone &&
                      (target.entry_flags == 0 || (exit.flags_in_host && !exit.backward));
  // The checked entry finds flags in memory; the cold code of an exit that is not linked puts them there.
  if (!direct && target.entry_flags != 0 && exit.live != 0 && exit.flags_in_host) return;
  const Offset way = direct ? target.entry : way_to(exit, source, target, arena);
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
  __atomic_store_n(reinterpret_cast<uint32_t*>(writable(block.id_field)), kNoPage, __ATOMIC_RELEASE);
  if (block.straddle != kNone)
    __atomic_store_n(reinterpret_cast<uint32_t*>(writable(straddles_[block.straddle].id_field)), kNoPage,
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
  const PhysPage* known = phys_pages_.find(page.value);
  if (known == nullptr) return;
  for (uint32_t number = known->blocks; number != kNone; number = blocks_[number].next_in_page)
    kill(blocks_[number]);
  for (uint32_t number = known->straddles; number != kNone; number = straddles_[number].next)
    kill(blocks_[straddles_[number].block]);
  // What comes next is other code, for which another linear page may be the first.
  phys_pages_.forget(page.value);
}

void CodeCache::flush() {
  pages_.forget_shared();
  const std::lock_guard lock(mutex_);
  empty_tables();
  memory_->give_back(hot_start_, memory_->size());
  ++statistics_.flushes;
  generation_.fetch_add(1, std::memory_order_acq_rel);
}

// ---- from host code to guest code ----

template <class F>
void CodeCache::each_insn(const Block& block, F&& f) const {
  InsnMap insn{.host = block.start};
  const uint8_t* at = &insns_[block.first_insn];
  for (; insn.index < block.count; ++insn.index) {
    const uint8_t head = *at++;
    insn.host += *at++;
    if ((head & 32) != 0) insn.host += unsigned{*at++} << 8;
    insn.host_flags = (head & 16) != 0;
    if (!f(insn)) return;
    insn.guest = (head & 64) != 0 ? uint16_t{0} : static_cast<uint16_t>(insn.guest + (head & 15));
  }
}

const Block* CodeCache::find_host(const uint8_t* host, InsnMap& insn) const {
  const auto at = static_cast<Offset>(host - executable(0));
  const size_t number = at < hot_start_ ? arenas_ : (at - hot_start_) / part_.hot;
  if (number >= arenas_ || at >= entered_[number].hot) return nullptr;
  // An arena's blocks lie in the order of their numbers.
  const Block* first = &blocks_[1 + number * part_.blocks];
  const Block* after =
      std::upper_bound(first, static_cast<const Block*>(&blocks_[entered_[number].blocks_end]), at,
                       [](Offset offset, const Block& block) { return offset < block.start; });
  if (after == first) return nullptr;
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
