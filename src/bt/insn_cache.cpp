#include "bt/insn_cache.h"

#include <initializer_list>

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
  // As look_ahead() guesses lengths.
  const auto imm = [&](unsigned map, Imm kind, std::initializer_list<unsigned> bytes) {
    for (const unsigned byte : bytes)
      opcodes_[map][byte] |= static_cast<uint8_t>(static_cast<unsigned>(kind) << kImmShift);
  };
  for (unsigned group = 0; group < 0x40; group += 8) {
    imm(0, Imm::kByte, {group + 4});
    imm(0, Imm::kOperand, {group + 5});
  }
  for (unsigned byte = 0x70; byte < 0x80; ++byte) {
    imm(0, Imm::kByte, {byte});
    imm(1, Imm::kOperand, {byte + 0x10});
  }
  for (unsigned n = 0; n < 8; ++n) {
    imm(0, Imm::kByte, {0xb0 + n, 0xe0 + n});
    imm(0, Imm::kWhole, {0xb8 + n});
  }
  imm(0, Imm::kByte, {0x6a, 0x6b, 0x80, 0x83, 0xa8, 0xc0, 0xc1, 0xc6, 0xcd, 0xeb});
  imm(0, Imm::kOperand, {0x68, 0x69, 0x81, 0xa9, 0xc7, 0xe8, 0xe9});
  imm(0, Imm::kWord, {0xc2});
  imm(0, Imm::kTestByte, {0xf6});
  imm(0, Imm::kTest, {0xf7});
  imm(1, Imm::kByte, {0x70, 0x71, 0x72, 0x73, 0xa4, 0xac, 0xba, 0xc2, 0xc4, 0xc5, 0xc6});
  for (const unsigned byte : {0xc2, 0xc3, 0xe8, 0xe9, 0xeb}) opcodes_[0][byte] |= kGoesElsewhere;
  for (unsigned how = 0; how < 8; ++how) {
    const auto set = [&](Imm kind, unsigned bytes) {
      immediates_[static_cast<size_t>(kind)][how] = static_cast<uint8_t>(bytes);
    };
    const unsigned operand = (how & kNarrow) != 0 ? 2 : 4;
    set(Imm::kByte, 1);
    set(Imm::kWord, 2);
    set(Imm::kOperand, operand);
    set(Imm::kWhole, (how & kWide) != 0 ? 8 : operand);
    set(Imm::kTestByte, (how & kFirst) != 0 ? 1 : 0);
    set(Imm::kTest, (how & kFirst) != 0 ? operand : 0);
  }
  for (unsigned modrm = 0; modrm < 0xc0; ++modrm) {
    const unsigned mod = modrm >> 6;
    displacements_[modrm] = mod == 1 ? 1 : mod == 2 || (modrm & 7) == 5 ? 4 : 0;
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
