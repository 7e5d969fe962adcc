// Which accesses of a block one check covers beside the stack's: docs/bt/design.md, "Shared checks".
#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "bt/guest_code.h"
#include "bt/operands.h"

namespace ostler::bt {
namespace {

constexpr int64_t kWidest = 512;  // bytes; wider ranges would too often cross a page

// Accesses at known distances from each other: base, index and scale are the same and keep their values.
struct Group {  // written when it is opened, so no defaults
  uint8_t base, index, scale;
  bool write;
  bool open;
  uint8_t branches;    // of the block before the first access
  uint32_t registers;  // that the address is made of
  int64_t low, high;
  int64_t moved;  // of its addresses, by what their registers have moved since the first access
  unsigned first, members;
};

uint32_t register_bit(uint8_t offset) {
  return offset < 16 * 8 ? 1u << offset / 8 : 0;
}

// One of its registers is written.
void follow(Group& group, const RegisterStep& step) {
  const auto offset = static_cast<uint8_t>(step.number * 8);
  if (group.base == offset) group.moved += step.amount;
  if (group.index == offset) group.moved += step.amount * (1 << group.scale);
  const bool near = step.amount > -kWidest && step.amount < kWidest;
  if (step.amount == 0 || !near || std::abs(group.moved) > 2 * kWidest) group.open = false;
}

}  // namespace

int64_t share_position(const GuestCode& code, const GuestInsn& g) {
  const int64_t disp = g.insn.disp;
  return g.insn.base == x86::kRipBase ? disp + static_cast<int64_t>(code.next_rip(g) - code.rip) : disp;
}

void plan_sharing(GuestCode& code) {
  if (code.shareable < 2) return;
  std::array<Group, GuestCode::kShares> groups;
  unsigned used = 0;
  uint32_t registers = 0;  // that addresses of groups are made of
  uint8_t branches = 0;
  bool waiting = code.flags_wait;
  for (unsigned i = 0; i < code.count; ++i) {
    GuestInsn& g = code.insns[i];
    waiting = waiting && !g.touches_flags && g.reads == 0;
    if (g.shareable && !g.in_window) {
      const int64_t position = share_position(code, g);
      Group* mine = nullptr;
      for (unsigned n = 0; n < used; ++n) {
        Group& group = groups[n];
        if (!group.open || group.base != g.insn.base || group.index != g.insn.index ||
            group.scale != g.insn.scale)
          continue;
        const int64_t from = position + group.moved;
        const int64_t low = std::min(group.low, from), high = std::max(group.high, from + g.memory_size);
        // A page that is not written, or not yet, shall not be in the way of what only reads it. Once the
        // block may have been left since the first access, a write does not join.
        const bool fits = low >= INT32_MIN || group.base == x86::kRipBase;  // it becomes a displacement
        if (high - low > kWidest || !fits || (g.memory_write && !group.write && branches != group.branches)) {
          group.open = false;
          continue;
        }
        group.low = low;
        group.high = high;
        group.write |= g.memory_write;
        mine = &group;
        break;
      }
      if (mine == nullptr && g.memory_size != 0 && used < groups.size() &&
          (code.live_before(g) == 0 || waiting)) {
        mine = &groups[used++];
        *mine = {.base = g.insn.base,
                 .index = g.insn.index,
                 .scale = g.insn.scale,
                 .write = g.memory_write,
                 .open = true,
                 .branches = branches,
                 .registers = register_bit(g.insn.base) | register_bit(g.insn.index),
                 .low = position,
                 .high = position + g.memory_size,
                 .moved = 0,
                 .first = i,
                 .members = 0};
        registers |= mine->registers;
      }
      if (mine != nullptr) {
        ++mine->members;
        g.share = static_cast<uint8_t>(mine - groups.data() + 1);
        g.moved = static_cast<int16_t>(mine->moved);
      }
    }
    if (g.kind == Kind::kCondition) ++branches;
    if ((g.written & registers) == 0) continue;
    const RegisterStep step = register_step(g, code.word());
    for (unsigned n = 0; n < used; ++n)
      if ((groups[n].registers & g.written) != 0) follow(groups[n], step);
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
