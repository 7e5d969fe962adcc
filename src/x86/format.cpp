#include "x86/format.h"

#include <fmt/format.h>

#include <array>
#include <string_view>

#include "x86/vector_info.h"

namespace ostler::x86 {
namespace {

constexpr std::string_view kGprNames[16] = {"ax", "cx", "dx", "bx", "sp", "bp", "si", "di",
                                            "8",  "9",  "10", "11", "12", "13", "14", "15"};
constexpr std::string_view kSegmentNames[8] = {"es", "cs", "ss", "ds", "fs", "gs", "?", "?"};
constexpr std::string_view kConditions[16] = {"o", "no", "b", "nb", "z", "nz", "be", "nbe",
                                              "s", "ns", "p", "np", "l", "nl", "le", "nle"};

std::string gpr_name(uint8_t offset, unsigned size) {
  const unsigned number = offset / 8;
  if (number >= 8) {
    const std::string_view suffix = size == 1 ? "b" : size == 2 ? "w" : size == 4 ? "d" : "";
    return fmt::format("r{}{}", number, suffix);
  }
  if (size == 1) {
    if (offset % 8 == 1) return fmt::format("{}h", kGprNames[number][0]);
    return number < 4 ? fmt::format("{}l", kGprNames[number][0]) : fmt::format("{}l", kGprNames[number]);
  }
  const std::string_view prefix = size == 2 ? "" : size == 4 ? "e" : "r";
  return fmt::format("{}{}", prefix, kGprNames[number]);
}

std::string signed_hex(int64_t value) {
  return value < 0 ? fmt::format("-{:#x}", 0 - static_cast<uint64_t>(value))
                   : fmt::format("+{:#x}", static_cast<uint64_t>(value));
}

std::string_view size_name(unsigned size) {
  switch (size) {
    case 1:
      return "byte ";
    case 2:
      return "word ";
    case 4:
      return "dword ";
    case 8:
      return "qword ";
    case 10:
      return "tbyte ";
    case 16:
      return "xmmword ";
    case 32:
      return "ymmword ";
    default:
      return "";
  }
}

std::string memory(const Instruction& insn, unsigned size, uint64_t next) {
  const uint64_t mask = insn.address_size == 8 ? ~uint64_t{0} : insn.address_size == 4 ? 0xffffffff : 0xffff;
  std::string text = fmt::format("{}{}:[", size_name(size), kSegmentNames[insn.segment]);
  if (insn.base == kRipBase || (insn.base == kNoRegister && insn.index == kNoRegister)) {
    const uint64_t base = insn.base == kRipBase ? next : 0;
    return text + fmt::format("{:#x}]", (base + static_cast<uint64_t>(insn.disp)) & mask);
  }
  bool first = true;
  if (insn.base != kNoRegister) {
    text += gpr_name(insn.base, insn.address_size);
    first = false;
  }
  const bool gather = vector_info(insn).gather;
  if (gather || insn.index != kNoRegister) {
    if (!first) text += '+';
    text += gather ? fmt::format("{}mm{}", insn.vex_l ? 'y' : 'x', insn.vector_index)
                   : gpr_name(insn.index, insn.address_size);
    if (insn.scale != 0) text += fmt::format("*{}", 1u << insn.scale);
  }
  if (insn.disp != 0) text += signed_hex(insn.disp);
  return text + ']';
}

std::string operand(const Instruction& insn, const Operand& op, uint64_t rip) {
  const uint64_t next = rip + insn.length;
  switch (op.kind) {
    case OperandKind::kNone:
      return {};
    case OperandKind::kGpr:
      return gpr_name(op.index, op.size);
    case OperandKind::kMem:
      return memory(insn, op.size, next);
    case OperandKind::kImm:
      return fmt::format("{:#x}", op.size >= 8 ? insn.imm : insn.imm & ((uint64_t{1} << op.size * 8) - 1));
    case OperandKind::kRel: {
      const uint64_t target = next + insn.imm;
      return fmt::format("{:#x}", insn.operand_size == 8   ? target
                                  : insn.operand_size == 4 ? target & 0xffffffff
                                                           : target & 0xffff);
    }
    case OperandKind::kFar:
      return fmt::format("{:#x}:{:#x}", insn.imm2, insn.imm);
    case OperandKind::kSegment:
      return std::string(kSegmentNames[op.index & 7]);
    case OperandKind::kControl:
      return fmt::format("cr{}", op.index);
    case OperandKind::kDebug:
      return fmt::format("dr{}", op.index);
    case OperandKind::kVector:
      return fmt::format("{}mm{}", op.size == 32 ? 'y' : 'x', op.index);
    case OperandKind::kMmx:
      return fmt::format("mm{}", op.index);
    case OperandKind::kSt:
      return fmt::format("st({})", op.index);
  }
  return {};
}

// What the Opcode leaves to operand_size: MOVSB…, CBW/CWDE/CDQE, CWD/CDQ/CQO, PUSHAD, IRETQ.
std::string name(const Instruction& insn) {
  static constexpr std::string_view kStringSuffix[9] = {"", "b", "w", "", "d", "", "", "", "q"};
  const unsigned size = insn.operand_size;
  switch (insn.opcode) {
    case Opcode::kMovs:
    case Opcode::kCmps:
    case Opcode::kStos:
    case Opcode::kLods:
    case Opcode::kScas:
    case Opcode::kIns:
    case Opcode::kOuts:
      return fmt::format("{}{}", mnemonic(insn.opcode), kStringSuffix[size & 15]);
    case Opcode::kCbw:
      return size == 8 ? "cdqe" : size == 4 ? "cwde" : "cbw";
    case Opcode::kCwd:
      return size == 8 ? "cqo" : size == 4 ? "cdq" : "cwd";
    case Opcode::kIret:
    case Opcode::kPusha:
    case Opcode::kPopa:
    case Opcode::kPushf:
    case Opcode::kPopf:
      return fmt::format("{}{}", mnemonic(insn.opcode), size == 8 ? "q" : size == 4 ? "d" : "");
    case Opcode::kJcc:
    case Opcode::kSetcc:
    case Opcode::kCmov:
      return fmt::format("{}{}", mnemonic(insn.opcode), kConditions[insn.condition & 15]);
    default:
      break;
  }
  const std::string_view plain = mnemonic(insn.opcode);
  const bool v = insn.encoding == Encoding::kVex && plain[0] != 'v' &&
                 vector_info(insn).vector_class == VectorClass::kAvx;
  return fmt::format("{}{}", v ? "v" : "", plain);
}

}  // namespace

std::string format(const Instruction& insn, uint64_t rip) {
  std::string text;
  if (insn.lock) text += "lock ";
  if (insn.rep) text += insn.opcode == Opcode::kCmps || insn.opcode == Opcode::kScas ? "repe " : "rep ";
  if (insn.repne) text += "repne ";
  text += name(insn);
  for (unsigned i = 0; i < insn.operand_count; ++i)
    text += (i == 0 ? " " : ", ") + operand(insn, insn.operand[i], rip);
  if (insn.opcode == Opcode::kEnter) text += fmt::format(", {:#x}", insn.imm2);
  return text;
}

}  // namespace ostler::x86
