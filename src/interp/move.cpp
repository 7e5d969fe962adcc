// Data movement: MOV MOVZX MOVSX LEA XCHG CMOV SETcc BSWAP MOVBE CBW CWD XLAT MOVNTI (SDM Vol. 2).
#include <type_traits>
#include <utility>

#include "base/bytes.h"
#include "interp/families.h"
#include "interp/operand.h"

namespace ostler::interp {
namespace {

using x86::Opcode;

template <class T>
const Op* mov_reg_reg(Cpu& cpu, const Op* op) {
  cpu.set_reg<T>(op->insn.operand[0].index, cpu.reg<T>(op->insn.operand[1].index));
  return next(cpu, op);
}
template <class T>
const Op* mov_reg_imm(Cpu& cpu, const Op* op) {
  cpu.set_reg<T>(op->insn.operand[0].index, static_cast<T>(op->insn.imm));
  return next(cpu, op);
}
template <class T, Ea ea>
const Op* mov_reg_mem(Cpu& cpu, const Op* op) {
  return with_load<ea, T>(cpu, op, mov_reg_mem<T, Ea::kGeneral>,
                          [&](T value) { cpu.set_reg<T>(op->insn.operand[0].index, value); });
}
template <class T, Ea ea>
const Op* mov_mem_reg(Cpu& cpu, const Op* op) {
  return with_store<ea, T>(cpu, op, mov_mem_reg<T, Ea::kGeneral>, cpu.reg<T>(op->insn.operand[1].index));
}
template <class T, Ea ea>
const Op* mov_mem_imm(Cpu& cpu, const Op* op) {
  return with_store<ea, T>(cpu, op, mov_mem_imm<T, Ea::kGeneral>, static_cast<T>(op->insn.imm));
}

Handler bind_mov(const x86::Instruction& insn, const BindContext& context) {
  const auto& to = insn.operand[0];
  const auto& from = insn.operand[1];
  const Ea ea = addressing(insn, context);
  if (is_gpr(to) && is_gpr(from))
    return by_size(to.size, []<class T>() -> Handler { return mov_reg_reg<T>; });
  if (is_gpr(to) && is_imm(from))
    return by_size(to.size, []<class T>() -> Handler { return mov_reg_imm<T>; });
  if (is_gpr(to) && is_mem(from))
    return by_ea(
        ea, [&]<Ea e>() { return by_size(to.size, []<class T>() -> Handler { return mov_reg_mem<T, e>; }); });
  if (is_mem(to) && is_gpr(from))
    return by_ea(
        ea, [&]<Ea e>() { return by_size(to.size, []<class T>() -> Handler { return mov_mem_reg<T, e>; }); });
  if (is_mem(to) && is_imm(from))
    return by_ea(
        ea, [&]<Ea e>() { return by_size(to.size, []<class T>() -> Handler { return mov_mem_imm<T, e>; }); });
  return nullptr;  // control, debug and segment registers
}

// ---- MOVZX, MOVSX, MOVSXD: From to To, both unsigned types; is_signed extends the sign ----
template <class To, class From, bool is_signed>
constexpr To extend(From value) {
  if constexpr (is_signed)
    return static_cast<To>(static_cast<int64_t>(static_cast<std::make_signed_t<From>>(value)));
  else
    return static_cast<To>(value);
}
template <class To, class From, bool is_signed>
const Op* extend_reg(Cpu& cpu, const Op* op) {
  cpu.set_reg<To>(op->insn.operand[0].index,
                  extend<To, From, is_signed>(cpu.reg<From>(op->insn.operand[1].index)));
  return next(cpu, op);
}
template <class To, class From, bool is_signed, Ea ea>
const Op* extend_mem(Cpu& cpu, const Op* op) {
  return with_load<ea, From>(cpu, op, extend_mem<To, From, is_signed, Ea::kGeneral>, [&](From value) {
    cpu.set_reg<To>(op->insn.operand[0].index, extend<To, From, is_signed>(value));
  });
}
template <bool is_signed>
Handler bind_extend(const x86::Instruction& insn, const BindContext& context) {
  const auto& to = insn.operand[0];
  const auto& from = insn.operand[1];
  return by_word_size(to.size, [&]<class To>() -> Handler {
    return by_size(from.size, [&]<class From>() -> Handler {
      if (is_gpr(from)) return extend_reg<To, From, is_signed>;
      return by_ea(addressing(insn, context),
                   []<Ea e>() -> Handler { return extend_mem<To, From, is_signed, e>; });
    });
  });
}

template <class T, Ea ea>
const Op* lea(Cpu& cpu, const Op* op) {
  uint64_t address;
  if constexpr (ea == Ea::kGeneral)
    address = cpu.effective_offset(*op);
  else
    address = flat_address<ea>(cpu, op);
  cpu.set_reg<T>(op->insn.operand[0].index, static_cast<T>(address));
  return next(cpu, op);
}

Handler bind_lea(const x86::Instruction& insn) {
  // No memory is touched, so segments do not matter.
  const Ea ea = insn.address_size != 8           ? Ea::kGeneral
                : insn.index == x86::kNoRegister ? Ea::kBase
                                                 : Ea::kBaseIndex;
  return by_ea(ea, [&]<Ea e>() {
    return by_word_size(insn.operand[0].size, []<class T>() -> Handler { return lea<T, e>; });
  });
}

template <class T>
const Op* xchg_reg_reg(Cpu& cpu, const Op* op) {
  const uint8_t a = op->insn.operand[0].index;
  const uint8_t b = op->insn.operand[1].index;
  const T left = cpu.reg<T>(a);
  const T right = cpu.reg<T>(b);
  cpu.set_reg<T>(b, left);
  cpu.set_reg<T>(a, right);
  return next(cpu, op);
}
// XCHG with memory is locked with or without the prefix.
template <class T, Ea ea>
const Op* xchg_mem(Cpu& cpu, const Op* op) {
  const uint8_t reg = op->insn.operand[is_gpr(op->insn.operand[0]) ? 0 : 1].index;
  return with_locked<ea, T>(
      cpu, op, xchg_mem<T, Ea::kGeneral>,
      [&](T* p) { cpu.set_reg<T>(reg, __atomic_exchange_n(p, cpu.reg<T>(reg), __ATOMIC_SEQ_CST)); },
      [&](T present) {
        const T value = cpu.reg<T>(reg);
        cpu.set_reg<T>(reg, present);
        return value;
      });
}
Handler bind_xchg(const x86::Instruction& insn, const BindContext& context) {
  return by_size(insn.operand[0].size, [&]<class T>() -> Handler {
    if (is_gpr(insn.operand[0]) && is_gpr(insn.operand[1])) return xchg_reg_reg<T>;
    return by_ea(addressing(insn, context), []<Ea e>() -> Handler { return xchg_mem<T, e>; });
  });
}

// The source is read, and a 32-bit destination zero-extended, whether or not the condition holds.
template <unsigned condition, class T>
const Op* cmov_reg(Cpu& cpu, const Op* op) {
  const uint8_t to = op->insn.operand[0].index;
  const T from = cpu.reg<T>(op->insn.operand[1].index);
  const T old = cpu.reg<T>(to);
  cpu.set_reg<T>(to, condition_holds<condition>(cpu.s.flags_ax) ? from : old);
  return next(cpu, op);
}
template <unsigned condition, class T, Ea ea>
const Op* cmov_mem(Cpu& cpu, const Op* op) {
  return with_load<ea, T>(cpu, op, cmov_mem<condition, T, Ea::kGeneral>, [&](T from) {
    const uint8_t to = op->insn.operand[0].index;
    const T old = cpu.reg<T>(to);
    cpu.set_reg<T>(to, condition_holds<condition>(cpu.s.flags_ax) ? from : old);
  });
}
template <unsigned condition>
const Op* setcc_reg(Cpu& cpu, const Op* op) {
  cpu.set_reg<uint8_t>(op->insn.operand[0].index, condition_holds<condition>(cpu.s.flags_ax));
  return next(cpu, op);
}
template <unsigned condition>
const Op* setcc_mem(Cpu& cpu, const Op* op) {
  store_general<uint8_t>(cpu, op, condition_holds<condition>(cpu.s.flags_ax));
  return next(cpu, op);
}

template <class T, Ea ea, unsigned... conditions>
Handler cmov_mem_of(unsigned condition, std::integer_sequence<unsigned, conditions...>) {
  static constexpr Handler kTable[] = {cmov_mem<conditions, T, ea>...};
  return kTable[condition & 15];
}
template <class T, unsigned... conditions>
Handler cmov_reg_of(unsigned condition, std::integer_sequence<unsigned, conditions...>) {
  static constexpr Handler kTable[] = {cmov_reg<conditions, T>...};
  return kTable[condition & 15];
}
template <unsigned... conditions>
Handler setcc_of(bool memory, unsigned condition, std::integer_sequence<unsigned, conditions...>) {
  static constexpr Handler kReg[] = {setcc_reg<conditions>...};
  static constexpr Handler kMem[] = {setcc_mem<conditions>...};
  return (memory ? kMem : kReg)[condition & 15];
}
using Conditions = std::make_integer_sequence<unsigned, 16>;

Handler bind_cmov(const x86::Instruction& insn, const BindContext& context) {
  return by_word_size(insn.operand[0].size, [&]<class T>() -> Handler {
    if (is_gpr(insn.operand[1])) return cmov_reg_of<T>(insn.condition, Conditions{});
    return by_ea(addressing(insn, context),
                 [&]<Ea e>() -> Handler { return cmov_mem_of<T, e>(insn.condition, Conditions{}); });
  });
}

template <class T>
constexpr T byte_swap(T value) {
  if constexpr (sizeof(T) == 2) return __builtin_bswap16(value);
  if constexpr (sizeof(T) == 4) return __builtin_bswap32(value);
  if constexpr (sizeof(T) == 8) return __builtin_bswap64(value);
}

template <class T>
const Op* bswap(Cpu& cpu, const Op* op) {
  const uint8_t reg = op->insn.operand[0].index;
  // BSWAP of a 16-bit register is undefined; processors clear it.
  cpu.set_reg<T>(reg, sizeof(T) == 2 ? T{0} : byte_swap<T>(cpu.reg<T>(reg)));
  return next(cpu, op);
}
template <class T>
const Op* movbe_load(Cpu& cpu, const Op* op) {
  cpu.set_reg<T>(op->insn.operand[0].index, byte_swap<T>(load_general<T>(cpu, op)));
  return next(cpu, op);
}
template <class T>
const Op* movbe_store(Cpu& cpu, const Op* op) {
  store_general<T>(cpu, op, byte_swap<T>(cpu.reg<T>(op->insn.operand[1].index)));
  return next(cpu, op);
}

// CBW CWDE CDQE: T is the destination's type.
template <class T, class Half>
const Op* cbw(Cpu& cpu, const Op* op) {
  cpu.set_reg<T>(0, extend<T, Half, true>(cpu.reg<Half>(0)));
  return next(cpu, op);
}
// CWD CDQ CQO.
template <class T>
const Op* cwd(Cpu& cpu, const Op* op) {
  const auto value = static_cast<std::make_signed_t<T>>(cpu.reg<T>(0));
  cpu.set_reg<T>(x86::kRdx * 8, value < 0 ? static_cast<T>(~T{0}) : T{0});
  return next(cpu, op);
}

const Op* xlat(Cpu& cpu, const Op* op) {
  const uint64_t offset =
      (cpu.reg<uint64_t>(x86::kRbx * 8) + cpu.reg<uint8_t>(0)) & size_mask(op->insn.address_size);
  const uint64_t address = cpu.linear(op->insn.segment, offset, 1, mmu::Access::kRead);
  cpu.set_reg<uint8_t>(0, cpu.mmu.read<uint8_t>(address));
  return next(cpu, op);
}

}  // namespace

Handler bind_move_family(const x86::Instruction& insn, const BindContext& context) {
  switch (insn.opcode) {
    case Opcode::kMov:
    case Opcode::kMovnti:
      return bind_mov(insn, context);
    case Opcode::kMovzx:
      return bind_extend<false>(insn, context);
    case Opcode::kMovsx:
      return bind_extend<true>(insn, context);
    case Opcode::kLea:
      return bind_lea(insn);
    case Opcode::kXchg:
      return bind_xchg(insn, context);
    case Opcode::kCmov:
      return bind_cmov(insn, context);
    case Opcode::kSetcc:
      return setcc_of(is_mem(insn.operand[0]), insn.condition, Conditions{});
    case Opcode::kBswap:
      return by_word_size(insn.operand[0].size, []<class T>() -> Handler { return bswap<T>; });
    case Opcode::kMovbe:
      return by_word_size(insn.operand[0].size, [&]<class T>() -> Handler {
        return is_mem(insn.operand[0]) ? movbe_store<T> : movbe_load<T>;
      });
    case Opcode::kCbw:
      return insn.operand_size == 2   ? cbw<uint16_t, uint8_t>
             : insn.operand_size == 4 ? cbw<uint32_t, uint16_t>
                                      : cbw<uint64_t, uint32_t>;
    case Opcode::kCwd:
      return by_word_size(insn.operand_size, []<class T>() -> Handler { return cwd<T>; });
    case Opcode::kXlat:
      return xlat;
    default:
      return nullptr;
  }
}

}  // namespace ostler::interp
