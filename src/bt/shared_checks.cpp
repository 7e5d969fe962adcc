// Which accesses of a block one check covers beside the stack's: docs/bt/design.md, "Shared checks".
#include <algorithm>

#include "bt/guest_code.h"
#include "bt/operands.h"

namespace ostler::bt {
namespace {

constexpr int64_t kWidest = 512;  // bytes; wider ranges would too often cross a page

// Accesses at known distances from each other: base, index and scale are the same and keep their values.
struct Group {
  uint8_t base, index, scale;
  bool write = false;
  bool branched = false;  // the block may be left between the first access and here
  bool open = true;
  uint32_t registers = 0;  // that the address is made of
  int64_t low = 0, high = 0;
  unsigned first = 0, members = 0;
};

uint32_t register_bit(uint8_t offset) {
  return offset < 16 * 8 ? 1u << offset / 8 : 0;
}

bool is_shareable(const GuestInsn& g, unsigned word) {
  const x86::Instruction& insn = g.insn;
  return g.kind == Kind::kGeneric && !g.in_window && insn.has_memory() && insn.segment < x86::kFs &&
         insn.address_size == word;
}

}  // namespace

int64_t share_position(const GuestCode& code, const GuestInsn& g) {
  const int64_t disp = g.insn.disp;
  return g.insn.base == x86::kRipBase ? disp + static_cast<int64_t>(code.next_rip(g) - code.rip) : disp;
}

void plan_sharing(GuestCode& code) {
  std::array<Group, GuestCode::kShares> groups;
  unsigned used = 0;
  bool waiting = code.flags_wait;
  for (unsigned i = 0; i < code.count; ++i) {
    GuestInsn& g = code.insns[i];
    waiting = waiting && !g.touches_flags && g.reads == 0;
    if (is_shareable(g, code.word())) {
      const MemoryUse use = memory_use(g.insn);
      const int64_t from = share_position(code, g), to = from + use.size;
      Group* mine = nullptr;
      for (unsigned n = 0; n < used; ++n) {
        Group& group = groups[n];
        if (!group.open || group.base != g.insn.base || group.index != g.insn.index ||
            group.scale != g.insn.scale)
          continue;
        const int64_t low = std::min(group.low, from), high = std::max(group.high, to);
        // A page that is not written, or not yet, shall not be in the way of what only reads it.
        if (high - low > kWidest || (use.write && !group.write && group.branched)) {
          group.open = false;
          continue;
        }
        group.low = low;
        group.high = high;
        group.write |= use.write;
        mine = &group;
        break;
      }
      if (mine == nullptr && use.size != 0 && used < groups.size() && (code.live_before(g) == 0 || waiting)) {
        mine = &groups[used++];
        *mine = {.base = g.insn.base,
                 .index = g.insn.index,
                 .scale = g.insn.scale,
                 .write = use.write,
                 .registers = register_bit(g.insn.base) | register_bit(g.insn.index),
                 .low = from,
                 .high = to,
                 .first = i};
      }
      if (mine != nullptr) {
        ++mine->members;
        g.share = static_cast<uint8_t>(mine - groups.data() + 1);
      }
    }
    const uint32_t written = written_registers(g);
    for (unsigned n = 0; n < used; ++n) {
      groups[n].open = groups[n].open && (groups[n].registers & written) == 0;
      groups[n].branched |= g.kind == Kind::kCondition;
    }
  }
  for (unsigned n = 0; n < used; ++n) {
    const Group& group = groups[n];
    GuestInsn& first = code.insns[group.first];
    if (group.members < 2) {
      first.share = 0;
      continue;
    }
    first.share_here = true;
    code.shares[n] = {
        .from = group.low, .size = static_cast<uint16_t>(group.high - group.low), .write = group.write};
  }
}

}  // namespace ostler::bt
