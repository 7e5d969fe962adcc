// Far RET and IRET (SDM Vol. 2 "RET", "IRET"), to any mode that they can lead to.
#include "interp/system/descriptors.h"
#include "interp/system/handlers.h"
#include "interp/system/task_state.h"

namespace ostler::interp {

using mmu::Privilege;
using x86::CpuState;
using x86::Segment;
using x86::Selector;
using x86::SystemType;
using x86::Vector;
namespace rflags = x86::rflags;

namespace {

constexpr uint64_t kUserFlags = rflags::kArithmetic | rflags::kTf | rflags::kDf | rflags::kNt;
constexpr uint64_t kWideFlags = rflags::kRf | rflags::kAc | rflags::kId;

void set_flags(CpuState& s, uint64_t value, uint64_t mask) {
  s.set_rflags((s.rflags() & ~mask) | (value & mask));
}

// What IRET may change at `cpl`, besides VM.
uint64_t iret_mask(const CpuState& s, unsigned width, unsigned cpl) {
  uint64_t mask = kUserFlags;
  if (width > 2) mask |= kWideFlags;
  if (cpl <= (s.flags_rest >> 12 & 3)) mask |= rflags::kIf;
  if (cpl == 0) {
    mask |= rflags::kIopl;
    if (width > 2) mask |= rflags::kVif | rflags::kVip;
  }
  return mask;
}

// The code segment to return to, checked against CPL and RIP; nothing is changed but the accessed bit.
Segment return_code(Cpu& cpu, Selector cs, uint64_t rip) {
  const CpuState& s = cpu.s;
  if (cs.null()) x86::raise(Vector::kGp, 0);
  Found found = find_descriptor(cpu, cs);
  require(check_return_code(cs, found.descriptor, s.cpl(), s.long_mode()), cs.error());
  const Segment code = found.descriptor.segment(cs);
  if (s.long_mode() && code.is_long()) {
    if (!cpu.canonical(rip)) x86::raise(Vector::kGp, 0);
  } else if (rip > code.limit) {
    x86::raise(Vector::kGp, 0);
  }
  mark_accessed(cpu, found);
  return code;
}

Segment return_stack(Cpu& cpu, Selector ss, const Segment& code) {
  const unsigned level = code.selector & 3;
  return stack_segment(cpu, ss, level, cpu.s.long_mode() && code.is_long());
}

// Commits a return that also pops SS:RSP.
void leave_for(Cpu& cpu, const Segment& code, uint64_t rip, const Segment& ss, uint64_t sp, unsigned width) {
  CpuState& s = cpu.s;
  const unsigned old_cpl = s.cpl();
  s.seg[x86::kCs] = code;
  s.seg[x86::kSs] = ss;
  s.rip = rip;
  Stack stack;
  stack.segment = ss;
  stack.flat = s.code64();
  // A 16-bit stack takes SP only; the rest of ESP keeps what the inner level had there.
  s.gpr[x86::kRsp] =
      stack.address_size() == 2 ? (s.gpr[x86::kRsp] & 0xffff0000) | (sp & 0xffff) : truncate(sp, width);
  const unsigned cpl = code.selector & 3;
  if (cpl > old_cpl)
    for (x86::SegIndex index : {x86::kEs, x86::kDs, x86::kFs, x86::kGs})
      if (!survives_return(s.seg[index], cpl)) s.seg[index] = null_segment(0);
}

void iret_real(Cpu& cpu, const Op* op) {
  CpuState& s = cpu.s;
  const unsigned width = op->insn.operand_size;
  const Stack stack = current_stack(cpu);
  const uint64_t rip = peek(cpu, stack, 0, width);
  const uint16_t cs = static_cast<uint16_t>(peek(cpu, stack, 1, width));
  const uint64_t flags = peek(cpu, stack, 2, width);
  const bool v8086 = s.v8086();
  const Segment code = v8086 ? v8086_segment(cs) : real_segment(s.seg[x86::kCs], cs, true);
  if (rip > code.limit) x86::raise(Vector::kGp, 0);
  s.gpr[x86::kRsp] = merged_sp(stack, s.gpr[x86::kRsp], stack.sp + 3 * width);
  s.seg[x86::kCs] = code;
  s.rip = rip;
  set_flags(s, flags, kUserFlags | rflags::kIf | (v8086 ? 0 : rflags::kIopl) | (width > 2 ? kWideFlags : 0));
}

// IRETD with VM set in the popped flags, at CPL 0 of protected mode (SDM 3A §21.2.6).
void iret_to_v8086(Cpu& cpu, const Stack& stack, uint64_t rip, uint16_t cs, uint64_t flags) {
  CpuState& s = cpu.s;
  uint64_t popped[9];
  for (unsigned i = 3; i < 9; ++i) popped[i] = peek(cpu, stack, i, 4);
  if (rip > 0xffff) x86::raise(Vector::kGp, 0);
  s.seg[x86::kCs] = v8086_segment(cs);
  s.rip = rip;
  s.gpr[x86::kRsp] = popped[3];
  s.seg[x86::kSs] = v8086_segment(static_cast<uint16_t>(popped[4]));
  s.seg[x86::kEs] = v8086_segment(static_cast<uint16_t>(popped[5]));
  s.seg[x86::kDs] = v8086_segment(static_cast<uint16_t>(popped[6]));
  s.seg[x86::kFs] = v8086_segment(static_cast<uint16_t>(popped[7]));
  s.seg[x86::kGs] = v8086_segment(static_cast<uint16_t>(popped[8]));
  set_flags(s, flags, iret_mask(s, 4, 0) | rflags::kVm);
}

void iret_from_task(Cpu& cpu, const Op* op) {
  CpuState& s = cpu.s;
  const Selector selector{cpu.mmu.read<uint16_t>(s.tr.base, Privilege::kSupervisor)};
  if (selector.null() || selector.local()) x86::raise(Vector::kTs, selector.error());
  const Found found = find_descriptor(cpu, selector, Vector::kTs);
  const x86::Descriptor& d = found.descriptor;
  const bool busy =
      d.system() && (d.system_type() == SystemType::kTss16Busy || d.system_type() == SystemType::kTss32Busy);
  if (!busy) x86::raise(Vector::kTs, selector.error());
  if (!d.present()) x86::raise(Vector::kNp, selector.error());
  switch_task_and_deliver(cpu, TaskSwitch::kReturn, selector, found, cpu.next_rip(*op));
}

void iret_protected(Cpu& cpu, const Op* op) {
  CpuState& s = cpu.s;
  const unsigned width = op->insn.operand_size;
  const unsigned cpl = s.cpl();
  if (s.flag(rflags::kNt)) {
    if (s.long_mode()) x86::raise(Vector::kGp, 0);
    return iret_from_task(cpu, op);
  }
  const Stack stack = current_stack(cpu);
  const uint64_t rip = peek(cpu, stack, 0, width);
  const Selector cs{static_cast<uint16_t>(peek(cpu, stack, 1, width))};
  const uint64_t flags = peek(cpu, stack, 2, width);
  if (!s.long_mode() && width == 4 && cpl == 0 && (flags & rflags::kVm) != 0)
    return iret_to_v8086(cpu, stack, rip, cs.value, flags);

  const Segment code = return_code(cpu, cs, rip);
  const uint64_t mask = iret_mask(s, width, cpl);
  // 64-bit code always pops SS:RSP (SDM 3A §6.14.3).
  if (cs.rpl() > cpl || s.code64()) {
    const uint64_t sp = peek(cpu, stack, 3, width);
    const Segment ss = return_stack(cpu, {static_cast<uint16_t>(peek(cpu, stack, 4, width))}, code);
    leave_for(cpu, code, rip, ss, sp, width);
  } else {
    s.gpr[x86::kRsp] = merged_sp(stack, s.gpr[x86::kRsp], stack.sp + 3 * width);
    s.seg[x86::kCs] = code;
    s.rip = rip;
  }
  set_flags(s, flags, mask);
}

}  // namespace

const Op* return_far(Cpu& cpu, const Op* op) {
  CpuState& s = cpu.s;
  const unsigned width = op->insn.operand_size;
  const uint64_t release = op->insn.operand_count > 0 ? op->insn.imm & 0xffff : 0;
  Stack stack = current_stack(cpu);
  const uint64_t rip = peek(cpu, stack, 0, width);
  const Selector cs{static_cast<uint16_t>(peek(cpu, stack, 1, width))};
  if (!s.protected_mode() || s.v8086()) {
    const Segment code = s.v8086() ? v8086_segment(cs.value) : real_segment(s.seg[x86::kCs], cs.value, true);
    if (rip > code.limit) x86::raise(Vector::kGp, 0);
    s.gpr[x86::kRsp] = merged_sp(stack, s.gpr[x86::kRsp], stack.sp + 2 * width + release);
    s.seg[x86::kCs] = code;
    s.rip = rip;
  } else {
    const Segment code = return_code(cpu, cs, rip);
    if (cs.rpl() > s.cpl()) {
      stack.sp = (stack.sp + release) & stack.mask();
      const uint64_t sp = peek(cpu, stack, 2, width);
      const Segment ss = return_stack(cpu, {static_cast<uint16_t>(peek(cpu, stack, 3, width))}, code);
      leave_for(cpu, code, rip, ss, sp + release, width);
    } else {
      s.gpr[x86::kRsp] = merged_sp(stack, s.gpr[x86::kRsp], stack.sp + 2 * width + release);
      s.seg[x86::kCs] = code;
      s.rip = rip;
    }
  }
  cpu.mode_changed();
  return nullptr;
}

const Op* interrupt_return(Cpu& cpu, const Op* op) {
  if (!cpu.s.protected_mode()) {
    iret_real(cpu, op);
  } else if (cpu.s.v8086()) {
    if (iopl(cpu) < 3) x86::raise(Vector::kGp, 0);
    iret_real(cpu, op);
  } else {
    iret_protected(cpu, op);
  }
  cpu.s.nmi_blocked = false;
  cpu.mode_changed();
  return nullptr;
}

}  // namespace ostler::interp
