#include "bt/insn_shapes.h"

#include <algorithm>

#include "bt/operands.h"
#include "x86/opcodes/table.h"

namespace ostler::bt {

using x86::Instruction;
using x86::Opcode;
using x86::OperandKind;
using x86::opcodes::Place;
using x86::opcodes::Space;
namespace key = x86::opcodes::key;

namespace {
constexpr std::array<uint8_t, 8> kPrefixBytes = {0, 0x66, 0xf3, 0xf2, 0xf0, 0x64, 0x65, 0x3e};
}  // namespace

constinit const std::array<uint8_t, 256> InsnShapes::kPrefixNumbers = [] {
  std::array<uint8_t, 256> numbers{};
  for (unsigned i = 1; i < kPrefixBytes.size(); ++i) numbers[kPrefixBytes[i]] = static_cast<uint8_t>(i);
  return numbers;
}();

constinit const std::array<std::array<InsnShapes::Name, 16>, InsnShapes::kNamings> InsnShapes::kNames = [] {
  std::array<std::array<Name, 16>, kNamings> names{};
  for (unsigned n = 0; n < 16; ++n) {
    const auto number = static_cast<uint8_t>(n), index = static_cast<uint8_t>(n * 8);
    const Reg host = host_reg(n);
    const Name gpr{index, host == number   ? number
                          : host == kNoReg ? kNotHere
                                           : static_cast<uint8_t>(host | kOther)};
    names[kPlain][n] = {number, number};
    names[kGpr][n] = names[kByteGprWithRex][n] = gpr;
    names[kByteGpr][n] = n < 4   ? gpr
                         : n < 8 ? Name{static_cast<uint8_t>(index - 31), kNotHere}  // AH to BH
                                 : Name{};
    names[kLowThree][n] = {static_cast<uint8_t>(n & 7), number};
  }
  return names;
}();

InsnShapes::InsnShapes() {
  for (unsigned map = 0; map < 2; ++map) {
    const auto& selectors =
        x86::opcodes::kTables.selectors[static_cast<size_t>(map == 0 ? Space::kPrimary : Space::k0f)];
    for (unsigned byte = 0; byte < 256; ++byte) {
      chosen_[map][byte].kept = !selectors[byte].ignores_mod;
      chosen_[map][byte].has_modrm = selectors[byte].has_modrm;
    }
  }
  for (const x86::opcodes::Row& row : x86::opcodes::kTables.rows) {
    if (row.space != Space::kPrimary && row.space != Space::k0f) continue;
    Chosen& chosen = chosen_[row.space == Space::kPrimary ? 0 : 1][row.byte];
    chosen.by_reg |= (row.match.mask & 7u << key::kRegShift) != 0;
    chosen.by_rm |= (row.match.mask & 7u << key::kRmShift) != 0;
    if ((row.match.mask & 1u << key::kRexBShift) != 0) chosen.kept = false;
    for (const x86::opcodes::Spec& spec : row.operands) {
      switch (spec.place) {
        // Numbers of which not every one is valid, and constants that are not one immediate.
        case Place::kSegment:
        case Place::kControl:
        case Place::kDebug:
        case Place::kEnter:
        case Place::kFar:
        case Place::kMoffs:
          chosen.kept = false;
          break;
        default:
          break;
      }
    }
  }
  // Prefixes beyond the first, VEX, the three-byte maps, and CMPXCHG, which AH makes another kind.
  for (unsigned byte = 0; byte < 256; ++byte)
    if (kPrefixNumbers[byte] != 0) chosen_[0][byte].kept = false;
  for (const unsigned byte : {0x0f, 0x26, 0x2e, 0x36, 0x67, 0xc4, 0xc5}) chosen_[0][byte].kept = false;
  for (const unsigned byte : {0x38, 0x3a, 0xb0}) chosen_[1][byte].kept = false;
}

void InsnShapes::forget(Table& table) {
  table.runs.fill({});
  table.shapes.assign(1, {});
}

void InsnShapes::use(const x86::CpuModel& model, const Options& options, Mode mode) {
  mode = static_cast<Mode>(mode & ~mode::kNoWindow);
  const bool same = &model == model_ && options.system == options_.system &&
                    (options.check != 0) == (options_.check != 0) && options.tsc == options_.tsc;
  if (!same) {
    for (auto& table : tables_) table.reset();
    table_ = nullptr;
    model_ = &model;
    options_ = options;
  }
  if (table_ != nullptr && table_->mode == mode) return;
  has_rex_ = (mode & mode::k32) == 0;
  const auto is_ours = [mode](const auto& table) { return table == nullptr || table->mode == mode; };
  auto found = std::ranges::find_if(tables_, is_ours);
  if (found == tables_.end())
    found = std::ranges::min_element(tables_, {}, [](const auto& table) { return table->used; });
  if (*found == nullptr || (*found)->mode != mode) {
    if (*found == nullptr) *found = std::make_unique<Table>();
    (*found)->mode = mode;
    forget(**found);
  }
  table_ = found->get();
  table_->used = ++uses_;
}

InsnShapes::Shape* InsnShapes::place_for(const Lead& lead) {
  const Chosen& chosen = chosen_[lead.escape][lead.opcode];
  const bool is_rex = lead.escape == 0 && (lead.opcode & 0xf0) == 0x40 && has_rex_ != 0;  // a second one
  if (!chosen.kept || is_rex || (chosen.by_rm && lead.modrm >= 0xc0)) return nullptr;
  if (table_->runs[lead.run()].first == 0) {
    const size_t count = (chosen.has_modrm ? 2u : 1u) * (chosen.by_reg ? 8u : 1u);
    if (table_->shapes.size() + count > kMost) forget(*table_);
    Run& run = table_->runs[lead.run()];
    run.first = static_cast<uint16_t>(table_->shapes.size()) & 0x3fff;
    run.has_modrm = chosen.has_modrm;
    run.by_reg = chosen.by_reg;
    table_->shapes.resize(table_->shapes.size() + count);
  }
  const Run run = table_->runs[lead.run()];
  return &table_->shapes[run.first + variant(run, lead.modrm)];
}

// By an instruction of this shape with 0 in place of REX.R, X and B, and whose operands are [rax], registers
// 0 and constants 0.
InsnShapes::Shape InsnShapes::shape_of(const Lead& lead) const {
  const Mode mode = table_->mode;
  const Chosen& chosen = chosen_[lead.escape][lead.opcode];
  std::array<uint8_t, kReads> bytes{};
  size_t at = 0;
  if (lead.prefix != 0) bytes[at++] = kPrefixBytes[lead.prefix];
  if (lead.rex != 0) bytes[at++] = static_cast<uint8_t>(0x40 | (lead.rex & 8));
  if (lead.escape != 0) bytes[at++] = 0x0f;
  bytes[at++] = static_cast<uint8_t>(lead.opcode);
  const unsigned mod = lead.modrm >= 0xc0 ? 0xc0 : 0;
  if (chosen.has_modrm) bytes[at++] = static_cast<uint8_t>(mod | (chosen.by_reg ? lead.modrm & 0x38 : 0));

  Shape shape;
  Instruction insn;
  const x86::CodeSize size = has_rex_ != 0 ? x86::CodeSize::k64 : x86::CodeSize::k32;
  if (x86::decode({bytes.data(), 15}, size, insn) != x86::DecodeStatus::kOk) return shape;
  shape.known = true;
  shape.memory = chosen.has_modrm && mod == 0;
  shape.own_segment = lead.prefix >= 5 && (lead.prefix < 7 || has_rex_ == 0);
  shape.imm_bytes = static_cast<uint8_t>(insn.length - at);
  shape.imm_value = static_cast<uint8_t>(insn.imm);
  shape.imm_signed = true;
  const auto& row = x86::opcodes::kTables.rows[insn.row];
  for (unsigned i = 0; i < insn.operand_count; ++i) {
    const x86::Operand& operand = insn.operand[i];
    const auto index_at = static_cast<uint8_t>(offsetof(Instruction, operand) + i * sizeof(x86::Operand) +
                                               offsetof(x86::Operand, index));
    const Naming gpr = operand.size != 1 ? kGpr : lead.rex != 0 ? kByteGprWithRex : kByteGpr;
    const bool is_register = operand.kind != OperandKind::kMem;
    const auto named_by_rm = [&](Naming naming) {
      if (!is_register) return;
      shape.rm_at = index_at;
      shape.rm_naming = naming;
    };
    const auto named_by_reg = [&](Naming naming) {
      shape.reg_at = index_at;
      shape.reg_naming = naming;
    };
    switch (row.operands[i].place) {
      case Place::kImm8:
      case Place::kImm16:
        shape.imm_signed = false;
        break;
      case Place::kReg:
        named_by_reg(gpr);
        break;
      case Place::kXmmReg:
        named_by_reg(kPlain);
        break;
      case Place::kMmxReg:
        named_by_reg(kLowThree);
        break;
      case Place::kRm:
        named_by_rm(gpr);
        break;
      case Place::kXmmRm:
        named_by_rm(kPlain);
        break;
      case Place::kMmxRm:
      case Place::kStRm:
        named_by_rm(kLowThree);
        break;
      case Place::kOpcodeReg:
        // 32-bit code has no REX: the opcode says it all.
        shape.opcode_reg = has_rex_ != 0;
        if (shape.opcode_reg) named_by_rm(gpr);
        break;
      default:
        break;
    }
  }
  shape.flags_by_immediate =
      shape.imm_bytes != 0 && ((insn.opcode >= Opcode::kRol && insn.opcode <= Opcode::kSar) ||
                               insn.opcode == Opcode::kShld || insn.opcode == Opcode::kShrd);
  shape.facts = facts_of(insn, *model_, mode, options_);
  shape.form = form_of(insn, bytes.data(), mode, shape.facts.kind);

  // Which of the registers that are filled in are written: with one that is written by nothing else.
  const auto written_with = [&](uint8_t index_at, uint8_t index) {
    Instruction other = insn;
    auto* const raw = reinterpret_cast<uint8_t*>(&other);
    for (const uint8_t place : {shape.reg_at, shape.rm_at})
      if (place != kNowhere &&
          raw[place - offsetof(x86::Operand, index)] == static_cast<uint8_t>(OperandKind::kGpr))
        raw[place] = place == index_at ? index : x86::kNoRegister;
    return written_registers(other, shape.facts.kind);
  };
  shape.facts.written = written_with(kNowhere, 0);
  shape.reg_written =
      shape.reg_at != kNowhere && written_with(shape.reg_at, x86::kR15 * 8) != shape.facts.written;
  shape.rm_written =
      shape.rm_at != kNowhere && written_with(shape.rm_at, x86::kR15 * 8) != shape.facts.written;
  std::memcpy(shape.head.data(), &insn, kHead);
  return shape;
}

void InsnShapes::learn(const uint8_t* bytes) {
  const Lead lead = lead_of(bytes);
  Shape* const shape = place_for(lead);
  if (shape != nullptr) *shape = shape_of(lead);
}

}  // namespace ostler::bt
