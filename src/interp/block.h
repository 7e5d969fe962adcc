// A basic block of bound Ops, and going from one block to the next.
#pragma once

#include <cstdint>

#include "interp/cpu.h"

namespace ostler::interp {

// What a block depends on beside its addresses and bytes. Interned: Cpu::context is an index.
struct BlockContext {
  x86::CodeSize code_size = x86::CodeSize::k16;
  uint8_t cpl = 0;
  bool alignment_check = false;
  bool vex = false;         // VEX encodings exist: not in real and virtual-8086 mode
  bool slow = false;        // one instruction per block, every access through Cpu::linear()
  uint64_t cs_base = 0;     // 0 in 64-bit mode
  uint32_t cs_limit = ~0u;  // ~0 in 64-bit mode

  friend bool operator==(const BlockContext&, const BlockContext&) = default;
};

// 64 bytes, followed by its Ops in the arena: `count` instructions and, unless the last one always leaves the
// block, one that goes on to the next block. Blocks of one vCPU only; never freed one by one.
struct alignas(64) Block {
  static constexpr uint64_t kStale = ~uint64_t{0};

  uint64_t rip = 0;   // offset in the code segment
  uint64_t phys = 0;  // of the first byte
  uint64_t epoch =
      kStale;           // fetch epoch in which rip was last seen to lie at phys; kStale for ever when dead
  Block* link[2] = {};  // where control went last time: [0] falling through or unconditional, [1] taken
  uint32_t next_by_phys = 0;      // chains of the cache's tables, see BlockCache
  uint32_t next_in_page[2] = {};  // of the first and, for a straddling block, the second page
  uint16_t context = 0;
  uint16_t bytes = 0;
  uint8_t count = 0;
  uint8_t op_count = 0;  // with the one that goes on
  bool dead = false;
  bool global = false;  // on a global page: CR3 writes do not change where it lies
  bool straddles =
      false;  // the only instruction crosses into another page, whose frame is in ops()[1].insn.imm

  Op* ops() { return reinterpret_cast<Op*>(this + 1); }
  const Op* ops() const { return reinterpret_cast<const Op*>(this + 1); }
  uint64_t second_page() const { return ops()[1].insn.imm; }
};
static_assert(sizeof(Block) == 64);

// Starts `block`, which is right for the present RIP and context, unless something has to be looked at first
// or its addresses have to be validated again: then leaves to the dispatcher with RIP at the block.
[[gnu::always_inline]] inline const Op* enter(Cpu& cpu, Block* block) {
  if (cpu.pending_.load(std::memory_order_relaxed) != 0 ||
      block->epoch != cpu.mmu.fetch_epoch(block->global) || cpu.budget <= 0) [[unlikely]] {
    cpu.s.rip = block->rip;
    return nullptr;
  }
  cpu.budget -= block->count;
  cpu.block = block;
  cpu.block_rip = block->rip;
  return block->ops();
}

// Goes to where `which` of the running block leads: `target()` when it has not been there yet, which may
// raise what the transfer raises. The dispatcher then remembers the block it finds in Cpu::link.
template <unsigned which, class Target>
[[gnu::always_inline]] inline const Op* follow(Cpu& cpu, Target&& target) {
  Block** link = &cpu.block->link[which];
  if (*link != nullptr) [[likely]] {
    if (const Op* op = enter(cpu, *link)) [[likely]]
      return op;
  } else {
    cpu.s.rip = target();
  }
  cpu.link = link;
  return nullptr;
}

}  // namespace ostler::interp
