// Instructions that run on the host as they are, but for the names of registers and the address of their
// memory operand.
#include <utility>

#include "bt/operands.h"
#include "bt/translator.h"
#include "x86/opcodes/table.h"
#include "x86/vector_info.h"

namespace ostler::bt {

using x86::Instruction;
using x86::Opcode;
using x86::OperandKind;
using x86::opcodes::Place;

namespace {

constexpr HostMem kHere{.base = kS0, .index = kS1};

// The parts of an encoding, found in the guest's bytes.
struct Raw {
  bool operand_size = false;  // 66
  uint8_t repeat = 0;         // F2 or F3
  uint8_t rex = 0;
  bool vex = false;
  uint8_t vex_r = 0, vex_x = 0, vex_b = 0, vvvv = 0;
  uint8_t opcode_at = 0;  // the opcode byte itself
  uint8_t imm_at = 0;
};

Raw parse(const Instruction& insn, const uint8_t* bytes, bool bits32) {
  Raw raw;
  unsigned at = 0;
  for (;; ++at) {
    const uint8_t b = bytes[at];
    if (b == 0x66)
      raw.operand_size = true;
    else if (b == 0xf2 || b == 0xf3)
      raw.repeat = b;
    else if ((b & 0xf0) == 0x40 && !bits32)
      ;
    else if (b != 0xf0 && b != 0x67 && b != 0x2e && b != 0x36 && b != 0x3e && b != 0x26 && b != 0x64 &&
             b != 0x65)
      break;
    raw.rex = (b & 0xf0) == 0x40 && !bits32 ? b : 0;  // only counts just before the opcode
  }
  if (insn.encoding == x86::Encoding::kVex) {
    raw.vex = true;
    const unsigned second = ~unsigned{bytes[at + 1]};  // these fields are inverted
    raw.vex_r = static_cast<uint8_t>((second >> 7 & 1) << 3);
    if (bytes[at] == 0xc5) {
      raw.vvvv = second >> 3 & 15;
      at += 2;
    } else {
      raw.vex_x = static_cast<uint8_t>((second >> 6 & 1) << 3);
      raw.vex_b = static_cast<uint8_t>((second >> 5 & 1) << 3);
      raw.vvvv = ~unsigned{bytes[at + 2]} >> 3 & 15;
      at += 3;
    }
  } else {
    at += insn.map == 0 ? 0 : insn.map == 1 ? 1 : 2;
  }
  if (bits32) {  // eight registers
    raw.vex_b = 0;
    raw.vvvv &= 7;
  }
  raw.opcode_at = static_cast<uint8_t>(at++);
  if (insn.has_modrm) {
    const uint8_t modrm = bytes[at++];
    const unsigned mod = modrm >> 6, rm = modrm & 7;
    if (mod != 3) {
      bool wide = mod == 2 || (mod == 0 && rm == 5);
      if (rm == 4) {
        if (mod == 0 && (bytes[at] & 7) == 5) wide = true;
        ++at;
      }
      at += wide ? 4 : mod == 1 ? 1 : 0;
    }
  }
  raw.imm_at = static_cast<uint8_t>(at);
  return raw;
}

bool replaces_destination(Opcode opcode) {
  switch (opcode) {
    case Opcode::kMov:
    case Opcode::kMovzx:
    case Opcode::kMovsx:
    case Opcode::kMovbe:
    case Opcode::kTzcnt:
    case Opcode::kLzcnt:
    case Opcode::kPopcnt:
    case Opcode::kAndn:
    case Opcode::kBextr:
    case Opcode::kBlsi:
    case Opcode::kBlsmsk:
    case Opcode::kBlsr:
    case Opcode::kBzhi:
    case Opcode::kPdep:
    case Opcode::kPext:
    case Opcode::kRorx:
    case Opcode::kSarx:
    case Opcode::kShlx:
    case Opcode::kShrx:
    case Opcode::kMulx:
    case Opcode::kImul3:
      return true;
    default:
      return false;
  }
}

// Its operand's address is a host register and a displacement.
bool is_at_register(const Instruction& insn) {
  return insn.base < 16 * 8 && host_reg(insn.base / 8) != kNoReg && insn.index == x86::kNoRegister &&
         insn.address_size == 8 && insn.segment < x86::kFs;
}

}  // namespace

// An instruction with its registers renamed.
struct Translator::Reencoding {
  Raw raw;
  uint8_t reg = 0;  // ModRM.reg
  uint8_t rm = 0;   // ModRM.rm, when it is a register
  bool memory = false;
  HostMem mem;
  uint8_t vvvv = 0;
  bool opcode_reg = false;  // `rm` goes into the opcode
  bool needs_rex = false;   // SPL to DIL
  // Instead of the guest's, where 64-bit code has no such encoding.
  uint8_t opcode = 0;
  bool has_modrm = false;
};

void Translator::reencode(const GuestInsn& g, const Reencoding& r) {
  const Instruction& insn = g.insn;
  const uint8_t opcode = r.opcode;
  const uint8_t b = r.memory ? (r.mem.base == kNoReg ? 0 : r.mem.base) : r.rm;
  const uint8_t x = r.memory && r.mem.index != kNoReg ? r.mem.index : 0;
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
      hot_.modrm(r.reg, r.mem);
    else
      hot_.u8(0xc0 | (r.reg & 7) << 3 | (r.rm & 7));
  }
  for (unsigned i = r.raw.imm_at; i < insn.length; ++i) hot_.u8(g.bytes[i]);
}

