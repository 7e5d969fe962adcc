// ADD OR ADC SBB AND SUB XOR CMP TEST, INC DEC NEG NOT (SDM Vol. 2). One handler per operation, size and
// operand form.
#include "interp/families.h"
#include "interp/operand.h"

namespace ostler::interp {
namespace {

using x86::Opcode;

constexpr bool writes(Alu kind) {
  return kind != Alu::kCmp && kind != Alu::kTest;
}

template <Alu kind, class T>
const Op* alu_reg_reg(Cpu& cpu, const Op* op) {
  const uint8_t to = op->insn.operand[0].index;
  const T result = alu<kind, T>(cpu.reg<T>(to), cpu.reg<T>(op->insn.operand[1].index), cpu.s.flags_ax);
  if constexpr (writes(kind)) cpu.set_reg<T>(to, result);
  return next(cpu, op);
}

template <Alu kind, class T>
const Op* alu_reg_imm(Cpu& cpu, const Op* op) {
  const uint8_t to = op->insn.operand[0].index;
  const T result = alu<kind, T>(cpu.reg<T>(to), static_cast<T>(op->insn.imm), cpu.s.flags_ax);
  if constexpr (writes(kind)) cpu.set_reg<T>(to, result);
  return next(cpu, op);
}

template <Alu kind, class T, Ea ea>
const Op* alu_reg_mem(Cpu& cpu, const Op* op) {
  return with_load<ea, T>(cpu, op, alu_reg_mem<kind, T, Ea::kGeneral>, [&](T value) {
    const uint8_t to = op->insn.operand[0].index;
    const T result = alu<kind, T>(cpu.reg<T>(to), value, cpu.s.flags_ax);
    if constexpr (writes(kind)) cpu.set_reg<T>(to, result);
  });
}

// Source of a memory-destination form: a register or the immediate.
template <class T, bool immediate>
[[gnu::always_inline]] inline T source(const Cpu& cpu, const Op* op) {
  if constexpr (immediate)
    return static_cast<T>(op->insn.imm);
  else
    return cpu.reg<T>(op->insn.operand[1].index);
}

template <Alu kind, class T, Ea ea, bool immediate>
const Op* alu_mem(Cpu& cpu, const Op* op) {
  constexpr Handler general = alu_mem<kind, T, Ea::kGeneral, immediate>;
  const auto compute = [&](T left) {
    return alu<kind, T>(left, source<T, immediate>(cpu, op), cpu.s.flags_ax);
  };
  if constexpr (writes(kind))
    return with_update<ea, T>(cpu, op, general, compute);
  else
    return with_load<ea, T>(cpu, op, general, compute);
}

template <Alu kind, class T, Ea ea, bool immediate>
const Op* alu_mem_locked(Cpu& cpu, const Op* op) {
  return with_locked<ea, T>(
      cpu, op, alu_mem_locked<kind, T, Ea::kGeneral, immediate>,
      [&](T* p) { locked_alu<kind, T>(p, source<T, immediate>(cpu, op), cpu.s.flags_ax); },
      [&](T left) { return alu<kind, T>(left, source<T, immediate>(cpu, op), cpu.s.flags_ax); });
}

template <Unary kind, class T>
const Op* unary_reg(Cpu& cpu, const Op* op) {
  const uint8_t to = op->insn.operand[0].index;
  cpu.set_reg<T>(to, unary<kind, T>(cpu.reg<T>(to), cpu.s.flags_ax));
  return next(cpu, op);
}

template <Unary kind, class T, Ea ea>
const Op* unary_mem(Cpu& cpu, const Op* op) {
  return with_update<ea, T>(cpu, op, unary_mem<kind, T, Ea::kGeneral>,
                            [&](T value) { return unary<kind, T>(value, cpu.s.flags_ax); });
}

template <Unary kind, class T, Ea ea>
const Op* unary_mem_locked(Cpu& cpu, const Op* op) {
  return with_locked<ea, T>(
      cpu, op, unary_mem_locked<kind, T, Ea::kGeneral>,
      [&](T* p) { locked_unary<kind, T>(p, cpu.s.flags_ax); },
      [&](T value) { return unary<kind, T>(value, cpu.s.flags_ax); });
}

template <Alu kind>
Handler bind_alu(const x86::Instruction& insn, const BindContext& context) {
  const auto& to = insn.operand[0];
  const auto& from = insn.operand[1];
  const Ea ea = addressing(insn, context);
  if (is_gpr(to) && is_gpr(from))
    return by_size(to.size, []<class T>() -> Handler { return alu_reg_reg<kind, T>; });
  if (is_gpr(to) && is_imm(from))
    return by_size(to.size, []<class T>() -> Handler { return alu_reg_imm<kind, T>; });
  if (is_gpr(to) && is_mem(from))
    return by_ea(ea, [&]<Ea e>() {
      return by_size(to.size, []<class T>() -> Handler { return alu_reg_mem<kind, T, e>; });
    });
  if (!is_mem(to)) return nullptr;
  const bool immediate = is_imm(from);
  return by_ea(ea, [&]<Ea e>() {
    return by_size(to.size, [&]<class T>() -> Handler {
      if constexpr (writes(kind)) {
        if (insn.lock)
          return immediate ? alu_mem_locked<kind, T, e, true> : alu_mem_locked<kind, T, e, false>;
      }
      return immediate ? alu_mem<kind, T, e, true> : alu_mem<kind, T, e, false>;
    });
  });
}

template <Unary kind>
Handler bind_unary(const x86::Instruction& insn, const BindContext& context) {
  const auto& to = insn.operand[0];
  if (is_gpr(to)) return by_size(to.size, []<class T>() -> Handler { return unary_reg<kind, T>; });
  return by_ea(addressing(insn, context), [&]<Ea e>() {
    return by_size(to.size, [&]<class T>() -> Handler {
      return insn.lock ? unary_mem_locked<kind, T, e> : unary_mem<kind, T, e>;
    });
  });
}

}  // namespace

Handler bind_alu_family(const x86::Instruction& insn, const BindContext& context) {
  switch (insn.opcode) {
    case Opcode::kAdd:
      return bind_alu<Alu::kAdd>(insn, context);
    case Opcode::kOr:
      return bind_alu<Alu::kOr>(insn, context);
    case Opcode::kAdc:
      return bind_alu<Alu::kAdc>(insn, context);
    case Opcode::kSbb:
      return bind_alu<Alu::kSbb>(insn, context);
    case Opcode::kAnd:
      return bind_alu<Alu::kAnd>(insn, context);
    case Opcode::kSub:
      return bind_alu<Alu::kSub>(insn, context);
    case Opcode::kXor:
      return bind_alu<Alu::kXor>(insn, context);
    case Opcode::kCmp:
      return bind_alu<Alu::kCmp>(insn, context);
    case Opcode::kTest:
      return bind_alu<Alu::kTest>(insn, context);
    case Opcode::kInc:
      return bind_unary<Unary::kInc>(insn, context);
    case Opcode::kDec:
      return bind_unary<Unary::kDec>(insn, context);
    case Opcode::kNeg:
      return bind_unary<Unary::kNeg>(insn, context);
    case Opcode::kNot:
      return bind_unary<Unary::kNot>(insn, context);
    default:
      return nullptr;
  }
}

}  // namespace ostler::interp
