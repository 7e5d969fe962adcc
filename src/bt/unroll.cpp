// Loops whose iterations share checks: docs/bt/design.md, "Loops".
#include <algorithm>
#include <cstdlib>

#include "bt/guest_code.h"

namespace ostler::bt {
namespace {

using x86::Opcode;
using x86::OperandKind;

constexpr unsigned kMostCopies = 4;
constexpr unsigned kMostInstructions = 32;  // in all copies
constexpr int64_t kWidestStep = 64;         // bytes: further apart, accesses rarely lie in one page

uint32_t register_bit(uint8_t offset) {
  return offset < 16 * 8 ? 1u << offset / 8 : 0;
}

// Instructions up to the first branch, if it leads back to the block's start; else 0. Loops with other
// branches mostly end soon, or hold others.
unsigned loop_length(const GuestCode& code) {
  for (unsigned i = 0; i < std::min(code.count, kMostInstructions / 2); ++i) {
    const GuestInsn& g = code.insns[i];
    if (g.kind == Kind::kCondition) return code.target(g) == code.rip ? i + 1 : 0;
  }
  return 0;
}

// Whether some access moves along by the same few bytes in each iteration.
bool walks(const GuestCode& code, unsigned length) {
  uint32_t stepping = 0, changing = 0;
  for (unsigned i = 0; i < length; ++i) {
    const RegisterStep step = register_step(code.insns[i], code.word());
    if (step.amount == 0 || std::abs(step.amount) > kWidestStep)
      changing |= code.insns[i].written;
    else
      stepping |= 1u << step.number;
  }
  return std::any_of(code.insns.begin(), code.insns.begin() + length, [&](const GuestInsn& g) {
    const uint32_t registers = register_bit(g.insn.base) | register_bit(g.insn.index);
    return g.shareable && (registers & stepping) != 0 && (registers & changing) == 0;
  });
}

}  // namespace

RegisterStep register_step(const GuestInsn& g, unsigned word) {
  const x86::Instruction& insn = g.insn;
  const x86::Operand& to = insn.operand[0];
  const bool whole = to.kind == OperandKind::kGpr && insn.operand_size == word;
  if (!whole || (g.kind != Kind::kGeneric && g.kind != Kind::kLea)) return {};
  const unsigned number = to.index / 8;
  switch (insn.opcode) {
    case Opcode::kAdd:
    case Opcode::kSub:
      if (insn.operand[1].kind != OperandKind::kImm) return {};
      return {number, static_cast<int64_t>(insn.opcode == Opcode::kAdd ? insn.imm : -insn.imm)};
    case Opcode::kInc:
      return {number, 1};
    case Opcode::kDec:
      return {number, -1};
    case Opcode::kLea:
      if (insn.base != to.index || insn.index != x86::kNoRegister || insn.address_size != word) return {};
      return {number, insn.disp};
    default:
      return {};
  }
}

// Every copy but the last leaves the loop where the last one stays in it.
void unroll_loop(GuestCode& code) {
  const unsigned length = loop_length(code);
  if (length == 0 || !walks(code, length)) return;
  const unsigned copies = std::min(kMostCopies, kMostInstructions / length);
  GuestInsn* const first = code.insns.data();
  for (unsigned copy = 1; copy < copies; ++copy) std::copy(first, first + length, first + copy * length);
  for (unsigned copy = 0; copy + 1 < copies; ++copy) {
    GuestInsn& branch = first[(copy + 1) * length - 1];
    branch.insn.condition ^= 1;
    branch.insn.imm = 0;
  }
  code.copies = copies;
  code.count = copies * length;
  code.bytes = first[length - 1].at + first[length - 1].insn.length;
  code.uses_stack = false;
  code.shareable = 0;
  for (unsigned i = 0; i < code.count; ++i) {
    code.uses_stack |= first[i].stack != StackUse::kNowhere;
    if (first[i].shareable) ++code.shareable;
  }
}

}  // namespace ostler::bt
