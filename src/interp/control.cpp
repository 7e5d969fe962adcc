// Near control transfers: JMP Jcc JCXZ LOOP CALL RET (SDM Vol. 2). The target is known and valid before
// anything is pushed or popped; a block's links remember where its last instruction led.
#include "interp/control.h"

#include <utility>

#include "base/bytes.h"
#include "interp/block_cache.h"
#include "interp/operand.h"
#include "interp/stack_access.h"

namespace ostler::interp {
namespace {

using x86::Opcode;

// The target of a relative branch, checked; computed at bind time.
uint64_t checked_target(const Cpu& cpu, const Op* op) {
  const auto target = static_cast<uint64_t>(op->insn.disp);
  cpu.check_near(target);
  return target;
}

[[gnu::always_inline]] inline const Op* take(Cpu& cpu, const Op* op) {
  return follow<1>(cpu, [&] { return checked_target(cpu, op); });
}
[[gnu::always_inline]] inline const Op* fall_through(Cpu& cpu, const Op* op) {
  return follow<0>(cpu, [&] { return cpu.next_rip(*op); });
}

// To a block whose address is only known now and was checked.
[[gnu::always_inline]] inline const Op* go(Cpu& cpu, Block* block, uint64_t target) {
  if (block != nullptr) [[likely]]
    return enter(cpu, block);
  cpu.s.rip = target;
  return nullptr;
}
// The block at `target` if it is at hand: then the target is valid. Otherwise it is checked.
[[gnu::always_inline]] inline Block* checked_block(const Cpu& cpu, uint64_t target) {
  Block* block = cpu.cache->probe(target);
  if (block == nullptr) [[unlikely]]
    cpu.check_near(target);
  return block;
}

// The same for a CALL, whose stack is checked before its target.
template <class T>
[[gnu::always_inline]] inline Block* checked_callee(Cpu& cpu, uint64_t target) {
  Block* block = cpu.cache->probe(target);
  if (block == nullptr) [[unlikely]] {
    probe_push<T>(cpu);
    cpu.check_near(target);
  }
  return block;
}

const Op* jmp(Cpu& cpu, const Op* op) {
  return take(cpu, op);
}

template <unsigned condition>
const Op* jcc(Cpu& cpu, const Op* op) {
  return condition_holds<condition>(cpu.s.flags_ax) ? take(cpu, op) : fall_through(cpu, op);
}
template <unsigned... conditions>
Handler jcc_of(unsigned condition, std::integer_sequence<unsigned, conditions...>) {
  static constexpr Handler kTable[] = {jcc<conditions>...};
  return kTable[condition & 15];
}

uint64_t count_register(const Cpu& cpu, const Op* op) {
  return cpu.s.gpr[x86::kRcx] & size_mask(op->insn.address_size);
}
const Op* jcxz(Cpu& cpu, const Op* op) {
  return count_register(cpu, op) == 0 ? take(cpu, op) : fall_through(cpu, op);
}
// LOOP, LOOPE (wanted ZF 1), LOOPNE (0).
template <bool tests_zf, bool wanted>
const Op* loop(Cpu& cpu, const Op* op) {
  const uint64_t count = (count_register(cpu, op) - 1) & size_mask(op->insn.address_size);
  const bool zf = (cpu.s.flags_ax & flags_ax::kZf) != 0;
  const bool taken = count != 0 && (!tests_zf || zf == wanted);
  if (taken) cpu.check_near(static_cast<uint64_t>(op->insn.disp));  // before the count changes
  switch (op->insn.address_size) {
    case 2:
      cpu.set_reg<uint16_t>(x86::kRcx * 8, static_cast<uint16_t>(count));
      break;
    case 4:
      cpu.set_reg<uint32_t>(x86::kRcx * 8, static_cast<uint32_t>(count));
      break;
    default:
      cpu.s.gpr[x86::kRcx] = count;
      break;
  }
  return taken ? take(cpu, op) : fall_through(cpu, op);
}

template <bool flat, class T>
const Op* call(Cpu& cpu, const Op* op) {
  if (cpu.block->link[1] == nullptr) [[unlikely]]
    checked_target(cpu, op);
  push<flat, T>(cpu, static_cast<T>(cpu.next_rip(*op)));
  return take(cpu, op);
}

template <bool flat, class T>
const Op* call_reg(Cpu& cpu, const Op* op) {
  const uint64_t target = cpu.reg<T>(op->insn.operand[0].index);
  Block* block = checked_callee<T>(cpu, target);
  push<flat, T>(cpu, static_cast<T>(cpu.next_rip(*op)));
  return go(cpu, block, target);
}
template <bool flat, class T>
const Op* call_mem(Cpu& cpu, const Op* op) {
  const uint64_t target = load_general<T>(cpu, op);
  Block* block = checked_callee<T>(cpu, target);
  push<flat, T>(cpu, static_cast<T>(cpu.next_rip(*op)));
  return go(cpu, block, target);
}
template <class T>
const Op* jmp_reg(Cpu& cpu, const Op* op) {
  const uint64_t target = cpu.reg<T>(op->insn.operand[0].index);
  return go(cpu, checked_block(cpu, target), target);
}
template <class T>
const Op* jmp_mem(Cpu& cpu, const Op* op) {
  const uint64_t target = load_general<T>(cpu, op);
  return go(cpu, checked_block(cpu, target), target);
}

template <bool flat, class T>
const Op* ret(Cpu& cpu, const Op* op) {
  const uint64_t target = stack_top<flat, T>(cpu);
  Block* block = checked_block(cpu, target);
  release_stack<flat>(cpu, sizeof(T) + (op->insn.operand_count != 0 ? op->insn.imm & 0xffff : 0));
  return go(cpu, block, target);
}

}  // namespace

bool always_leaves(Opcode opcode) {
  switch (opcode) {
    case Opcode::kJmp:
    case Opcode::kJmpInd:
    case Opcode::kJcc:
    case Opcode::kJcxz:
    case Opcode::kLoop:
    case Opcode::kLoope:
    case Opcode::kLoopne:
    case Opcode::kCall:
    case Opcode::kCallInd:
    case Opcode::kRet:
      return true;
    default:
      return false;
  }
}

bool ends_block(Opcode opcode) {
  switch (opcode) {
    case Opcode::kJmpFar:
    case Opcode::kCallFar:
    case Opcode::kRetFar:
    case Opcode::kIret:
    case Opcode::kInt:
    case Opcode::kInt1:
    case Opcode::kInt3:
    case Opcode::kInto:
    case Opcode::kPopf:
    case Opcode::kSti:
    case Opcode::kHlt:
    case Opcode::kUd0:
    case Opcode::kUd1:
    case Opcode::kUd2:
    case Opcode::kSyscall:
    case Opcode::kSysret:
    case Opcode::kSysenter:
    case Opcode::kSysexit:
    case Opcode::kWrmsr:
    case Opcode::kLmsw:
    case Opcode::kClts:
    case Opcode::kInvlpg:
    case Opcode::kInvpcid:
    case Opcode::kMwait:
    case Opcode::kRsm:
    case Opcode::kXsetbv:
    case Opcode::kClac:
    case Opcode::kStac:
    case Opcode::kSerialize:
      return true;
    default:
      return false;
  }
}

Handler bind_control(const x86::Instruction& insn, const BindContext& context) {
  const unsigned size = insn.operand_size;
  const bool mem = is_mem(insn.operand[0]);
  switch (insn.opcode) {
    case Opcode::kJmp:
      return jmp;
    case Opcode::kJcc:
      return jcc_of(insn.condition, std::make_integer_sequence<unsigned, 16>{});
    case Opcode::kJcxz:
      return jcxz;
    case Opcode::kLoop:
      return loop<false, false>;
    case Opcode::kLoope:
      return loop<true, true>;
    case Opcode::kLoopne:
      return loop<true, false>;
    case Opcode::kJmpInd:
      return by_word_size(size, [&]<class T>() -> Handler { return mem ? jmp_mem<T> : jmp_reg<T>; });
    case Opcode::kCall:
      if (context.flat && size == 8) return call<true, uint64_t>;
      return by_word_size(size, []<class T>() -> Handler { return call<false, T>; });
    case Opcode::kCallInd:
      if (context.flat && size == 8) return mem ? call_mem<true, uint64_t> : call_reg<true, uint64_t>;
      return by_word_size(
          size, [&]<class T>() -> Handler { return mem ? call_mem<false, T> : call_reg<false, T>; });
    case Opcode::kRet:
      if (context.flat && size == 8) return ret<true, uint64_t>;
      return by_word_size(size, []<class T>() -> Handler { return ret<false, T>; });
    default:
      return nullptr;
  }
}

}  // namespace ostler::interp
