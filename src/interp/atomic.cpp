// XADD CMPXCHG CMPXCHG8B CMPXCHG16B and RDRAND RDSEED (SDM Vol. 2). CMPXCHG writes its destination whether or
// not it compares equal.
#include "interp/families.h"
#include "interp/operand.h"

namespace ostler::interp {
namespace {

using mmu::Access;
using x86::Opcode;
using x86::Vector;
__extension__ using Wide = unsigned __int128;

template <class T>
const Op* xadd_reg(Cpu& cpu, const Op* op) {
  const uint8_t to = op->insn.operand[0].index;
  const uint8_t from = op->insn.operand[1].index;
  const T old = cpu.reg<T>(to);
  const T sum = alu<Alu::kAdd, T>(old, cpu.reg<T>(from), cpu.s.flags_ax);
  cpu.set_reg<T>(from, old);
  cpu.set_reg<T>(to, sum);  // last: with one register for both the sum wins
  return next(cpu, op);
}
template <class T, Ea ea>
const Op* xadd_mem(Cpu& cpu, const Op* op) {
  const uint8_t from = op->insn.operand[1].index;
  return with_update<ea, T>(cpu, op, xadd_mem<T, Ea::kGeneral>, [&](T old) {
    const T sum = alu<Alu::kAdd, T>(old, cpu.reg<T>(from), cpu.s.flags_ax);
    cpu.set_reg<T>(from, old);
    return sum;
  });
}
template <class T, Ea ea>
const Op* xadd_mem_locked(Cpu& cpu, const Op* op) {
  const uint8_t from = op->insn.operand[1].index;
  const auto add = [&](T old) {
    const T sum = alu<Alu::kAdd, T>(old, cpu.reg<T>(from), cpu.s.flags_ax);
    cpu.set_reg<T>(from, old);
    return sum;
  };
  return with_locked<ea, T>(
      cpu, op, xadd_mem_locked<T, Ea::kGeneral>,
      [&](T* p) { add(__atomic_fetch_add(p, cpu.reg<T>(from), __ATOMIC_SEQ_CST)); }, add);
}

// Compares with the accumulator: flags as CMP, the accumulator takes what was found. Returns the value to
// write.
template <class T>
T compare_exchange(Cpu& cpu, T found, T replacement) {
  const T expected = cpu.reg<T>(0);
  alu<Alu::kCmp, T>(expected, found, cpu.s.flags_ax);
  if (found == expected) return replacement;
  cpu.set_reg<T>(0, found);
  return found;
}
// A register destination that differs is not written at all: 32-bit forms leave its upper half.
template <class T>
const Op* cmpxchg_reg(Cpu& cpu, const Op* op) {
  const uint8_t to = op->insn.operand[0].index;
  const T found = cpu.reg<T>(to);
  const T expected = cpu.reg<T>(0);
  const T replacement = cpu.reg<T>(op->insn.operand[1].index);
  alu<Alu::kCmp, T>(expected, found, cpu.s.flags_ax);
  if (found == expected) {
    cpu.set_reg<T>(to, replacement);
  } else {
    cpu.set_reg<T>(0, found);
  }
  return next(cpu, op);
}
template <class T, Ea ea>
const Op* cmpxchg_mem(Cpu& cpu, const Op* op) {
  return with_update<ea, T>(cpu, op, cmpxchg_mem<T, Ea::kGeneral>, [&](T found) {
    return compare_exchange<T>(cpu, found, cpu.reg<T>(op->insn.operand[1].index));
  });
}
template <class T, Ea ea>
const Op* cmpxchg_mem_locked(Cpu& cpu, const Op* op) {
  const uint8_t from = op->insn.operand[1].index;
  return with_locked<ea, T>(
      cpu, op, cmpxchg_mem_locked<T, Ea::kGeneral>,
      [&](T* p) {
        T found = cpu.reg<T>(0);
        __atomic_compare_exchange_n(p, &found, cpu.reg<T>(from), false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
        compare_exchange<T>(cpu, found, T{0});
      },
      [&](T found) { return compare_exchange<T>(cpu, found, cpu.reg<T>(from)); });
}

// ---- CMPXCHG8B, CMPXCHG16B: Half is what a register holds ----
void set_zf(Cpu& cpu, bool value) {
  cpu.s.flags_ax = static_cast<uint16_t>((cpu.s.flags_ax & ~flags_ax::kZf) | (value ? flags_ax::kZf : 0));
}
template <class Half>
struct Pair {
  Half low, high;
};
template <class Half>
Pair<Half> pair_of(const Cpu& cpu, x86::GprIndex high, x86::GprIndex low) {
  return {static_cast<Half>(cpu.s.gpr[low]), static_cast<Half>(cpu.s.gpr[high])};
}
// ZF and RDX:RAX after `found` was compared. The registers keep their upper halves when it was equal.
template <class Half>
bool settle_pair(Cpu& cpu, Half low, Half high) {
  const auto expected = pair_of<Half>(cpu, x86::kRdx, x86::kRax);
  const bool equal = low == expected.low && high == expected.high;
  set_zf(cpu, equal);
  if (!equal) {
    cpu.set_reg<Half>(x86::kRax * 8, low);
    cpu.set_reg<Half>(x86::kRdx * 8, high);
  }
  return equal;
}

const Op* cmpxchg8b(Cpu& cpu, const Op* op) {
  const auto replacement = pair_of<uint32_t>(cpu, x86::kRcx, x86::kRbx);
  const uint64_t wanted = replacement.low | static_cast<uint64_t>(replacement.high) << 32;
  const auto update = [&](uint64_t found) {
    return settle_pair<uint32_t>(cpu, static_cast<uint32_t>(found), static_cast<uint32_t>(found >> 32))
               ? wanted
               : found;
  };
  const uint64_t address = cpu.linear(*op, 8, Access::kWrite);
  locked_at<uint64_t>(
      cpu, address,
      [&](uint64_t* p) {
        const auto expected = pair_of<uint32_t>(cpu, x86::kRdx, x86::kRax);
        uint64_t found = expected.low | static_cast<uint64_t>(expected.high) << 32;
        __atomic_compare_exchange_n(p, &found, wanted, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
        update(found);
      },
      update);
  return next(cpu, op);
}

const Op* cmpxchg16b(Cpu& cpu, const Op* op) {
  const uint64_t address = cpu.linear(*op, 16, Access::kWrite);
  if ((address & 15) != 0) x86::raise(Vector::kGp, 0);
  const auto wanted = pair_of<uint64_t>(cpu, x86::kRcx, x86::kRbx);
  locked_at<Wide>(
      cpu, address,
      [&](Wide* p) {
        auto found = pair_of<uint64_t>(cpu, x86::kRdx, x86::kRax);
        asm volatile("lock cmpxchg16b %0"
                     : "+m"(*p), "+a"(found.low), "+d"(found.high)
                     : "b"(wanted.low), "c"(wanted.high)
                     : "cc", "memory");
        settle_pair<uint64_t>(cpu, found.low, found.high);
      },
      [&](Wide found) {
        const bool equal =
            settle_pair<uint64_t>(cpu, static_cast<uint64_t>(found), static_cast<uint64_t>(found >> 64));
        return equal ? static_cast<Wide>(wanted.high) << 64 | wanted.low : found;
      });
  return next(cpu, op);
}

// ---- RDRAND, RDSEED: the host's, with its CF (0 when it had no entropy at hand) ----
template <class T, bool seed>
const Op* random(Cpu& cpu, const Op* op) {
  uint64_t value = 0;
  uint8_t carry;
  if constexpr (seed)
    asm volatile("rdseed %0; setc %1" : "=r"(value), "=qm"(carry) : : "cc");
  else
    asm volatile("rdrand %0; setc %1" : "=r"(value), "=qm"(carry) : : "cc");
  cpu.set_reg<T>(op->insn.operand[0].index, static_cast<T>(carry != 0 ? value : 0));
  cpu.s.flags_ax = static_cast<uint16_t>(0x0200 | (carry != 0 ? flags_ax::kCf : 0));
  return next(cpu, op);
}

}  // namespace

Handler bind_atomic_family(const x86::Instruction& insn, const BindContext& context) {
  const unsigned size = insn.operand[0].size;
  const bool reg = is_gpr(insn.operand[0]);
  const Ea ea = addressing(insn, context);
  switch (insn.opcode) {
    case Opcode::kXadd:
      return by_size(size, [&]<class T>() -> Handler {
        if (reg) return xadd_reg<T>;
        return by_ea(ea,
                     [&]<Ea e>() -> Handler { return insn.lock ? xadd_mem_locked<T, e> : xadd_mem<T, e>; });
      });
    case Opcode::kCmpxchg:
      return by_size(size, [&]<class T>() -> Handler {
        if (reg) return cmpxchg_reg<T>;
        return by_ea(
            ea, [&]<Ea e>() -> Handler { return insn.lock ? cmpxchg_mem_locked<T, e> : cmpxchg_mem<T, e>; });
      });
    case Opcode::kCmpxchg8b:
      return cmpxchg8b;
    case Opcode::kCmpxchg16b:
      return cmpxchg16b;
    case Opcode::kRdrand:
      return by_word_size(size, []<class T>() -> Handler { return random<T, false>; });
    case Opcode::kRdseed:
      return by_word_size(size, []<class T>() -> Handler { return random<T, true>; });
    default:
      return nullptr;
  }
}

}  // namespace ostler::interp
