// The translations of a machine, shared by its vCPUs, and what is known about them. Everything under one
// mutex, which nothing is waited for under; running translated code takes no lock, nor does making it: a vCPU
// writes into an arena of its own. See docs/bt/design.md, "The code cache".
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/adaptive_mutex.h"
#include "base/reserved_array.h"
#include "base/result.h"
#include "bt/arena.h"
#include "bt/block.h"
#include "bt/code_memory.h"
#include "bt/mode.h"
#include "bt/phys_pages.h"
#include "memory/address.h"
#include "mmu/code_pages.h"

namespace ostler::bt {

class CodeCache final : public mmu::SharedCodeObserver {
 public:
  // `bytes`: of host code, at least 1 MiB, and more than asked for if that is not enough for `vcpus`.
  static Result<std::unique_ptr<CodeCache>> create(mmu::CodePages& pages, size_t bytes, unsigned vcpus);
  ~CodeCache() override;
  CodeCache(const CodeCache&) = delete;
  CodeCache& operator=(const CodeCache&) = delete;

  AdaptiveMutex& mutex() { return mutex_; }

  // ---- with the mutex held ----

  // Code is found by a page's number: of (linear page, physical page), or for code that is shared between
  // linear pages, of the physical page alone. Numbers mean nothing after a flush.
  struct PageNumbers {
    uint32_t own = kNone, shared = kNone;
    uint64_t version = 0;  // of the physical page
  };
  // Those that code at this place has been found by so far.
  PageNumbers known_page(uint64_t linear, uint64_t phys) const;
  uint32_t own_page(uint64_t linear, uint64_t phys);
  // Whether new code at this place had better be shared: it lies at another linear page too.
  bool better_shared(uint64_t linear, uint64_t phys) const;
  uint32_t shared_page(uint64_t phys);
  // Another one after the page, which is known, was written. 0: it is not known any more.
  uint64_t version_of(uint64_t phys) const;

  Block* find(uint32_t page, uint64_t rip, Mode mode);
  // It will be looked for soon: asks the host for what find() looks at.
  void expect(uint32_t page, uint64_t rip, Mode mode) const {
    __builtin_prefetch(&table_[first_slot_of(key_of(page, rip, mode))]);
  }
  Block& block(uint32_t number) { return blocks_[number]; }
  uint32_t number_of(const Block& block) const { return static_cast<uint32_t>(&block - &blocks_[0]); }
  const Straddle& straddle(const Block& block) const { return straddles_[block.straddle]; }

  // Whether there is no arena left: make_room().
  bool is_full() const;
  bool take_arena(Arena& arena);
  // Enters the block that has been written into its arena.
  Block& add(Arena& arena, const Draft& draft);
  // Room for what leads there, if it takes more than the jump, is taken from the caller's arena.
  void link(uint32_t exit, Block& target, Arena& arena);

  // Block and instruction that host code at `host` belongs to; null: none.
  const Block* find_host(const uint8_t* host, InsnMap& insn) const;
  // The instruction `guest` bytes from the block's start, in its first copy.
  InsnMap insn_at(const Block& block, unsigned guest) const;

  // ---- the owner of an arena ----
  // Makes its memory present: page faults one by one cost more than half of the time there is for a
  // translation.
  void populate(const Arena& arena);
  uint8_t* writable(Offset at) { return memory_->writable(at); }
  Exit& exit(uint32_t number) { return exits_[number]; }
  IndirectBranch& branch(uint32_t number) { return branches_[number]; }
  // Where the map of a block's instructions is written: add_to_map() for each, in their order.
  uint8_t* map_at(const Arena& arena) { return &insns_[arena.insns.next]; }
  // An instruction of `length` bytes, whose host code begins `distance` bytes behind that of the one before,
  // or of the block. `again`: the next one is the block's first again. Returns where the next one goes;
  // writes three bytes.
  static uint8_t* add_to_map(uint8_t* at, unsigned length, unsigned distance, bool host_flags,
                             bool again = false) {
    const unsigned wide = distance > 0xff ? 1 : 0;
    at[0] = static_cast<uint8_t>(length | (host_flags ? 16u : 0u) | wide << 5 | (again ? 64u : 0u));
    at[1] = static_cast<uint8_t>(distance);
    at[2] = static_cast<uint8_t>(distance >> 8);
    return at + 2 + wide;
  }
  uint32_t map_end(const uint8_t* at) const { return static_cast<uint32_t>(at - &insns_[0]); }

