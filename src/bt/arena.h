// A vCPU's own part of the code cache: room for host code, and the numbers that go with it. Its owner writes
// translations there without a lock; they exist for others once CodeCache::add() has entered them.
#pragma once

#include "bt/block.h"

namespace ostler::bt {

// From the first one that is free up to the end of the arena's.
struct Range {
  uint32_t next = 0, end = 0;
  uint32_t left() const { return end - next; }
};

struct Arena {
  uint32_t number = 0;      // in the cache
  uint64_t generation = 0;  // of the cache; 0: none
  Range hot, cold;          // offsets
  Range blocks, exits, branches, insns;

  // Whether a block of `count` instructions fits, whatever they are.
  bool has_room(unsigned count) const {
    return hot.left() >= kHotOfInsn * (count + 2) && cold.left() >= kColdOfInsn * (count + 2) &&
           blocks.left() != 0 && exits.left() >= kExitsOfInsn * (count + 2) && branches.left() != 0 &&
           insns.left() >= kMapOfInsn * count;
  }

  // What an instruction may need at most. Up to 48 bytes behind what is written are written over: the room
  // for two more instructions is for that, too.
  static constexpr uint32_t kHotOfInsn = 1024, kColdOfInsn = 512, kExitsOfInsn = 3, kMapOfInsn = 3;
};

// A translation that is written into an arena, but not entered.
struct Draft {
  Block block{};
  Straddle straddle{};
  bool straddles = false;
  unsigned guest_bytes = 0, guest_instructions = 0;  // each once
  Range hot{}, cold{};                               // offsets of its code
  uint32_t exits_end = 0, branches_end = 0, insns_end = 0;
};

}  // namespace ostler::bt
