// The translations of a machine, shared by its vCPUs: host code in one memory object that is mapped twice,
// writable and executable, and what is known about it. Everything under one mutex, which nothing is waited
// for under; running translated code takes no lock. See docs/bt/design.md, "The code cache".
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
#include "bt/mode.h"
#include "memory/address.h"
#include "mmu/code_pages.h"

namespace ostler::bt {

using Offset = uint32_t;  // in the code memory
inline constexpr uint32_t kNone = 0;

// A superblock. Numbers from 1, in the order of their code; never reused before the cache is flushed.
struct Block {
  uint64_t rip = 0;  // from the page's start for code that is shared between linear pages
  uint64_t phys = 0;
  uint32_t page = 0;  // number of (linear page, physical page), or of the physical page for shared code
  uint32_t straddle = kNone;      // number of the straddling instruction's other page
  Offset start = 0;               // of the host code, which ends where the next block's starts
  Offset checked = 0;             // entry that checks that the page is mapped, flags in memory
  Offset entry = 0;               // for jumps from the same page, flags in the host's where live
  uint32_t incoming = kNone;      // exits that lead here, linked by Exit::next
  uint32_t first_exit = 0;        // its own: up to the next block's
  uint32_t first_insn = 0;        // of its bytes in the map of instructions
  uint32_t next_in_page = kNone;  // of the physical page
  Offset id_field = 0;            // where the entry check's number stands, for killing
  uint16_t entry_flags = 0;       // live at the entry
  uint8_t count = 0;              // instructions
  Mode mode = 0;
  bool shared = false;  // runs wherever its page is mapped
  bool dead = false;

  // What its addresses count from when it runs in the linear page at `page_base`.
  uint64_t base(uint64_t page_base) const { return shared ? page_base : 0; }
  // Of the instruction `offset` bytes on.
  uint64_t address(uint64_t offset, uint64_t page_base) const { return base(page_base) + rip + offset; }
};
static_assert(sizeof(Block) == 64);

// What a block has of the second page of an instruction that straddles.
struct Straddle {
  uint64_t phys = 0;
  uint32_t page = kNone;  // number
  uint32_t block = kNone;
  uint32_t next = kNone;  // in the physical page's list
  Offset id_field = 0;
};

// A direct jump out of a block.
struct Exit {
  uint64_t target = 0;     // RIP; from the page's start for shared code
  Offset field = 0;        // the jump's rel32
  Offset unlinked = 0;     // where it leads while it is not linked
  uint32_t block = kNone;  // whose it is
  uint32_t to = kNone;
  uint32_t next = kNone;
  uint16_t live = 0;              // flags that are wanted there
  Mode mode = 0;                  // of the target
  bool same_page : 1 = false;     // needs no check of the target's page
  bool backward : 1 = false;      // a loop's jump: it must come by a poll
  bool flags_in_host : 1 = true;  // as the target's plain entry wants them; else in memory
};
static_assert(sizeof(Exit) == 32);

// Where the host code of a guest instruction begins.
struct InsnMap {
  Offset host = 0;
  uint8_t index = 0;   // of the instruction in the block
  uint16_t guest = 0;  // bytes from the start of the block
  bool host_flags = false;
};

// An indirect branch, whose target may turn out not to be canonical.
struct IndirectBranch {
  uint32_t block;
  uint16_t guest;  // bytes from the start of the block
  int32_t undo;    // what RSP has moved by
};

class CodeCache final : public mmu::SharedCodeObserver {
 public:
  // `bytes`: of host code, at least 1 MiB.
  static Result<std::unique_ptr<CodeCache>> create(mmu::CodePages& pages, size_t bytes);
  ~CodeCache() override;
  CodeCache(const CodeCache&) = delete;
  CodeCache& operator=(const CodeCache&) = delete;

  AdaptiveMutex& mutex() { return mutex_; }

  // ---- with the mutex held ----
  uint8_t* writable(Offset at) { return writable_ + at; }

  // Code is found by a page's number: of (linear page, physical page), or for code that is shared between
  // linear pages, of the physical page alone. Numbers mean nothing after a flush.
  struct PageNumbers {
    uint32_t own = kNone, shared = kNone;
  };
  // Those that code at this place has been found by so far.
  PageNumbers known_page(uint64_t linear, uint64_t phys) const;
  uint32_t own_page(uint64_t linear, uint64_t phys);
  // Whether new code at this place had better be shared: it lies at another linear page too.
  bool better_shared(uint64_t linear, uint64_t phys) const;
  uint32_t shared_page(uint64_t phys);

  Block* find(uint32_t page, uint64_t rip, Mode mode);
  Block& block(uint32_t number) { return blocks_[number]; }
  uint32_t number_of(const Block& block) const { return static_cast<uint32_t>(&block - blocks_.data()); }
  const Straddle& straddle(const Block& block) const { return straddles_[block.straddle]; }