  // ---- any thread ----
  const uint8_t* executable(Offset at) const { return memory_->executable(at); }
  bool contains(const void* host) const {
    const auto* p = static_cast<const uint8_t*>(host);
    return p >= executable(0) && p < executable(0) + memory_->size();
  }
  // Counts writes to translated code; what was read before one may be stale.
  uint64_t writes() const { return writes_.load(std::memory_order_acquire); }
  // Counts flushes and evictions: host addresses and arenas of an earlier generation mean nothing.
  uint64_t generation() const { return generation_.load(std::memory_order_acquire); }
  // Forgets everything. Every vCPU is out of translated code (VcpuGroup::run_exclusive).
  void flush();
  // The same for the older half of what there is; or it may be larger from now on.
  void make_room();
  // The start of the memory, where the routines lie (routines.h); `user_lookup` is among them. Once, before
  // anything else.
  void reserve(size_t bytes, Offset user_lookup);
  Offset arenas_start() const { return hot_start_; }

  void shared_code_written(GuestPhys page, unsigned first, unsigned last) override;

  struct Statistics {
    uint64_t blocks = 0, instructions = 0, guest_bytes = 0, host_bytes = 0, killed = 0, flushes = 0,
             evictions = 0, links = 0;
    std::atomic<uint64_t> ticks{0};  // of the TSC that translations took; without the mutex
  };
  Statistics& statistics() { return statistics_; }

 private:
  explicit CodeCache(mmu::CodePages& pages) : pages_(pages) {}
  void kill(Block& block);
  void patch(Offset field, Offset target);
  Offset way_to(const Exit& exit, const Block& source, const Block& target, Arena& arena);
  static uint64_t key_of(uint32_t page, uint64_t rip, Mode mode) {
    return uint64_t{page} << 20 | (rip & 0xfff) << 8 | mode;
  }

  mmu::CodePages& pages_;
  AdaptiveMutex mutex_;
  std::unique_ptr<CodeMemory> memory_;
  unsigned vcpus_ = 1;
  Offset hot_start_ = 0, cold_start_ = 0;
  // Arena n has the nth part of each.
  struct Parts {
    uint32_t hot = 0, cold = 0, blocks = 0, exits = 0, branches = 0, insns = 0;
  };
  Parts part_;
  uint32_t arenas_ = 0, arenas_limit_ = 0;  // that there is room for, and that may be taken at present
  size_t limit_ = 0;                        // the same in bytes
  // By arena: what has been entered.
  struct Entered {
    Offset hot = 0;
    uint32_t blocks_end = 0;
  };
  std::vector<Entered> entered_;
  std::vector<uint32_t> taken_, free_;  // taken_: the oldest first
  std::atomic<uint64_t> writes_{0}, generation_{1};

  // Open addressing; a key says all there is to say about a block.
  struct Slot {
    uint64_t key = 0;  // 0: free
    uint64_t block = kNone;
  };
  size_t first_slot_of(uint64_t key) const;
  Slot& slot_of(uint64_t key);
  void grow_table();
  void empty_tables();
  void enter(uint32_t number, const Straddle* straddle);
  size_t first_limit() const;
  void evict();
  std::vector<bool> take_back_arenas();
  void forget_blocks();
  template <class F>
  void each_live_block(F&& f);
  void link_again(Exit& exit, uint32_t number, const std::vector<bool>& stay);
  void set_limit(size_t bytes);  // of host code
  uint32_t new_page_number();
  // The map of instructions is two or three bytes for each: bits 0 to 3 the guest's length, 4 whether the
  // host's flags are the guest's, 5 whether what follows is two bytes, 6 whether the next one is the block's
  // first again; then how far behind the one before its host code starts. Calls f(InsnMap) for the block's
  // instructions until it returns false.
  template <class F>
  void each_insn(const Block& block, F&& f) const;

  ReservedArray<Block> blocks_;
  ReservedArray<Exit> exits_;
  ReservedArray<uint8_t> insns_;
  ReservedArray<IndirectBranch> branches_;
  std::vector<Straddle> straddles_;
  std::vector<Slot> table_;
  size_t blocks_in_table_ = 0;
  PhysPages phys_pages_;
  struct PageKey {
    uint64_t linear, phys;
    friend bool operator==(const PageKey&, const PageKey&) = default;
  };
  struct PageHash {
    size_t operator()(const PageKey& key) const {
      return (key.linear ^ key.phys * 0x2545f4914f6cdd1d) * 0x9e3779b97f4a7c15 >> 16;
    }
  };
  std::unordered_map<PageKey, uint32_t, PageHash> other_pages_;  // numbers beside PhysPage::own
  uint32_t next_page_ = 1;
  Offset user_lookup_ = 0;
  std::chrono::steady_clock::time_point last_full_;
  Statistics statistics_;
};

}  // namespace ostler::bt
