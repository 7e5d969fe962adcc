#include "bt/form.h"

#include <span>

#include "bt/assembler.h"
#include "bt/operands.h"
#include "x86/opcodes/table.h"

namespace ostler::bt {

using x86::Instruction;
using x86::Opcode;
using x86::OperandKind;
using x86::opcodes::Place;

namespace {

RawEncoding parse(const Instruction& insn, const uint8_t* bytes, bool bits32) {
  RawEncoding raw;
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

// Encodings that mean something else, or nothing, in 64-bit code.
void without_64_bit_meaning(const Instruction& insn, Renaming& r) {
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

// Whether a form without memory operand is these bytes, up to the immediate.
bool is_written_so(const Form& form, std::span<const uint8_t> code) {
  size_t at = 0;
  const auto next_is = [&](unsigned byte) { return at < code.size() && code[at++] == byte; };
  return (!form.has_prefix || next_is(form.prefix)) && (form.rex == 0 || next_is(form.rex)) &&
         (form.map == 0 || next_is(0x0f)) && (form.map < 2 || next_is(form.map == 2 ? 0x38 : 0x3a)) &&
         next_is(form.opcode) && (!form.has_modrm || next_is(form.modrm)) && at == code.size();
}

}  // namespace

Renaming renaming_of(const Instruction& insn, const uint8_t* bytes, bool bits32) {
  const x86::opcodes::Row& row = x86::opcodes::kTables.rows[insn.row];
  Renaming r;
  r.raw = parse(insn, bytes, bits32);
  r.opcode = bytes[r.raw.opcode_at];
  r.has_modrm = insn.has_modrm;
  const bool vector = insn.opcode >= Opcode::kFadd;
  const uint8_t modrm = insn.has_modrm ? insn.modrm : 0;
  // What no general register names stays as it is: vector registers and opcode extensions.
  r.reg = static_cast<uint8_t>((modrm >> 3 & 7) | (r.raw.vex ? r.raw.vex_r : (r.raw.rex & 4) << 1));
  r.rm = static_cast<uint8_t>((modrm & 7) | (r.raw.vex ? r.raw.vex_b : (r.raw.rex & 1) << 3));
  r.vvvv = r.raw.vvvv;
  bool low_byte = false;
  for (unsigned i = 0; i < insn.operand_count; ++i) {
    const x86::Operand& operand = insn.operand[i];
    r.memory |= operand.kind == OperandKind::kMem;
    if (operand.kind != OperandKind::kGpr) continue;
    uint8_t Renaming::*field = nullptr;
    switch (row.operands[i].place) {
      case Place::kReg:
        field = &Renaming::reg;
        break;
      case Place::kRm:
      case Place::kRmRegister:
      case Place::kXmmRm:
        field = &Renaming::rm;
        break;
      case Place::kVvvv:
        field = &Renaming::vvvv;
        break;
      case Place::kOpcodeReg:
        field = &Renaming::rm;
        r.opcode_reg = true;
        break;
      default:
        continue;  // implicit: RAX, RCX, RDX
    }
    const unsigned guest = operand.index / 8;
    if (operand.index % 8 == 1) {
      r.high = static_cast<int>(guest);
      r.*field = static_cast<uint8_t>(guest + 4);
      continue;
    }
    low_byte |= operand.size == 1 && guest >= 4;
    const Reg reg = host_reg(guest);
    if (reg != kNoReg) {
      r.*field = reg;
      continue;
    }
    Renaming::Slot& slot = r.slots[r.count++];
    slot.field = field;
    slot.guest = guest;
    slot.writes = (i == 0 && !only_reads_operands(insn.opcode)) || (i == 1 && writes_second(insn.opcode));
    slot.reads = !slot.writes || operand.size < 4 ||
                 (i == 0 ? !replaces_destination(insn.opcode) && !vector : insn.opcode != Opcode::kMulx);
  }
  r.needs_rex = low_byte || (r.raw.rex != 0 && r.high < 0);
  // With REX.B some processors take it for an exchange of R8.
  if (insn.opcode == Opcode::kPause) r.rm = 0;
  if (bits32) without_64_bit_meaning(insn, r);
  return r;
}

Form form_of(const Instruction& insn, const uint8_t* bytes, Mode mode, Kind kind) {
  Form form;
  if (kind != Kind::kGeneric) return form;
  const Renaming r = renaming_of(insn, bytes, (mode & mode::k32) != 0);
  const bool repeats = r.raw.repeat != 0 && (insn.map != 0 || insn.opcode == Opcode::kPause);
  const unsigned prefixes = (insn.lock ? 1 : 0) + (r.raw.operand_size ? 1 : 0) + (repeats ? 1 : 0);
  if (r.raw.vex || r.count != 0 || r.high >= 0 || prefixes > 1 || (r.memory && !r.has_modrm)) return form;
  form.simple = true;
  form.memory = r.memory;
  form.has_modrm = r.has_modrm;
  form.map = insn.map & 3;
  form.has_prefix = prefixes != 0;
  form.prefix = insn.lock ? 0xf0 : r.raw.operand_size ? 0x66 : repeats ? r.raw.repeat : 0;
  form.rex = static_cast<uint8_t>((r.raw.rex & 8) | (r.reg >> 3) << 2 | (r.memory ? 0 : r.rm >> 3));
  if (form.rex != 0 || r.needs_rex) form.rex |= 0x40;
  form.opcode = static_cast<uint8_t>(r.opcode_reg ? (r.opcode & 0xf8) | (r.rm & 7) : r.opcode);
  if (r.has_modrm) form.modrm = static_cast<uint8_t>((r.reg & 7) << 3 | (r.memory ? 0 : 0xc0 | (r.rm & 7)));
  form.imm_bytes = static_cast<uint8_t>(insn.length - r.raw.imm_at);
  form.verbatim = !form.memory && is_written_so(form, {bytes, r.raw.imm_at});
  return form;
}

}  // namespace ostler::bt