  // Room for one block's code: hot from `hot` up, cold from `cold` up. False: full, flush.
  bool has_room() const;
  Offset hot() const { return hot_used_; }
  Offset cold() const { return cold_used_; }
  Exit& add_exit() { return exits_.add({}); }
  uint32_t next_exit() const { return static_cast<uint32_t>(exits_.size()); }
  Exit& exit(uint32_t number) { return exits_[number]; }
  uint32_t exits_end(const Block& block) const {
    return number_of(block) + 1 == blocks_.size() ? next_exit() : blocks_[number_of(block) + 1].first_exit;
  }
  uint32_t next_block() const { return static_cast<uint32_t>(blocks_.size()); }
  uint32_t add_branch(const IndirectBranch& branch);
  const IndirectBranch& branch(uint32_t number) const { return branches_[number]; }
  // Enters a finished block, whose code ends at `hot_end`, `cold_end`, with the map of its instructions.
  // `guest_bytes` of guest code.
  Block& add(Block block, Offset hot_end, Offset cold_end, std::span<const InsnMap> insns,
             unsigned guest_bytes, const Straddle* straddle = nullptr);
  void link(uint32_t exit, Block& target);
  Offset end_of(const Block& block) const {
    return number_of(block) + 1 == blocks_.size() ? hot_used_ : blocks_[number_of(block) + 1].start;
  }

  // Block and instruction that host code at `host` belongs to; null: none.
  const Block* find_host(const uint8_t* host, InsnMap& insn) const;
  // The instruction `guest` bytes from the block's start.
  InsnMap insn_at(const Block& block, unsigned guest) const;

  // ---- any thread ----
  const uint8_t* executable(Offset at) const { return executable_ + at; }
  bool contains(const void* host) const {
    const auto* p = static_cast<const uint8_t*>(host);
    return p >= executable_ && p < executable_ + size_;
  }
  // Counts writes to translated code; what was read before one may be stale.
  uint64_t writes() const { return writes_.load(std::memory_order_acquire); }
  // Counts flushes: host addresses of an earlier generation mean nothing.
  uint64_t generation() const { return generation_.load(std::memory_order_acquire); }
  // Forgets everything. Every vCPU is out of translated code (VcpuGroup::run_exclusive).
  void flush();
  // The same because it is full; the next time it may come to be larger.
  void make_room();
  // The start of the memory, where the routines lie (routines.h); `user_lookup` is among them. Once, before
  // anything else.
  void reserve(size_t bytes, Offset user_lookup) {
    hot_start_ = hot_used_ = static_cast<Offset>(bytes);
    user_lookup_ = user_lookup;
  }

  void shared_code_written(GuestPhys page, unsigned first, unsigned last) override;

  struct Statistics {
    uint64_t blocks = 0, instructions = 0, guest_bytes = 0, host_bytes = 0, nanoseconds = 0, killed = 0,
             flushes = 0, links = 0;
  };
  Statistics& statistics() { return statistics_; }

  static constexpr size_t kMostHot = 64 * 1024, kMostCold = 32 * 1024;  // of one block

 private:
  explicit CodeCache(mmu::CodePages& pages) : pages_(pages) {}
  void kill(Block& block);
  void patch(Offset field, Offset target);
  Offset way_to(const Exit& exit, const Block& source, const Block& target);
  static uint64_t key_of(uint32_t page, uint64_t rip, Mode mode) {
    return uint64_t{page} << 20 | (rip & 0xfff) << 8 | mode;
  }

  mmu::CodePages& pages_;
  AdaptiveMutex mutex_;
  uint8_t* writable_ = nullptr;
  const uint8_t* executable_ = nullptr;
  size_t size_ = 0;
  Offset hot_start_ = 0, hot_used_ = 0, hot_end_ = 0, cold_used_ = 0;
  std::atomic<uint64_t> writes_{0}, generation_{1};

  // Open addressing; a key says all there is to say about a block.
  struct Slot {
    uint64_t key = 0;  // 0: free
    uint64_t block = kNone;
  };
  Slot& slot_of(uint64_t key);
  void grow_table();
  // By physical page.
  struct PhysPage {
    uint64_t linear = 0;      // the first linear page that its code was found at
    uint32_t own = kNone;     // number of the two
    uint32_t shared = kNone;  // number of its shared code
    uint32_t blocks = kNone;  // linked by Block::next_in_page
    uint32_t straddles = kNone;
  };
  void empty_tables();
  void set_limit(size_t bytes);
  uint32_t new_page_number();
  void commit(Offset& committed, Offset used, Offset end);
  template <class F>
  void each_insn(const Block& block, F&& f) const;

  ReservedArray<Block> blocks_;
  ReservedArray<Exit> exits_;
  ReservedArray<uint8_t> insns_;
  ReservedArray<IndirectBranch> branches_;
  std::vector<Straddle> straddles_;
  std::vector<Slot> table_;
  std::unordered_map<uint64_t, PhysPage> by_phys_;
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
  Offset hot_committed_ = 0, cold_committed_ = 0;
  Offset hot_limit_ = 0, cold_limit_ = 0;  // where code may go at present
  std::chrono::steady_clock::time_point last_full_;
  Statistics statistics_;
};

}  // namespace ostler::bt
