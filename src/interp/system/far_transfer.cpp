// Far JMP and CALL: direct, through call gates, to tasks (SDM Vol. 2 "JMP", "CALL"; 3A §5.8).
#include "interp/system/descriptors.h"
#include "interp/system/handlers.h"
#include "interp/system/task_state.h"

namespace ostler::interp {

using mmu::Access;
using mmu::Privilege;
using x86::CpuState;
using x86::Descriptor;
using x86::Gate;
using x86::Segment;
using x86::Selector;
using x86::SystemType;
using x86::Vector;

namespace {

struct FarPointer {
  Selector selector;
  uint64_t offset;
};

// From the instruction, or m16:16, m16:32, m16:64.
FarPointer far_operand(Cpu& cpu, const Op* op) {
  const x86::Instruction& insn = op->insn;
  if (insn.operand[0].kind == x86::OperandKind::kFar)
    return {{insn.imm2}, truncate(insn.imm, insn.operand_size)};
  const unsigned size = insn.operand_size;
  const uint64_t linear = cpu.linear(*op, size + 2, Access::kRead);
  const uint64_t offset = read_sized(cpu, linear, size);
  return {{cpu.mmu.read<uint16_t>(linear + size)}, offset};
}

// #GP(0) when `target` is not in the code segment (64-bit: not canonical).
void check_target(const Cpu& cpu, const Segment& code, uint64_t target) {
  if (cpu.s.long_mode() && code.is_long()) {
    if (!cpu.canonical(target)) x86::raise(Vector::kGp, 0);
  } else if (target > code.limit) {
    x86::raise(Vector::kGp, 0);
  }
}

void push_return(Cpu& cpu, Pushes& frame, uint64_t return_rip) {
  frame.push(cpu.s.seg[x86::kCs].selector);
  frame.push(return_rip);
}

void enter_code(Cpu& cpu, const Segment& code, uint64_t target) {
  cpu.s.seg[x86::kCs] = code;
  cpu.s.rip = target;
  cpu.mode_changed();
}

void real_transfer(Cpu& cpu, const Op* op, FarPointer target, bool call) {
  CpuState& s = cpu.s;
  const Segment code = s.v8086() ? x86::Segment{uint64_t{target.selector.value} << 4, 0xffff,
                                                x86::kV8086Attributes, target.selector.value}
                                 : real_segment(s.seg[x86::kCs], target.selector.value, true);
  if (target.offset > code.limit) x86::raise(Vector::kGp, 0);
  if (call) {
    const Stack stack = current_stack(cpu);
    Pushes frame(cpu, stack, op->insn.operand_size);
    push_return(cpu, frame, cpu.next_rip(*op));
    frame.check();
    frame.write();
    s.gpr[x86::kRsp] = merged_sp(stack, s.gpr[x86::kRsp], frame.sp());
  }
  enter_code(cpu, code, target.offset);
}

void direct_transfer(Cpu& cpu, const Op* op, FarPointer target, Found& found, bool call) {
  CpuState& s = cpu.s;
  const unsigned cpl = s.cpl();
  require(check_direct_code(target.selector, found.descriptor, cpl, s.long_mode()), target.selector.error());
  const Selector selector{static_cast<uint16_t>((target.selector.value & ~3u) | cpl)};
  check_target(cpu, found.descriptor.segment(selector), target.offset);
  mark_accessed(cpu, found);
  if (call) {
    const Stack stack = current_stack(cpu);
    Pushes frame(cpu, stack, op->insn.operand_size);
    push_return(cpu, frame, cpu.next_rip(*op));
    frame.check();
    frame.write();
    s.gpr[x86::kRsp] = merged_sp(stack, s.gpr[x86::kRsp], frame.sp());
  }
  enter_code(cpu, found.descriptor.segment(selector), target.offset);
}

// A CALL through a gate to a more privileged level: the new stack gets SS:RSP, the parameters and CS:RIP.
void call_inner(Cpu& cpu, const Op* op, const Gate& gate, const Segment& code, uint64_t target,
                unsigned width) {
  CpuState& s = cpu.s;
  const unsigned level = code.dpl();
  const Stack outer = current_stack(cpu);
  Stack stack;
  if (width == 8) {
    stack.flat = true;
    stack.segment = null_stack(level);
    stack.privilege = Privilege::kSupervisor;
    stack.sp = inner_rsp(cpu, level);
  } else {
    stack = inner_stack(cpu, level);
  }
  check_target(cpu, code, target);
  Pushes frame(cpu, stack, width);
  frame.push(s.seg[x86::kSs].selector);
  frame.push(s.gpr[x86::kRsp]);
  if (width != 8)
    for (unsigned i = gate.parameters(); i > 0; --i) frame.push(peek(cpu, outer, i - 1, width));
  push_return(cpu, frame, cpu.next_rip(*op));
  frame.check();
  frame.write();
  s.gpr[x86::kRsp] = frame.sp();
  s.seg[x86::kSs] = stack.segment;
  enter_code(cpu, code, target);
}

void gate_transfer(Cpu& cpu, const Op* op, Selector gate_selector, Found& found, bool call) {
  CpuState& s = cpu.s;
  const bool long_mode = s.long_mode();
  const unsigned cpl = s.cpl();
  if (long_mode) find_upper_half(cpu, found, gate_selector);
  const Gate gate{found.descriptor};
  const bool wide = gate.raw.system_type() == SystemType::kCallGate32;
  const uint64_t target = long_mode ? gate.offset64() : wide ? gate.offset32() : gate.offset16();
  const unsigned width = long_mode ? 8 : wide ? 4 : 2;

  const Selector selector = gate.selector();
  if (selector.null()) x86::raise(Vector::kGp, 0);
  Found code = find_descriptor(cpu, selector);
  require(check_gate_code(code.descriptor, cpl, !call, long_mode), selector.error());
  const unsigned level = code.descriptor.conforming() ? cpl : code.descriptor.dpl();
  mark_accessed(cpu, code);
  const Segment segment = code.descriptor.segment({static_cast<uint16_t>((selector.value & ~3u) | level)});
  if (call && level < cpl) return call_inner(cpu, op, gate, segment, target, width);

  check_target(cpu, segment, target);
  if (call) {
    const Stack stack = current_stack(cpu);
    Pushes frame(cpu, stack, width);
    push_return(cpu, frame, cpu.next_rip(*op));
    frame.check();
    frame.write();
    s.gpr[x86::kRsp] = merged_sp(stack, s.gpr[x86::kRsp], frame.sp());
  }
  enter_code(cpu, segment, target);
}

// The privilege rule common to call gates, task gates and TSS descriptors.
void check_gate_privilege(const Cpu& cpu, Selector selector, const Descriptor& descriptor) {
  if (descriptor.dpl() < cpu.s.cpl() || descriptor.dpl() < selector.rpl())
    x86::raise(Vector::kGp, selector.error());
}

void system_transfer(Cpu& cpu, const Op* op, Selector selector, Found& found, bool call) {
  const Descriptor& d = found.descriptor;
  const bool long_mode = cpu.s.long_mode();
  const TaskSwitch kind = call ? TaskSwitch::kCall : TaskSwitch::kJump;
  switch (d.system_type()) {
    case SystemType::kCallGate16:
      if (long_mode) break;
      [[fallthrough]];
    case SystemType::kCallGate32:
      check_gate_privilege(cpu, selector, d);
      if (!d.present()) x86::raise(Vector::kNp, selector.error());
      return gate_transfer(cpu, op, selector, found, call);
    case SystemType::kTaskGate: {
      if (long_mode) break;
      check_gate_privilege(cpu, selector, d);
      if (!d.present()) x86::raise(Vector::kNp, selector.error());
      const Selector tss = Gate{d}.selector();
      if (tss.null() || tss.local()) x86::raise(Vector::kGp, tss.error());
      const Found target = find_descriptor(cpu, tss);
      check_available_tss(tss, target.descriptor, Vector::kGp);
      return switch_task_and_deliver(cpu, kind, tss, target, cpu.next_rip(*op));
    }
    case SystemType::kTss16:
    case SystemType::kTss32:
      if (long_mode) break;
      check_gate_privilege(cpu, selector, d);
      check_available_tss(selector, d, Vector::kGp);
      return switch_task_and_deliver(cpu, kind, selector, found, cpu.next_rip(*op));
    default:
      break;
  }
  x86::raise(Vector::kGp, selector.error());
}

const Op* far_transfer(Cpu& cpu, const Op* op, bool call) {
  const FarPointer target = far_operand(cpu, op);
  if (!cpu.s.protected_mode() || cpu.s.v8086()) {
    real_transfer(cpu, op, target, call);
    return nullptr;
  }
  if (target.selector.null()) x86::raise(Vector::kGp, 0);
  Found found = find_descriptor(cpu, target.selector);
  if (found.descriptor.system())
    system_transfer(cpu, op, target.selector, found, call);
  else
    direct_transfer(cpu, op, target, found, call);
  return nullptr;
}

}  // namespace

const Op* jump_far(Cpu& cpu, const Op* op) {
  return far_transfer(cpu, op, false);
}
const Op* call_far(Cpu& cpu, const Op* op) {
  return far_transfer(cpu, op, true);
}

}  // namespace ostler::interp