// Encodings that mean something else, or nothing, in 64-bit code.
void Translator::without_64_bit_meaning(const Instruction& insn, Reencoding& r) {
  if (insn.map != 0 || r.raw.vex) return;
  if ((r.opcode & 0xf0) == 0x40) {  // INC, DEC
    r.reg = r.opcode >> 3 & 1;
    r.opcode = 0xff;
    r.opcode_reg = false;
    r.has_modrm = true;
  } else if (r.opcode == 0x82) {
    r.opcode = 0x80;
  } else if ((r.opcode & 0xfc) == 0xa0) {  // MOV with an address in the place of an immediate
    r.reg = kRax;
    r.opcode = (r.opcode & 2) != 0 ? 0x88 | (r.opcode & 1) : 0x8a | (r.opcode & 1);
    r.has_modrm = true;
    r.raw.imm_at = insn.length;
  }
}

void Translator::generic(const GuestInsn& g) {
  const Instruction& insn = g.insn;
  const x86::opcodes::Row& row = x86::opcodes::kTables.rows[insn.row];
  Reencoding r;
  r.raw = parse(insn, g.bytes, bits32());
  r.opcode = g.bytes[r.raw.opcode_at];
  r.has_modrm = insn.has_modrm;
  const bool vector = insn.opcode >= Opcode::kFadd;
  const uint8_t modrm = insn.has_modrm ? insn.modrm : 0;
  // What no general register names stays as it is: vector registers and opcode extensions.
  r.reg = static_cast<uint8_t>((modrm >> 3 & 7) | (r.raw.vex ? r.raw.vex_r : (r.raw.rex & 4) << 1));
  r.rm = static_cast<uint8_t>((modrm & 7) | (r.raw.vex ? r.raw.vex_b : (r.raw.rex & 1) << 3));
  r.vvvv = r.raw.vvvv;

  // ---- memory ----
  const auto [size, write] = memory_use(insn);
  for (unsigned i = 0; i < insn.operand_count; ++i)
    r.memory = r.memory || insn.operand[i].kind == OperandKind::kMem;

  // ---- general registers ----
  struct Slot {
    uint8_t* field = nullptr;
    unsigned guest = 0;
    bool reads = false, writes = false;
    Reg scratch = kNoReg;
  };
  Slot slots[4];
  unsigned in_memory = 0;  // registers that live in memory
  int high = -1;           // AH, CH, DH or BH: its register
  bool low_byte = false;
  unsigned count = 0;
  for (unsigned i = 0; i < insn.operand_count; ++i) {
    const x86::Operand& operand = insn.operand[i];
    if (operand.kind != OperandKind::kGpr) continue;
    uint8_t* field = nullptr;
    switch (row.operands[i].place) {
      case Place::kReg:
        field = &r.reg;
        break;
      case Place::kRm:
      case Place::kRmRegister:
      case Place::kXmmRm:
        field = &r.rm;
        break;
      case Place::kVvvv:
        field = &r.vvvv;
        break;
      case Place::kOpcodeReg:
        field = &r.rm;
        r.opcode_reg = true;
        break;
      default:
        continue;  // implicit: RAX, RCX, RDX
    }
    const unsigned guest = operand.index / 8;
    if (operand.index % 8 == 1) {
      high = static_cast<int>(guest);
      *field = static_cast<uint8_t>(guest + 4);
      continue;
    }
    low_byte |= operand.size == 1 && guest >= 4;
    const Reg reg = host_reg(guest);
    if (reg != kNoReg) {
      *field = reg;
      continue;
    }
    Slot& slot = slots[count++];
    slot.field = field;
    slot.guest = guest;
    slot.writes = (i == 0 && !only_reads_operands(insn.opcode)) || (i == 1 && writes_second(insn.opcode));
    slot.reads = !slot.writes || operand.size < 4 ||
                 (i == 0 ? !replaces_destination(insn.opcode) && !vector : insn.opcode != Opcode::kMulx);
    ++in_memory;
  }
  r.needs_rex = low_byte || (r.raw.rex != 0 && high < 0);
  // With REX.B some processors take it for an exchange of R8.
  if (insn.opcode == Opcode::kPause) r.rm = 0;
  if (bits32()) without_64_bit_meaning(insn, r);

  bool s0_is_free = g.in_window;
  if (r.memory && g.in_window) {
    r.mem = in_window(static_cast<int32_t>(insn.disp));
    if (in_memory > 1) {
      hot_.lea(kS0, r.mem);
      held_share_ = 0;
      r.mem = {.base = kS0};
    }
  } else if (r.memory && g.share != 0) {
    r.mem = shared_operand(g, in_memory == 0);
  } else if (r.memory) {
    const Direction direction = write ? Direction::kWrite : Direction::kRead;
    if (live_before(g) != 0 && host_valid_ && !memory_valid_ && keep_flags_ &&
        (wide() || insn.segment < x86::kFs)) {
      address_keeping_flags(g);
      check_keeping_flags(g, size, direction);
      r.mem = kHere;
    } else if (direct_ && high < 0 && is_at_register(insn)) {  // the swap for AH would change the base
      free_flags(live_before(g));
      r.mem = checked_at_register(g, size, direction);
      s0_is_free = true;
    } else {
      free_flags(live_before(g));
      address(g);
      check(g, size, direction);
      r.mem = kHere;
    }
    if (in_memory > (s0_is_free ? 1 : 0)) {
      hot_.lea(kS0, r.mem);
      r.mem = {.base = kS0};
    }
  }
  if (g.reads != 0 || (g.touches_flags && (g.live_after & ~g.writes) != 0)) want_flags();

  // Destinations that are only written share a scratch register with a source.
  const bool one_is_free = s0_is_free && in_memory == 1;
  Reg next = r.memory && !one_is_free ? kS1 : kS0;
  const auto take = [&] {
    const Reg reg = next;
    next = kS1;
    return reg;
  };
  for (unsigned i = count; i-- > 0;) {
    Slot& slot = slots[i];
    for (unsigned j = i + 1; j < count && slot.scratch == kNoReg; ++j)
      if (slots[j].guest == slot.guest) slot.scratch = slots[j].scratch;
    if (slot.scratch == kNoReg && slot.reads) slot.scratch = take();
  }
  // MULX has two of those. A memory operand's address may be overwritten: it is used up by then.
  for (unsigned i = 0; i < count; ++i) {
    if (slots[i].scratch != kNoReg) continue;
    slots[i].scratch = kS1;
    for (unsigned j = 0; j < count; ++j) {
      if (j == i || !slots[j].writes || slots[j].scratch == kNoReg) continue;
      if (slots[j].guest == slots[i].guest)
        slots[i].scratch = slots[j].scratch;  // the high half wins
      else if (slots[j].scratch == kS1)
        slots[i].scratch = kS0;
    }
  }
  for (unsigned i = 0; i < count; ++i) {
    *slots[i].field = slots[i].scratch;
    forget_held(slots[i].scratch);
    if (slots[i].reads) hot_.load(slots[i].scratch, gpr_at(slots[i].guest));
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
  insns_[insn_count_ - 1].host_flags = host_valid_ && !memory_valid_;
  reencode(g, r);
  if (swap) swap_bytes();
  if (g.share_here && in_memory == 0) keep_shared(g);
  for (unsigned i = 0; i < count; ++i)
    if (slots[i].writes) hot_.store(gpr_at(slots[i].guest), slots[i].scratch);
  if (g.touches_flags && g.reads + g.writes != 0) flags_set();
}

void Translator::lea(const GuestInsn& g) {
  const Instruction& insn = g.insn;
  const unsigned guest = insn.operand[0].index / 8;
  const Reg to = host_reg(guest);
  const Reg reg = to == kNoReg ? kS1 : to;
  if (to == kNoReg) forget_held(kS1);
  const bool partial = insn.operand_size == 2;
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
      forget_held(kS0);
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
