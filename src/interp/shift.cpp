// ROL ROR RCL RCR SHL SHR SAR, SHLD SHRD (SDM Vol. 2). The host's own instruction does the work and the
// flags, with the guest's flags loaded first: a count of 0 keeps them.
#include "interp/families.h"
#include "interp/operand.h"

namespace ostler::interp {
namespace {

using x86::Opcode;

template <bool immediate>
[[gnu::always_inline]] inline uint8_t count_of(const Cpu& cpu, const Op* op) {
  if constexpr (immediate)
    return static_cast<uint8_t>(op->insn.imm);
  else
    return cpu.reg<uint8_t>(x86::kRcx * 8);
}

// OF is undefined for rotations by more than 1. By CL the processor computes it; by an immediate it keeps it.
template <Shift kind, class T, bool immediate>
[[gnu::always_inline]] inline T shifted(Cpu& cpu, const Op* op, T value) {
  const uint8_t count = count_of<immediate>(cpu, op);
  const uint16_t before = cpu.s.flags_ax;
  const T result = shift<kind, T>(value, count, cpu.s.flags_ax);
  if constexpr (immediate && (kind == Shift::kRol || kind == Shift::kRor)) {
    if ((count & (sizeof(T) == 8 ? 63 : 31)) != 1)
      cpu.s.flags_ax = static_cast<uint16_t>((cpu.s.flags_ax & ~flags_ax::kOf) | (before & flags_ax::kOf));
  }
  return result;
}

template <Shift kind, class T, bool immediate>
const Op* shift_reg(Cpu& cpu, const Op* op) {
  const uint8_t to = op->insn.operand[0].index;
  cpu.set_reg<T>(to, shifted<kind, T, immediate>(cpu, op, cpu.reg<T>(to)));
  return next(cpu, op);
}
template <Shift kind, class T, bool immediate, Ea ea>
const Op* shift_mem(Cpu& cpu, const Op* op) {
  return with_update<ea, T>(cpu, op, shift_mem<kind, T, immediate, Ea::kGeneral>,
                            [&](T value) { return shifted<kind, T, immediate>(cpu, op, value); });
}

template <Shift kind>
Handler bind_shift(const x86::Instruction& insn, const BindContext& context) {
  const bool immediate = is_imm(insn.operand[1]);
  return by_size(insn.operand[0].size, [&]<class T>() -> Handler {
    if (is_gpr(insn.operand[0])) return immediate ? shift_reg<kind, T, true> : shift_reg<kind, T, false>;
    return by_ea(addressing(insn, context), [&]<Ea e>() -> Handler {
      return immediate ? shift_mem<kind, T, true, e> : shift_mem<kind, T, false, e>;
    });
  });
}

// ---- SHLD, SHRD ----
template <bool left, class T>
T double_shift(T a, T b, uint8_t count, uint16_t& flags) {
  uint16_t out = flags;
#define OSTLER_DOUBLE(mnemonic, suffix, mod)                                                \
  asm(OSTLER_LOAD_FLAGS mnemonic suffix " %%cl, %" mod "[b], %" mod "[a]" OSTLER_SAVE_FLAGS \
      : [a] "+&r"(a), "+&a"(out)                                                            \
      : [b] "r"(b), "c"(count)                                                              \
      : "cc");
#define OSTLER_ONE(suffix, mod)        \
  if constexpr (left) {                \
    OSTLER_DOUBLE("shld", suffix, mod) \
  } else {                             \
    OSTLER_DOUBLE("shrd", suffix, mod) \
  }
  if constexpr (sizeof(T) == 2) {
    OSTLER_ONE("w", "w")
  } else if constexpr (sizeof(T) == 4) {
    OSTLER_ONE("l", "k")
  } else {
    OSTLER_ONE("q", "q")
  }
#undef OSTLER_ONE
#undef OSTLER_DOUBLE
  flags = out;
  return a;
}

template <bool left, class T, bool immediate>
T double_shifted(Cpu& cpu, const Op* op, T value) {
  return double_shift<left, T>(value, cpu.reg<T>(op->insn.operand[1].index), count_of<immediate>(cpu, op),
                               cpu.s.flags_ax);
}
template <bool left, class T, bool immediate>
const Op* double_shift_reg(Cpu& cpu, const Op* op) {
  const uint8_t to = op->insn.operand[0].index;
  cpu.set_reg<T>(to, double_shifted<left, T, immediate>(cpu, op, cpu.reg<T>(to)));
  return next(cpu, op);
}
template <bool left, class T, bool immediate>
const Op* double_shift_mem(Cpu& cpu, const Op* op) {
  return with_update<Ea::kGeneral, T>(
      cpu, op, nullptr, [&](T value) { return double_shifted<left, T, immediate>(cpu, op, value); });
}
template <bool left>
Handler bind_double_shift(const x86::Instruction& insn) {
  const bool immediate = is_imm(insn.operand[2]);
  const bool reg = is_gpr(insn.operand[0]);
  return by_word_size(insn.operand[0].size, [&]<class T>() -> Handler {
    if (reg) return immediate ? double_shift_reg<left, T, true> : double_shift_reg<left, T, false>;
    return immediate ? double_shift_mem<left, T, true> : double_shift_mem<left, T, false>;
  });
}

}  // namespace

Handler bind_shift_family(const x86::Instruction& insn, const BindContext& context) {
  switch (insn.opcode) {
    case Opcode::kRol:
      return bind_shift<Shift::kRol>(insn, context);
    case Opcode::kRor:
      return bind_shift<Shift::kRor>(insn, context);
    case Opcode::kRcl:
      return bind_shift<Shift::kRcl>(insn, context);
    case Opcode::kRcr:
      return bind_shift<Shift::kRcr>(insn, context);
    case Opcode::kShl:
      return bind_shift<Shift::kShl>(insn, context);
    case Opcode::kShr:
      return bind_shift<Shift::kShr>(insn, context);
    case Opcode::kSar:
      return bind_shift<Shift::kSar>(insn, context);
    case Opcode::kShld:
      return bind_double_shift<true>(insn);
    case Opcode::kShrd:
      return bind_double_shift<false>(insn);
    default:
      return nullptr;
  }
}

}  // namespace ostler::interp
