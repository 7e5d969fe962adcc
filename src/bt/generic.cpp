// Instructions that run on the host as they are, but for the names of registers and the address of their
// memory operand.
#include <cstring>
#include <iterator>

#include "bt/form.h"
#include "bt/operands.h"
#include "bt/translator.h"

namespace ostler::bt {

using x86::Instruction;
using x86::Opcode;

namespace {

constexpr HostMem kHere{.base = kS0, .index = kS1};

// Its operand's address is a host register and a displacement.
bool is_at_register(const Instruction& insn) {
  return insn.base < 16 * 8 && host_reg(insn.base / 8) != kNoReg && insn.index == x86::kNoRegister &&
         insn.address_size == 8 && insn.segment < x86::kFs;
}

}  // namespace

void Translator::reencode(const GuestInsn& g, const Renaming& r, const HostMem& mem) {
  const Instruction& insn = g.insn;
  const uint8_t opcode = r.opcode;
  const uint8_t b = r.memory ? (mem.base == kNoReg ? 0 : mem.base) : r.rm;
  const uint8_t x = r.memory && mem.index != kNoReg ? mem.index : 0;
  if (r.raw.vex) {
    const unsigned pp = insn.prefix == 0x66 ? 1 : insn.prefix == 0xf3 ? 2 : insn.prefix == 0xf2 ? 3 : 0;
    hot_.u8(0xc4);
    hot_.u8((r.reg < 8 ? 0x80 : 0) | (x < 8 ? 0x40 : 0) | (b < 8 ? 0x20 : 0) | insn.map);
    hot_.u8((insn.vex_w ? 0x80 : 0) | (~r.vvvv & 15) << 3 | (insn.vex_l ? 4 : 0) | pp);
    hot_.u8(opcode);
  } else {
    if (insn.lock) hot_.u8(0xf0);
    if (r.raw.operand_size) hot_.u8(0x66);
    if (r.raw.repeat != 0 && (insn.map != 0 || insn.opcode == Opcode::kPause)) hot_.u8(r.raw.repeat);
    const unsigned rex = (r.raw.rex & 8) | (r.reg >> 3) << 2 | (x >> 3) << 1 | b >> 3;
    if (rex != 0 || r.needs_rex) hot_.u8(0x40 | rex);
    if (insn.map != 0) hot_.u8(0x0f);
    if (insn.map == 2) hot_.u8(0x38);
    if (insn.map == 3) hot_.u8(0x3a);
    hot_.u8(r.opcode_reg ? (opcode & 0xf8) | (r.rm & 7) : opcode);
  }
  if (r.has_modrm) {
    if (r.memory)
      hot_.modrm(r.reg, mem);
    else
      hot_.u8(0xc0 | (r.reg & 7) << 3 | (r.rm & 7));
  }
  for (unsigned i = r.raw.imm_at; i < insn.length; ++i) hot_.u8(g.bytes[i]);
}

// Where the host finds the memory operand, once it is checked. `needs`: so many registers that live in memory
// are to be loaded beside it. `s0_is_free`: kS0 is left for one of them.
HostMem Translator::memory_operand(const GuestInsn& g, unsigned size, bool write, unsigned needs,
                                   bool may_be_direct, bool& s0_is_free) {
  s0_is_free = g.in_window;
  HostMem mem = kHere;
  if (g.in_window) {
    mem = in_window(static_cast<int32_t>(g.insn.disp));
    if (needs <= 1) return mem;
    held_share_ = 0;
  } else if (g.share != 0) {
    return shared_operand(g, needs == 0);
  } else {
    const Direction direction = write ? Direction::kWrite : Direction::kRead;
    if (live_before(g) != 0 && host_valid_ && !memory_valid_ && keep_flags_ &&
        (wide() || g.insn.segment < x86::kFs)) {
      address_keeping_flags(g);
      check_keeping_flags(g, size, direction);
    } else if (direct_ && may_be_direct && is_at_register(g.insn)) {
      free_flags(live_before(g));
      mem = checked_at_register(g, size, direction);
      s0_is_free = true;
    } else {
      free_flags(live_before(g));
      address(g);
      check(g, size, direction);
    }
    if (needs <= (s0_is_free ? 1 : 0)) return mem;
  }
  hot_.lea(kS0, mem);
  return {.base = kS0};
}

// The flags that it reads, or leaves as they are where others do not, are in the host's now.
void Translator::flags_for(const GuestInsn& g) {
  if (g.reads != 0 || (g.touches_flags && (g.live_after & ~g.writes) != 0)) want_flags();
  host_flags_ = host_valid_ && !memory_valid_;
}

void Translator::generic(const GuestInsn& g) {
  const Form& form = g.form;
  if (!form.simple) return renamed(g);
  if (form.verbatim) {
    flags_for(g);
    hot_.copy(g.bytes, g.insn.length);
    if (g.touches_flags && g.reads + g.writes != 0) flags_set();
    return;
  }
  HostMem mem;
  bool s0_is_free = false;
  if (form.memory) mem = memory_operand(g, g.memory_size, g.memory_write, 0, true, s0_is_free);
  flags_for(g);
  const unsigned rex = form.rex | (form.memory ? Assembler::rex_bits(false, 0, mem) : 0u);
  uint64_t lead = form.prefix;
  unsigned bits = form.has_prefix ? 8 : 0;
  const auto add = [&](uint64_t value, unsigned size) {
    lead |= value << bits;
    bits += size;
  };
  if (rex != 0) add(0x40 | rex, 8);
  if (form.map != 0) add(form.map == 1 ? 0x0f : form.map == 2 ? 0x380f : 0x3a0f, form.map == 1 ? 8 : 16);
  add(form.opcode, 8);
  if (form.memory) {
    hot_.put(lead, bits / 8);
    hot_.modrm(form.modrm >> 3, mem);
  } else {
    if (form.has_modrm) add(form.modrm, 8);
    hot_.put(lead, bits / 8);
  }
  // Eight at most; what is behind them in the block's copy of the code is there to be read.
  uint64_t immediate;
  std::memcpy(&immediate, g.bytes + g.insn.length - form.imm_bytes, sizeof immediate);
  hot_.put(immediate, form.imm_bytes);
  if (g.share_here) keep_shared(g);
  if (g.touches_flags && g.reads + g.writes != 0) flags_set();
}

// One with a register that lives in memory, or an encoding that takes more thought.
void Translator::renamed(const GuestInsn& g) {
  const Instruction& insn = g.insn;
  Renaming r = renaming_of(insn, g.bytes, bits32());
  const unsigned count = r.count;
  const int high = r.high;
  HostMem mem;
  bool s0_is_free = g.in_window;
  // The swap for AH would change the base.
  if (r.memory) {
    const auto [size, write] = memory_use(insn);
    mem = memory_operand(g, size, write, count, high < 0, s0_is_free);
  }
  flags_for(g);

  // Destinations that are only written share a scratch register with a source.
  const bool one_is_free = s0_is_free && count == 1;
  Reg next = r.memory && !one_is_free ? kS1 : kS0;
  Reg scratch[std::size(Renaming{}.slots)] = {kNoReg, kNoReg, kNoReg, kNoReg};
  const auto take = [&] {
    const Reg reg = next;
    next = kS1;
    return reg;
  };
  for (unsigned i = count; i-- > 0;) {
    const Renaming::Slot& slot = r.slots[i];
    for (unsigned j = i + 1; j < count && scratch[i] == kNoReg; ++j)
      if (r.slots[j].guest == slot.guest) scratch[i] = scratch[j];
    if (scratch[i] == kNoReg && slot.reads) scratch[i] = take();
  }
  // MULX has two of those. A memory operand's address may be overwritten: it is used up by then.
  for (unsigned i = 0; i < count; ++i) {
    if (scratch[i] != kNoReg) continue;
    scratch[i] = kS1;
    for (unsigned j = 0; j < count; ++j) {
      if (j == i || !r.slots[j].writes || scratch[j] == kNoReg) continue;
      if (r.slots[j].guest == r.slots[i].guest)
        scratch[i] = scratch[j];  // the high half wins
      else if (scratch[j] == kS1)
        scratch[i] = kS0;
    }
  }
  for (unsigned i = 0; i < count; ++i) {
    r.*r.slots[i].field = scratch[i];
    forget_held(scratch[i]);
    if (r.slots[i].reads) hot_.load(scratch[i], gpr_at(r.slots[i].guest));
  }

  // With a REX prefix AH cannot be named: AL takes its place for the moment.
  const bool swap = high >= 0 && (r.memory || r.reg >= 8 || r.rm >= 8 || r.needs_rex);
  const auto swap_bytes = [&] {
    hot_.u8(0x86);
    hot_.u8(0xc0 | static_cast<unsigned>(high) << 3 | (static_cast<unsigned>(high) + 4));
  };
  if (swap) {
    if (r.memory || r.rm != high + 4)
      r.reg = static_cast<uint8_t>(high);
    else
      r.rm = static_cast<uint8_t>(high);
    swap_bytes();
  }
  reencode(g, r, mem);
  if (swap) swap_bytes();
  if (g.share_here && count == 0) keep_shared(g);
  for (unsigned i = 0; i < count; ++i)
    if (r.slots[i].writes) hot_.store(gpr_at(r.slots[i].guest), scratch[i]);
  if (g.touches_flags && g.reads + g.writes != 0) flags_set();
}

void Translator::lea(const GuestInsn& g) {
  const Instruction& insn = g.insn;
  const unsigned guest = insn.operand[0].index / 8;
  const Reg to = host_reg(guest);
  const Reg reg = to == kNoReg ? kS1 : to;
  const bool partial = insn.operand_size == 2;
  if (to == kNoReg) forget_held(kS1);
  if (partial) forget_held(kS0);
  const auto move_word_from_s0 = [&](Reg r) {
    hot_.u8(0x66);  // MOV r16, r14w
    hot_.u8(0x44 | r >> 3);
    hot_.u8(0x89);
    hot_.u8(0xc0 | 6 << 3 | (r & 7));
  };
  if (insn.base == x86::kRipBase) {
    const uint64_t target = code_->next_rip(g) + static_cast<uint64_t>(insn.disp);
    const bool wide = insn.address_size == 8 && insn.operand_size == 8;
    rip_to(hot_, partial ? kS0 : reg, target, wide);
    if (partial) {
      if (to == kNoReg) hot_.load(reg, gpr_at(guest));
      move_word_from_s0(reg);
    }
  } else {
    const HostMem mem = address_operand(insn);
    if (partial) {
      // Into the other scratch register first: the operand may use the destination.
      hot_.lea(kS0, mem, insn.address_size == 8);
      if (to == kNoReg) hot_.load(kS1, gpr_at(guest));
      move_word_from_s0(reg);
    } else {
      if (insn.address_size == 4 && wide()) hot_.u8(0x67);
      hot_.lea(reg, mem, insn.operand_size == 8);
    }
  }
  if (to == kNoReg) hot_.store(gpr_at(guest), reg);
}

}  // namespace ostler::bt
