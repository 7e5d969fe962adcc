// The translations of a machine, shared by its vCPUs: host code in one memory object that is mapped twice,
// writable and executable, and what is known about it. Everything under one mutex, which nothing is waited
// for under; running translated code takes no lock. See docs/bt/design.md, "The code cache".
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "bt/mode.h"
#include "memory/address.h"
#include "mmu/code_pages.h"

namespace ostler::bt {

using Offset = uint32_t;  // in the code memory
inline constexpr uint32_t kNone = 0;

// A superblock. Numbers from 1; never reused before the cache is flushed.
struct Block {
  uint64_t rip = 0;
  uint64_t phys = 0;
  uint32_t page = 0;         // number of (linear page, physical page)
  uint32_t second_page = 0;  // of a straddling instruction's other page, or kNone
  uint64_t second_phys = 0;
  Offset checked = 0;  // entry that checks that the page is mapped, flags in memory
  Offset entry = 0;    // for jumps from the same page, flags in the host's where live
  Offset end = 0;
  uint16_t entry_flags = 0;  // live at the entry
  uint16_t count = 0;
  uint16_t bytes = 0;
  Mode mode = 0;
  bool dead = false;
  uint32_t incoming = kNone;           // exits that lead here, linked by Exit::next
  uint32_t first_exit = 0, exits = 0;  // its own
  uint32_t first_insn = 0;             // of its instructions in the map of host faults
  uint32_t next_same = kNone;          // in the table's chain
  uint32_t next_in_page[2] = {};       // of the physical page
  uint32_t id_fields[2] = {};          // where the entry check's number stands, for killing
};

// A direct jump out of a block.
struct Exit {
  uint64_t target = 0;     // RIP
  Offset field = 0;        // the jump's rel32
  Offset unlinked = 0;     // where it leads while it is not linked
  uint32_t block = kNone;  // whose it is
  uint32_t to = kNone;
  uint32_t next = kNone;
  uint16_t live = 0;          // flags that are wanted there
  Mode mode = 0;              // of the target
  bool same_page = false;     // needs no check of the target's page
  bool backward = false;      // a loop's jump: it must come by a poll
  bool flags_in_host = true;  // as the target's plain entry wants them; else in memory
};

// Where the host code of a guest instruction begins.
struct InsnMap {
  Offset host = 0;
  uint8_t index = 0;   // of the instruction in the block
  uint16_t guest = 0;  // bytes from the start of the block
  bool host_flags = false;
  int32_t undo = 0;  // indirect branches: what RSP has moved by
};

class CodeCache final : public mmu::SharedCodeObserver {
 public:
  // `bytes`: of host code, at least 1 MiB.
  static Result<std::unique_ptr<CodeCache>> create(mmu::CodePages& pages, size_t bytes);
  ~CodeCache() override;
  CodeCache(const CodeCache&) = delete;
  CodeCache& operator=(const CodeCache&) = delete;

  std::mutex& mutex() { return mutex_; }

  // ---- with the mutex held ----
  uint8_t* writable(Offset at) { return writable_ + at; }
  // Number of a linear page that lies at a physical one.
  uint32_t page_number(uint64_t linear, uint64_t phys);
  // kNone: it has none. Pages are numbered only once there is a block, so that a flush bounds how many there
  // are.
  uint32_t known_page_number(uint64_t linear, uint64_t phys) const;
  // Numbers from before a flush may still stand in TLBs. They are not given out again soon.
  bool is_stale(uint32_t page) const { return page < first_page_; }
  Block* find(uint32_t page, uint64_t rip, Mode mode);
  Block& block(uint32_t number) { return blocks_[number]; }
  uint32_t number_of(const Block& block) const { return static_cast<uint32_t>(&block - blocks_.data()); }

  // Room for one block's code: hot from `hot` up, cold from `cold` up. False: full, flush.
  bool has_room() const { return hot_used_ + kMostHot <= hot_end_ && cold_used_ + kMostCold <= size_; }
  Offset hot() const { return hot_used_; }
  Offset cold() const { return cold_used_; }
  Exit& add_exit() { return exits_.emplace_back(); }
  uint32_t next_exit() const { return static_cast<uint32_t>(exits_.size()); }
  Exit& exit(uint32_t number) { return exits_[number]; }
  std::vector<InsnMap>& insns() { return insns_; }
  uint32_t next_block() const { return static_cast<uint32_t>(blocks_.size()); }
  // Enters a finished block, whose code ends at `hot_end`, `cold_end`.
  Block& add(Block block, Offset hot_end, Offset cold_end);
  void link(uint32_t exit, Block& target);

  // Block and instruction that host code at `host` belongs to; null: none.
  const Block* find_host(const uint8_t* host, InsnMap& insn) const;
  // The block that instruction number `index` of insns() belongs to.
  const Block& block_of_insn(uint32_t index) const;

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
  // The start of the memory, where the routines lie (thunks.h). Once, before anything else.
  void reserve(size_t bytes) { hot_start_ = hot_used_ = static_cast<Offset>(bytes); }

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
  static uint64_t table_key(uint32_t page, uint64_t rip, Mode mode) {
    return (uint64_t{page} << 20 | (rip & 0xfff) << 8 | mode) * 0x9e3779b97f4a7c15;
  }

  mmu::CodePages& pages_;
  std::mutex mutex_;
  uint8_t* writable_ = nullptr;
  const uint8_t* executable_ = nullptr;
  size_t size_ = 0;
  Offset hot_start_ = 0, hot_used_ = 0, hot_end_ = 0, cold_used_ = 0;
  std::atomic<uint64_t> writes_{0}, generation_{1};

  static constexpr unsigned kTableBits = 16;
  std::vector<Block> blocks_;
  std::vector<Exit> exits_;
  std::vector<InsnMap> insns_;
  std::vector<uint32_t> table_;                     // heads of chains by table_key()
  std::unordered_map<uint64_t, uint32_t> by_phys_;  // page -> first block * 2 + which
  struct PageKey {
    uint64_t linear, phys;
    friend bool operator==(const PageKey&, const PageKey&) = default;
  };
  struct PageHash {
    size_t operator()(const PageKey& key) const {
      return (key.linear ^ key.phys * 0x2545f4914f6cdd1d) * 0x9e3779b97f4a7c15 >> 16;
    }
  };
  std::unordered_map<PageKey, uint32_t, PageHash> page_numbers_;
  uint32_t first_page_ = 1, next_page_ = 1;
  Statistics statistics_;
};

}  // namespace ostler::bt
