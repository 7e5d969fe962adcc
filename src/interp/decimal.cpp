// DAA DAS AAA AAS AAM AAD and BOUND: not valid in 64-bit code, so the host cannot execute them for us. Flags
// that the manual leaves undefined are what Intel's processors give where that is known.
#include <type_traits>

#include "base/bytes.h"
#include "interp/families.h"
#include "interp/operand.h"

namespace ostler::interp {
namespace {

using x86::Opcode;
using x86::Vector;

// SF, ZF, PF of `result`, and the rest as given.
uint16_t result_flags(uint8_t result, bool cf, bool af, bool of) {
  uint16_t flags = 0x0200;
  if ((result & 0x80) != 0) flags |= flags_ax::kSf;
  if (result == 0) flags |= flags_ax::kZf;
  if ((__builtin_popcount(result) & 1) == 0) flags |= flags_ax::kPf;
  if (cf) flags |= flags_ax::kCf;
  if (af) flags |= flags_ax::kAf;
  if (of) flags |= flags_ax::kOf;
  return flags;
}

template <bool subtract>
const Op* decimal_adjust(Cpu& cpu, const Op* op) {
  const auto old = cpu.reg<uint8_t>(0);
  uint8_t al = old;
  const bool old_cf = (cpu.s.flags_ax & flags_ax::kCf) != 0;
  bool cf = false;
  bool af = false;
  if ((old & 15) > 9 || (cpu.s.flags_ax & flags_ax::kAf) != 0) {
    cf = old_cf || (subtract ? old < 6 : old > 0xf9);
    al = static_cast<uint8_t>(subtract ? al - 6 : al + 6);
    af = true;
  }
  if (old > 0x99 || old_cf) {
    al = static_cast<uint8_t>(subtract ? al - 0x60 : al + 0x60);
    cf = true;
  }
  cpu.set_reg<uint8_t>(0, al);
  cpu.s.flags_ax = result_flags(al, cf, af, false);
  return next(cpu, op);
}

template <bool subtract>
const Op* ascii_adjust(Cpu& cpu, const Op* op) {
  auto ax = cpu.reg<uint16_t>(0);
  const bool adjust = (ax & 15) > 9 || (cpu.s.flags_ax & flags_ax::kAf) != 0;
  if (adjust) ax = static_cast<uint16_t>(subtract ? ax - 0x106 : ax + 0x106);
  ax &= 0xff0f;
  cpu.set_reg<uint16_t>(0, ax);
  cpu.s.flags_ax = result_flags(static_cast<uint8_t>(ax), adjust, adjust, false);
  return next(cpu, op);
}

const Op* aam(Cpu& cpu, const Op* op) {
  const auto base = static_cast<uint8_t>(op->insn.imm);
  if (base == 0) x86::raise(Vector::kDe);
  const auto al = cpu.reg<uint8_t>(0);
  cpu.set_reg<uint16_t>(0, static_cast<uint16_t>((al / base) << 8 | al % base));
  cpu.s.flags_ax = result_flags(static_cast<uint8_t>(al % base), false, false, false);
  return next(cpu, op);
}

const Op* aad(Cpu& cpu, const Op* op) {
  const auto product = static_cast<uint8_t>(cpu.reg<uint8_t>(1) * static_cast<uint8_t>(op->insn.imm));
  const uint8_t sum = alu<Alu::kAdd, uint8_t>(cpu.reg<uint8_t>(0), product, cpu.s.flags_ax);
  cpu.set_reg<uint16_t>(0, sum);
  return next(cpu, op);
}

template <class T>
const Op* bound(Cpu& cpu, const Op* op) {
  using S = std::make_signed_t<T>;
  const uint64_t offset = cpu.effective_offset(*op);
  const uint64_t above = (offset + sizeof(T)) & size_mask(op->insn.address_size);
  const auto lower = cpu.mmu.read<T>(cpu.linear(op->insn.segment, offset, sizeof(T), mmu::Access::kRead));
  const auto upper = cpu.mmu.read<T>(cpu.linear(op->insn.segment, above, sizeof(T), mmu::Access::kRead));
  const auto index = static_cast<S>(cpu.reg<T>(op->insn.operand[0].index));
  if (index < static_cast<S>(lower) || index > static_cast<S>(upper)) x86::raise(Vector::kBr);
  return next(cpu, op);
}

}  // namespace

Handler bind_decimal_family(const x86::Instruction& insn, const BindContext&) {
  switch (insn.opcode) {
    case Opcode::kDaa:
      return decimal_adjust<false>;
    case Opcode::kDas:
      return decimal_adjust<true>;
    case Opcode::kAaa:
      return ascii_adjust<false>;
    case Opcode::kAas:
      return ascii_adjust<true>;
    case Opcode::kAam:
      return aam;
    case Opcode::kAad:
      return aad;
    case Opcode::kBound:
      return insn.operand_size == 2 ? bound<uint16_t> : bound<uint32_t>;
    default:
      return nullptr;
  }
}

}  // namespace ostler::interp
