#include "processors.h"

#include <algorithm>

#include "support/host_vendor.h"
#include "x86/flag_effect.h"

namespace ostler::differential {

using x86::Opcode;

namespace {

// Of 64-bit code, where a REX prefix that others follow means nothing.
bool has_operand_size_prefix(std::span<const uint8_t> code) {
  constexpr uint8_t kOthers[] = {0x67, 0xf0, 0xf2, 0xf3, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65};
  for (const uint8_t byte : code) {
    if (byte == 0x66) return true;
    if ((byte & 0xf0) != 0x40 && std::ranges::find(kOthers, byte) == std::end(kOthers)) return false;
  }
  return false;
}

}  // namespace

bool host_keeps_flags(const x86::Instruction& insn) {
  switch (insn.opcode) {
    case Opcode::kDiv:
    case Opcode::kIdiv:
      return true;
    case Opcode::kAnd:
    case Opcode::kOr:
    case Opcode::kXor:
    case Opcode::kTest:
      return false;
    case Opcode::kRol:
    case Opcode::kRor:
    case Opcode::kRcl:
    case Opcode::kRcr:
    case Opcode::kAaa:
    case Opcode::kAas:
    case Opcode::kAam:
    case Opcode::kAad:
    case Opcode::kDaa:
    case Opcode::kDas:
      return !test::host_is_intel();
    default:
      return !test::host_is_intel() && x86::undefined_flags(insn) != 0;
  }
}

bool host_differs(std::span<const uint8_t> code, const x86::Instruction& insn, x86::CodeSize code_size) {
  if (test::host_is_intel()) return false;
  switch (insn.opcode) {
    // With an operand size prefix, 64-bit code too jumps to 16-bit offsets.
    case Opcode::kJmp:
    case Opcode::kJcc:
    case Opcode::kJcxz:
    case Opcode::kLoop:
    case Opcode::kCall:
    case Opcode::kRet:
    case Opcode::kJmpInd:
    case Opcode::kCallInd:
      return code_size == x86::CodeSize::k64 && has_operand_size_prefix(code);
    case Opcode::kLoope:
    case Opcode::kLoopne:
      return insn.rep || insn.repne || code_size == x86::CodeSize::k64;
    // The register form is none.
    case Opcode::kPrefetch:
    case Opcode::kPrefetchw:
      return !insn.has_memory();
    case Opcode::kNop:
      return insn.map == 1 && insn.opcode_byte == 0x0d && !insn.has_memory();
    // A fault of the store comes before the exceptions of the conversion.
    case Opcode::kVcvtps2ph:
      return insn.has_memory();
    // No round of them truncates no register.
    case Opcode::kMovs:
    case Opcode::kCmps:
    case Opcode::kStos:
    case Opcode::kLods:
    case Opcode::kScas:
      return code_size == x86::CodeSize::k64 && insn.address_size == 4 && (insn.rep || insn.repne);
    // MOVSXD of 16 bits reads 32.
    case Opcode::kMovsx:
      return insn.map == 0 && insn.operand_size == 2;
    // VEX.W is not ignored.
    case Opcode::kPinsrd:
    case Opcode::kPextrd:
      return insn.vex_w && code_size != x86::CodeSize::k64;
    // With REX.B it exchanges R8 and RAX.
    case Opcode::kPause:
      return insn.length > 2;
    // Their operands need no alignment.
    case Opcode::kSha1msg1:
    case Opcode::kSha1msg2:
    case Opcode::kSha1nexte:
    case Opcode::kSha1rnds4:
    case Opcode::kSha256msg1:
    case Opcode::kSha256msg2:
    case Opcode::kSha256rnds2:
      return insn.has_memory();
    default:
      return false;
  }
}

}  // namespace ostler::differential
