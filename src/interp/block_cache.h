// The decoded blocks of one vCPU: an arena of fixed size whose older half is evicted when it is full, a
// direct-mapped table by RIP for the dispatcher and indirect branches, a table by guest-physical address
// behind it (which survives address-space switches), and the lists by page that invalidation walks. All on
// the vCPU's thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "interp/block.h"
#include "interp/cpu.h"
#include "mmu/soft_mmu.h"

namespace ostler::interp {

class BlockCache final : public mmu::CodeObserver {
 public:
  // `bytes`: arena size, at least 64 KiB. Memory is taken from the host as it is first used.
  BlockCache(Cpu& cpu, size_t bytes);
  ~BlockCache() override;
  BlockCache(const BlockCache&) = delete;
  BlockCache& operator=(const BlockCache&) = delete;

  // The block at `rip` in `context`. Decodes it if need be; raises what fetching its first instruction
  // raises.
  Block* find(uint64_t rip, uint32_t context);
  // The same when it is at hand; nullptr otherwise.
  Block* probe(uint64_t rip) const {
    Block* block = recent_[recent_index(rip)];
    return block != nullptr && block->rip == rip && block->context == cpu_.context ? block : nullptr;
  }

  uint32_t intern(const BlockContext& context);
  // Interns Cpu::context's variant with one instruction per block and every access checked in full.
  uint32_t intern_slow();
  void flush();
  // The running block is left after the instruction that executes now, and decoded anew when it is next due.
  void leave_running_block() {
    if (cpu_.block != nullptr) kill(cpu_.block);
  }

  bool code_written(GuestPhys page, unsigned first, unsigned last) override;

  struct Statistics {
    uint64_t blocks = 0, instructions = 0, turns = 0, flushes = 0, killed = 0;
  };
  const Statistics& statistics() const { return statistics_; }

 private:
  static constexpr unsigned kRecentBits = 13, kPhysBits = 13, kPageBits = 11;
  static constexpr unsigned kMaxInstructions = 64, kTurnsUntilFlush = 16;
  static constexpr size_t kUnit = 64;  // arena offsets are counted in these; 0 is none

  static unsigned recent_index(uint64_t rip) {
    return (rip ^ (rip >> kRecentBits)) & ((1u << kRecentBits) - 1);
  }
  static unsigned phys_index(uint64_t phys, uint64_t rip) {
    return static_cast<unsigned>((phys * 0x9e3779b97f4a7c15 ^ rip * 0x2545f4914f6cdd1d) >> (64 - kPhysBits));
  }
  static unsigned page_index(uint64_t page) {
    return static_cast<unsigned>(((page >> 12) * 0x9e3779b97f4a7c15) >> (64 - kPageBits));
  }
  Block* at(uint32_t unit) const { return reinterpret_cast<Block*>(arena_ + unit * kUnit); }
  uint32_t unit_of(const Block* block) const {
    return static_cast<uint32_t>((reinterpret_cast<const uint8_t*>(block) - arena_) / kUnit);
  }

  uint64_t linear_of(uint64_t rip, const BlockContext& context) const;
  void check_fetch(uint64_t rip, const BlockContext& context) const;
  Block* find_by_phys(uint64_t phys, uint64_t rip, uint32_t context, uint64_t linear);
  Block* build(uint64_t phys, uint64_t rip, uint32_t context);
  // Reads and decodes the instruction that starts at `rip` and crosses its page's end. The second page's
  // frame goes to `second_page`. Raises #PF. False when the bytes must not be kept.
  bool decode_straddling(uint64_t phys, uint64_t rip, const BlockContext& context, Op& op,
                         uint64_t& second_page);
  void bind_op(Op& op, uint64_t rip, const BlockContext& context);
  void add_to_page(Block* block, uint64_t phys, unsigned which);
  void enter_tables(Block* block);
  void turn();
  size_t half() const { return size_ / 2; }
  void kill(Block* block);
  void log_block(const Block* block) const;

  Cpu& cpu_;
  uint8_t* arena_ = nullptr;
  size_t size_;
  // Blocks go to one half of the arena, from `used_` up; the other half keeps the generation before.
  size_t end_of_half_;
  size_t used_ = kUnit;
  unsigned turns_ = 0;
  std::vector<BlockContext> contexts_;
  std::array<Block*, size_t{1} << kRecentBits> recent_{};
  std::array<uint32_t, size_t{1} << kPhysBits> by_phys_{};
  // Heads of lists whose links are 2 * unit + which of the block's pages the list is of.
  std::array<uint32_t, size_t{1} << kPageBits> by_page_{};
  uint64_t writes_seen_ = 0;  // calls of code_written()
  Statistics statistics_;
};

}  // namespace ostler::interp
