// What is known of a translated block. Numbers of blocks, exits and branches start at 1 and are not reused
// before the cache is flushed.
#pragma once

#include <cstdint>

#include "bt/mode.h"

namespace ostler::bt {

using Offset = uint32_t;  // in the code memory
inline constexpr uint32_t kNone = 0;

// A superblock.
struct Block {
  uint64_t rip = 0;  // from the page's start for code that is shared between linear pages
  uint64_t phys = 0;
  uint32_t page = 0;  // number of (linear page, physical page), or of the physical page for shared code
  uint32_t straddle = kNone;      // number of the straddling instruction's other page
  Offset start = 0;               // of the host code
  Offset checked = 0;             // entry that checks that the page is mapped, flags in memory
  Offset entry = 0;               // for jumps from the same page, flags in the host's where live
  uint32_t incoming = kNone;      // exits that lead here, linked by Exit::next
  uint32_t first_exit = 0;        // its own, `exits` of them
  uint32_t first_insn = 0;        // of its bytes in the map of instructions
  uint32_t next_in_page = kNone;  // of the physical page
  Offset id_field = 0;            // where the entry check's number stands, for killing
  uint16_t entry_flags = 0;       // live at the entry
  uint8_t count = 0;              // instructions, of all copies
  uint8_t exits = 0;
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

}  // namespace ostler::bt
