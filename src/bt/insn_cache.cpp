#include "bt/insn_cache.h"

#include "x86/opcodes/table.h"

namespace ostler::bt {

using x86::Opcode;
using x86::opcodes::Place;
using x86::opcodes::Space;

InsnCache::InsnCache() {
  for (const unsigned byte : {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0xf0, 0xf2, 0xf3})
    is_prefix_[byte] = 1;
  for (unsigned map = 0; map < 2; ++map) {
    const auto& selectors =
        x86::opcodes::kTables.selectors[static_cast<size_t>(map == 0 ? Space::kPrimary : Space::k0f)];
    for (unsigned byte = 0; byte < 256; ++byte)
      opcodes_[map][byte] = selectors[byte].has_modrm ? kHasModrm : 0;
  }
  // More prefixes than one, other addresses' sizes, VEX and the three-byte maps.
  for (unsigned byte = 0; byte < 256; ++byte)
    if (is_prefix_[byte] != 0 || byte == 0x67) opcodes_[0][byte] = kNotKept;
  for (const unsigned byte : {0xc4, 0xc5}) opcodes_[0][byte] = kNotKept;
  for (const unsigned byte : {0x38, 0x3a}) opcodes_[1][byte] = kNotKept;
}

void InsnCache::use(const x86::CpuModel& model, const Options& options) {
  const bool check = options.check != 0;
  if (&model == model_ && options.system == system_ && check == check_ && options.tsc == tsc_) return;
  model_ = &model;
  system_ = options.system;
  check_ = check;
  tsc_ = options.tsc;
  for (auto& pair : entries_)
    for (Entry& entry : pair) entry.key_ = 0;
}

void InsnCache::add(const uint8_t* bytes, Mode mode, const x86::Instruction& insn, const InsnFacts& facts,
                    const Form& form) {
  const Key key = key_of(bytes, mode);
  if (key.key == kNoKey) return;
  unsigned disp = 0;
  if (insn.has_modrm && insn.modrm < 0xc0) {
    const unsigned mod = insn.modrm >> 6, rm = insn.modrm & 7;
    const unsigned base = rm == 4 ? bytes[key.bytes - 1] & 7u : rm;
    disp = mod == 1 ? 1 : mod == 2 || base == 5 ? 4 : 0;
  }
  // MOV from control registers has no SIB, whatever ModRM says.
  if (key.bytes + disp > insn.length) return;
  const unsigned imm = insn.length - key.bytes - disp;
  bool is_signed = true;
  for (const x86::opcodes::Spec& spec : x86::opcodes::kTables.rows[insn.row].operands) {
    switch (spec.place) {
      case Place::kImm8:
      case Place::kImm16:
        is_signed = false;
        break;
      // Constants that are not one immediate.
      case Place::kEnter:
      case Place::kFar:
      case Place::kMoffs:
      case Place::kXmmIs4:
        return;
      default:
        break;
    }
  }
  auto& pair = entries_[set_of(key.key)];
  pair[1] = pair[0];
  Entry& entry = pair[0];
  entry.key_ = key.key;
  std::memcpy(entry.head_.data(), &insn, Entry::kHead);
  entry.facts_ = facts;
  entry.form_ = form;
  entry.length_ = insn.length & 15;
  entry.fixed_ = key.bytes & 15;
  entry.disp_bytes_ = disp & 15;
  entry.has_imm_ = imm != 0;
  entry.imm_unused_ = static_cast<uint8_t>(64 - 8 * imm) & 63;
  entry.imm_signed_ = is_signed;
  entry.imm_value_ = static_cast<uint8_t>(insn.imm);
  entry.flags_by_immediate_ = imm != 0 && ((insn.opcode >= Opcode::kRol && insn.opcode <= Opcode::kSar) ||
                                           insn.opcode == Opcode::kShld || insn.opcode == Opcode::kShrd);
}

}  // namespace ostler::bt
