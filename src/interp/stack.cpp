// PUSH POP PUSHA POPA PUSHF POPF ENTER LEAVE (SDM Vol. 2). Segment registers are of the system family.
#include "base/bytes.h"
#include "interp/operand.h"
#include "interp/stack_access.h"

namespace ostler::interp {
namespace {

using mmu::Access;
using x86::Opcode;
using x86::Vector;
namespace rflags = x86::rflags;

template <bool flat, class T>
const Op* push_reg(Cpu& cpu, const Op* op) {
  push<flat, T>(cpu, cpu.reg<T>(op->insn.operand[0].index));
  return next(cpu, op);
}
template <bool flat, class T>
const Op* push_imm(Cpu& cpu, const Op* op) {
  push<flat, T>(cpu, static_cast<T>(op->insn.imm));
  return next(cpu, op);
}
template <bool flat, class T>
const Op* push_mem(Cpu& cpu, const Op* op) {
  push<flat, T>(cpu, load_general<T>(cpu, op));
  return next(cpu, op);
}
template <bool flat, class T>
const Op* pop_reg(Cpu& cpu, const Op* op) {
  const T value = stack_top<flat, T>(cpu);
  release_stack<flat>(cpu, sizeof(T));
  cpu.set_reg<T>(op->insn.operand[0].index, value);  // POP RSP: the value wins
  return next(cpu, op);
}
// An address based on RSP uses its value after the pop.
template <bool flat, class T>
const Op* pop_mem(Cpu& cpu, const Op* op) {
  const T value = stack_top<flat, T>(cpu);
  const uint64_t before = cpu.s.gpr[x86::kRsp];
  release_stack<flat>(cpu, sizeof(T));
  const uint64_t after = cpu.s.gpr[x86::kRsp];
  const uint64_t offset = cpu.effective_offset(*op);
  cpu.s.gpr[x86::kRsp] = before;
  cpu.mmu.write<T>(cpu.linear(op->insn.segment, offset, sizeof(T), Access::kWrite), value);
  cpu.s.gpr[x86::kRsp] = after;
  return next(cpu, op);
}

// ---- PUSHA, POPA: eight registers, all checked before the first is written ----
template <class T>
const Op* pusha(Cpu& cpu, const Op* op) {
  const uint64_t mask = cpu.stack_mask();
  const uint64_t sp = cpu.s.gpr[x86::kRsp];
  uint64_t addresses[8];
  for (unsigned i = 0; i < 8; ++i) {
    addresses[i] = cpu.linear(x86::kSs, (sp - (i + 1) * sizeof(T)) & mask, sizeof(T), Access::kWrite);
    cpu.mmu.probe(addresses[i], sizeof(T), Access::kWrite);
  }
  for (unsigned i = 0; i < 8; ++i) cpu.mmu.write<T>(addresses[i], static_cast<T>(cpu.s.gpr[i]));
  cpu.set_sp((sp - 8 * sizeof(T)) & mask);
  return next(cpu, op);
}
template <class T>
const Op* popa(Cpu& cpu, const Op* op) {
  T values[8];
  for (unsigned i = 0; i < 8; ++i) values[i] = stack_general<T>(cpu, i * sizeof(T));
  for (unsigned i = 0; i < 8; ++i)
    if (7 - i != x86::kRsp) cpu.set_reg<T>(static_cast<uint8_t>((7 - i) * 8), values[i]);
  cpu.set_sp((cpu.s.gpr[x86::kRsp] + 8 * sizeof(T)) & cpu.stack_mask());
  return next(cpu, op);
}

// ---- PUSHF, POPF ----
bool v8086_below_iopl(const Cpu& cpu) {
  return cpu.s.v8086() && (cpu.s.flags_rest & rflags::kIopl) != rflags::kIopl;
}

template <class T>
const Op* pushf(Cpu& cpu, const Op* op) {
  uint64_t value = cpu.s.rflags() & ~(rflags::kRf | rflags::kVm);
  if (v8086_below_iopl(cpu)) {
    if (sizeof(T) != 2 || (cpu.s.cr4 & x86::cr4::kVme) == 0) x86::raise(Vector::kGp, 0);
    // Virtual-8086 mode extensions: IF is VIF, IOPL reads as 3.
    value = (value & ~rflags::kIf) | rflags::kIopl | ((value & rflags::kVif) != 0 ? rflags::kIf : 0);
  }
  push_general<T>(cpu, static_cast<T>(value));
  return next(cpu, op);
}

template <class T>
const Op* popf(Cpu& cpu, const Op* op) {
  x86::CpuState& s = cpu.s;
  const T popped = stack_general<T>(cpu, 0);
  const uint64_t old = s.rflags();
  uint64_t value = popped;
  uint64_t changeable = rflags::kArithmetic | rflags::kTf | rflags::kDf | rflags::kNt;
  if constexpr (sizeof(T) > 2) changeable |= rflags::kAc | rflags::kId;
  if (v8086_below_iopl(cpu)) {
    if (sizeof(T) != 2 || (s.cr4 & x86::cr4::kVme) == 0) x86::raise(Vector::kGp, 0);
    if ((value & rflags::kTf) != 0 || ((value & rflags::kIf) != 0 && (old & rflags::kVip) != 0))
      x86::raise(Vector::kGp, 0);
    value = (value & ~rflags::kVif) | ((value & rflags::kIf) != 0 ? rflags::kVif : 0);
    changeable |= rflags::kVif;
  } else {
    if (cpu.cpl == 0) changeable |= rflags::kIopl;
    if (cpu.cpl <= (old & rflags::kIopl) >> 12) changeable |= rflags::kIf;
  }
  const uint64_t now = (old & ~changeable & ~rflags::kRf) | (value & changeable);
  release_stack<false>(cpu, sizeof(T));
  s.set_rflags(now);
  const uint64_t changed = old ^ now;
  if ((changed & rflags::kAc) != 0) cpu.mode_changed();
  s.rip = cpu.next_rip(*op);
  return nullptr;
}

// ---- ENTER, LEAVE ----
// Pushes and reads in the order of the manual's pseudocode, as processors do: frame pointers may be read from
// what was just pushed, and a fault half-way leaves memory below RSP written. RSP and RBP change last.
template <class T>
const Op* enter_frame(Cpu& cpu, const Op* op) {
  x86::CpuState& s = cpu.s;
  const unsigned level = op->insn.imm2 & 31;
  const uint64_t mask = cpu.stack_mask();
  const uint64_t bytes = op->insn.imm & 0xffff;
  const uint64_t frame = (s.gpr[x86::kRsp] - sizeof(T)) & mask;
  uint64_t sp = s.gpr[x86::kRsp];
  const auto push_below = [&](T value) {
    sp = (sp - sizeof(T)) & mask;
    cpu.mmu.write<T>(cpu.linear(x86::kSs, sp, sizeof(T), Access::kWrite), value);
  };
  push_below(cpu.reg<T>(x86::kRbp * 8));
  for (unsigned i = 1; i < level; ++i) {
    const uint64_t from = (s.gpr[x86::kRbp] - i * sizeof(T)) & mask;
    push_below(cpu.mmu.read<T>(cpu.linear(x86::kSs, from, sizeof(T), Access::kRead)));
  }
  if (level > 0) push_below(static_cast<T>(frame));
  // The new top of the stack is touched for writing, so that a missing page faults here.
  sp = (sp - bytes) & mask;
  cpu.mmu.probe(cpu.linear(x86::kSs, sp, sizeof(T), Access::kWrite), sizeof(T), Access::kWrite);
  cpu.set_reg<T>(x86::kRbp * 8, static_cast<T>(frame));
  cpu.set_sp(sp);
  return next(cpu, op);
}

template <class T>
const Op* leave_frame(Cpu& cpu, const Op* op) {
  const uint64_t mask = cpu.stack_mask();
  const uint64_t frame = cpu.s.gpr[x86::kRbp] & mask;
  const T value = cpu.mmu.read<T>(cpu.linear(x86::kSs, frame, sizeof(T), Access::kRead));
  cpu.set_sp((frame + sizeof(T)) & mask);
  cpu.set_reg<T>(x86::kRbp * 8, value);
  return next(cpu, op);
}

template <bool flat>
Handler bind_push(const x86::Instruction& insn) {
  return by_word_size(insn.operand_size, [&]<class T>() -> Handler {
    switch (insn.operand[0].kind) {
      case x86::OperandKind::kGpr:
        return push_reg<flat, T>;
      case x86::OperandKind::kImm:
        return push_imm<flat, T>;
      case x86::OperandKind::kMem:
        return push_mem<flat, T>;
      default:
        return nullptr;
    }
  });
}
template <bool flat>
Handler bind_pop(const x86::Instruction& insn) {
  return by_word_size(insn.operand_size, [&]<class T>() -> Handler {
    if (is_gpr(insn.operand[0])) return pop_reg<flat, T>;
    return is_mem(insn.operand[0]) ? pop_mem<flat, T> : nullptr;
  });
}

}  // namespace

Handler bind_stack(const x86::Instruction& insn, const BindContext& context) {
  const unsigned size = insn.operand_size;
  switch (insn.opcode) {
    case Opcode::kPush:
      return context.flat ? bind_push<true>(insn) : bind_push<false>(insn);
    case Opcode::kPop:
      return context.flat ? bind_pop<true>(insn) : bind_pop<false>(insn);
    case Opcode::kPusha:
      return size == 2 ? pusha<uint16_t> : pusha<uint32_t>;
    case Opcode::kPopa:
      return size == 2 ? popa<uint16_t> : popa<uint32_t>;
    case Opcode::kPushf:
      return by_word_size(size, []<class T>() -> Handler { return pushf<T>; });
    case Opcode::kPopf:
      return by_word_size(size, []<class T>() -> Handler { return popf<T>; });
    case Opcode::kEnter:
      return by_word_size(size, []<class T>() -> Handler { return enter_frame<T>; });
    case Opcode::kLeave:
      return by_word_size(size, []<class T>() -> Handler { return leave_frame<T>; });
    default:
      return nullptr;
  }
}

}  // namespace ostler::interp
