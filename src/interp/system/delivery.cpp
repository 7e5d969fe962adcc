// Exceptions and interrupts (SDM 3A §6): real mode §21.1.4, protected §6.12, virtual-8086 §21.3, 64-bit
// §6.14.
#include "interp/delivery.h"

#include "base/log.h"
#include "base/symbols.h"
#include "interp/system/descriptors.h"
#include "interp/system/event.h"
#include "interp/system/task_state.h"

namespace ostler::interp {

using mmu::Privilege;
using x86::CpuState;
using x86::Descriptor;
using x86::Exception;
using x86::Gate;
using x86::Segment;
using x86::Selector;
using x86::SystemType;
using x86::Vector;
namespace rflags = x86::rflags;

namespace {

constexpr uint64_t kHandlerClears = rflags::kTf | rflags::kNt | rflags::kRf | rflags::kVm;

uint32_t idt_error(const Event& event) {
  return event.vector * 8u + 2;
}

uint64_t pushed_flags(const CpuState& s, const Event& event) {
  return s.rflags() | (event.resume_flag ? rflags::kRf : 0);
}

void deliver_real(Cpu& cpu, const Event& event) {
  CpuState& s = cpu.s;
  const uint32_t offset = event.vector * 4u;
  if (offset + 3 > s.idtr.limit) x86::raise(Vector::kGp, idt_error(event));
  const uint32_t entry =
      cpu.mmu.read<uint32_t>(static_cast<uint32_t>(s.idtr.base + offset), Privilege::kSupervisor);
  const Stack stack = current_stack(cpu);
  Pushes frame(cpu, stack, 2);
  frame.push(pushed_flags(s, event));
  frame.push(s.seg[x86::kCs].selector);
  frame.push(event.return_rip);
  frame.check();
  frame.write();
  s.gpr[x86::kRsp] = merged_sp(stack, s.gpr[x86::kRsp], frame.sp());
  s.seg[x86::kCs] = real_segment(s.seg[x86::kCs], static_cast<uint16_t>(entry >> 16), true);
  s.rip = entry & 0xffff;
  s.flags_rest &= ~(rflags::kIf | rflags::kTf | rflags::kAc | rflags::kRf);
}

// Reads the gate and checks what SDM Vol. 2 "INT n" checks before looking at the target.
Gate find_gate(Cpu& cpu, const Event& event, bool long_mode) {
  const CpuState& s = cpu.s;
  const uint32_t size = long_mode ? 16 : 8;
  const uint32_t offset = event.vector * size;
  if (offset + size - 1 > s.idtr.limit) x86::raise(Vector::kGp, idt_error(event));
  Gate gate;
  const uint64_t address = s.idtr.base + offset;
  gate.raw.low =
      cpu.mmu.read<uint64_t>(long_mode ? address : static_cast<uint32_t>(address), Privilege::kSupervisor);
  if (long_mode) gate.raw.high = cpu.mmu.read<uint64_t>(address + 8, Privilege::kSupervisor);

  bool valid = gate.raw.system();
  switch (gate.raw.system_type()) {
    case SystemType::kInterruptGate32:
    case SystemType::kTrapGate32:
      break;
    case SystemType::kTaskGate:
    case SystemType::kInterruptGate16:
    case SystemType::kTrapGate16:
      valid = valid && !long_mode;
      break;
    default:
      valid = false;
  }
  if (!valid) x86::raise(Vector::kGp, idt_error(event));
  if (event.source == Source::kSoftware && gate.raw.dpl() < s.cpl())
    x86::raise(Vector::kGp, idt_error(event));
  if (!gate.raw.present()) x86::raise(Vector::kNp, idt_error(event));
  return gate;
}

bool is_interrupt_gate(const Gate& gate) {
  return (gate.raw.type() & 1) == 0;
}

// Returns what went wrong in the new task.
std::optional<Exception> deliver_through_task_gate(Cpu& cpu, const Event& event, const Gate& gate) {
  const Selector selector = gate.selector();
  if (selector.null() || selector.local()) x86::raise(Vector::kTs, selector.error());
  const Found found = find_descriptor(cpu, selector, Vector::kTs);
  check_available_tss(selector, found.descriptor, Vector::kTs);
  const unsigned width = (found.descriptor.type() & 8) != 0 ? 4 : 2;
  const auto fault = switch_task(cpu, TaskSwitch::kCall, selector, found, event.return_rip,
                                 event.resume_flag ? rflags::kRf : 0);
  if (fault || !event.has_error) return fault;
  try {
    const Stack stack = current_stack(cpu);
    Pushes frame(cpu, stack, width);
    frame.push(event.error);
    frame.check();
    frame.write();
    cpu.s.gpr[x86::kRsp] = merged_sp(stack, cpu.s.gpr[x86::kRsp], frame.sp());
  } catch (const Exception& exception) {
    return exception;
  }
  return std::nullopt;
}

std::optional<Exception> deliver_protected(Cpu& cpu, const Event& event) {
  CpuState& s = cpu.s;
  const Gate gate = find_gate(cpu, event, false);
  if (gate.raw.system_type() == SystemType::kTaskGate) return deliver_through_task_gate(cpu, event, gate);

  const bool wide = (gate.raw.type() & 8) != 0;
  const unsigned cpl = s.cpl();
  const Selector selector = gate.selector();
  if (selector.null()) x86::raise(Vector::kGp, 0);
  Found code = find_descriptor(cpu, selector);
  require(check_gate_code(code.descriptor, cpl, false, false), selector.error());
  const unsigned level = code.descriptor.conforming() ? cpl : code.descriptor.dpl();
  if (s.v8086() && level != 0) x86::raise(Vector::kGp, selector.error());
  const uint64_t target = wide ? gate.offset32() : gate.offset16();

  const bool inner = level < cpl;
  const Stack stack = inner ? inner_stack(cpu, level) : current_stack(cpu);
  if (target > code.descriptor.limit()) x86::raise(Vector::kGp, 0);
  Pushes frame(cpu, stack, wide ? 4 : 2);
  if (s.v8086())
    for (x86::SegIndex index : {x86::kGs, x86::kFs, x86::kDs, x86::kEs}) frame.push(s.seg[index].selector);
  if (inner) {
    frame.push(s.seg[x86::kSs].selector);
    frame.push(s.gpr[x86::kRsp]);
  }
  frame.push(pushed_flags(s, event));
  frame.push(s.seg[x86::kCs].selector);
  frame.push(event.return_rip);
  if (event.has_error) frame.push(event.error);
  mark_accessed(cpu, code);
  frame.check();
  frame.write();

  if (s.v8086())
    for (x86::SegIndex index : {x86::kGs, x86::kFs, x86::kDs, x86::kEs}) s.seg[index] = null_segment(0);
  if (inner) {
    s.gpr[x86::kRsp] = frame.sp();
    s.seg[x86::kSs] = stack.segment;
  } else {
    s.gpr[x86::kRsp] = merged_sp(stack, s.gpr[x86::kRsp], frame.sp());
  }
  s.seg[x86::kCs] = code.descriptor.segment({static_cast<uint16_t>((selector.value & ~3u) | level)});
  s.rip = target;
  s.flags_rest &= ~(kHandlerClears | (is_interrupt_gate(gate) ? rflags::kIf : 0));
  return std::nullopt;
}

void deliver_long(Cpu& cpu, const Event& event) {
  CpuState& s = cpu.s;
  const Gate gate = find_gate(cpu, event, true);
  const unsigned cpl = s.cpl();
  const Selector selector = gate.selector();
  if (selector.null()) x86::raise(Vector::kGp, 0);
  Found code = find_descriptor(cpu, selector);
  require(check_gate_code(code.descriptor, cpl, false, true), selector.error());
  const unsigned level = code.descriptor.conforming() ? cpl : code.descriptor.dpl();
  const bool inner = level < cpl;

  Stack stack;
  stack.flat = true;
  stack.privilege = inner ? Privilege::kSupervisor : Privilege::kCurrent;
  stack.sp = gate.ist() != 0 ? ist_rsp(cpu, gate.ist()) : inner ? inner_rsp(cpu, level) : s.gpr[x86::kRsp];
  stack.sp &= ~uint64_t{15};
  if (!cpu.canonical(gate.offset64())) x86::raise(Vector::kGp, 0);

  Pushes frame(cpu, stack, 8);
  frame.push(s.seg[x86::kSs].selector);
  frame.push(s.gpr[x86::kRsp]);
  frame.push(pushed_flags(s, event));
  frame.push(s.seg[x86::kCs].selector);
  frame.push(event.return_rip);
  if (event.has_error) frame.push(event.error);
  mark_accessed(cpu, code);
  frame.check();
  frame.write();

  s.gpr[x86::kRsp] = frame.sp();
  if (inner) s.seg[x86::kSs] = null_stack(level);
  s.seg[x86::kCs] = code.descriptor.segment({static_cast<uint16_t>((selector.value & ~3u) | level)});
  s.rip = gate.offset64();
  s.flags_rest &= ~(kHandlerClears | (is_interrupt_gate(gate) ? rflags::kIf : 0));
}

enum class Class : uint8_t { kBenign, kContributory, kPageFault, kDoubleFault };  // Table 6-4

Class class_of(Vector vector) {
  switch (vector) {
    case Vector::kDe:
    case Vector::kTs:
    case Vector::kNp:
    case Vector::kSs:
    case Vector::kGp:
      return Class::kContributory;
    case Vector::kPf:
      return Class::kPageFault;
    case Vector::kDf:
      return Class::kDoubleFault;
    default:
      return Class::kBenign;
  }
}

bool makes_double_fault(Class first, Class second) {
  if (second == Class::kBenign || first == Class::kBenign) return false;
  return first == Class::kPageFault || second == Class::kContributory;
}

// Exceptions whose return address is the instruction itself, so that it resumes with RF set (SDM 3A
// §17.3.1.1).
bool sets_resume_flag(const Exception& exception) {
  switch (exception.vector) {
    case Vector::kDb:
      return (exception.dr6_bits & 1u << 13) != 0;  // general detect
    case Vector::kNmi:
    case Vector::kBp:
    case Vector::kOf:
    case Vector::kDf:
    case Vector::kMc:
      return false;
    default:
      return true;
  }
}

Event event_of(Cpu& cpu, const Exception& exception) {
  CpuState& s = cpu.s;
  if (exception.vector == Vector::kPf) s.cr2 = exception.cr2;
  if (exception.vector == Vector::kDb) {
    s.dr[6] = (s.dr[6] & ~uint64_t{15}) | exception.dr6_bits;
    s.dr[7] &= ~uint64_t{1u << 13};  // GD
    s.msr.debugctl &= ~uint64_t{3};  // LBR, BTF
  }
  Event event;
  event.vector = static_cast<uint8_t>(exception.vector);
  event.has_error = exception.has_error;
  event.error = exception.error;
  event.return_rip = s.rip;
  event.resume_flag = sets_resume_flag(exception);
  return event;
}

// One attempt: nothing when the handler is next.
std::optional<Exception> attempt(Cpu& cpu, const Event& event) {
  try {
    return deliver_event(cpu, event);
  } catch (const Exception& exception) {
    return exception;
  }
}

Delivered deliver(Cpu& cpu, Event event, Class first) {
  while (const std::optional<Exception> second = attempt(cpu, event)) {
    if (first == Class::kDoubleFault) {
      log::trace(log::Subject::kInterrupts, "triple fault at {:#x}: shutdown", cpu.s.rip);
      cpu.s.activity = x86::Activity::kShutdown;
      return Delivered::kShutdown;
    }
    const Class next = class_of(second->vector);
    if (makes_double_fault(first, next)) {
      if (second->vector == Vector::kPf) cpu.s.cr2 = second->cr2;
      event = event_of(cpu, Exception{Vector::kDf, true, 0});
      first = Class::kDoubleFault;
    } else {
      event = event_of(cpu, *second);
      first = next;
    }
  }
  return Delivered::kOk;
}

}  // namespace

std::optional<Exception> deliver_event(Cpu& cpu, const Event& event) {
  CpuState& s = cpu.s;
  if (log::enabled(log::Subject::kInterrupts)) [[unlikely]]
    log::write(fmt::format("vector {:#x} error {:#x} at {:#x}:{:#x}{} cpl {} cr2 {:#x}", event.vector,
                           event.error, s.seg[x86::kCs].selector, event.return_rip,
                           symbols::at(event.return_rip), s.cpl(), s.cr2));
  // EXT, SDM 3A §6.13; #PF has its own format and #DF none.
  const auto mark_external = [&](Exception& exception) {
    const bool selector_format = class_of(exception.vector) == Class::kContributory && exception.has_error;
    if (event.source != Source::kSoftware && selector_format) exception.error |= 1;
  };
  std::optional<Exception> in_new_task;
  try {
    if (!s.protected_mode())
      deliver_real(cpu, event);
    else if (s.long_mode())
      deliver_long(cpu, event);
    else
      in_new_task = deliver_protected(cpu, event);
  } catch (Exception& exception) {
    mark_external(exception);
    throw;
  }
  if (in_new_task) mark_external(*in_new_task);
  s.interrupt_shadow = false;
  s.activity = x86::Activity::kRunning;
  cpu.mode_changed();
  return in_new_task;
}

Delivered deliver_exception(Cpu& cpu, const Exception& exception) {
  return deliver(cpu, event_of(cpu, exception), class_of(exception.vector));
}

Delivered deliver_interrupt(Cpu& cpu, uint8_t vector) {
  Event event;
  event.vector = vector;
  event.return_rip = cpu.s.rip;
  return deliver(cpu, event, Class::kBenign);
}

Delivered deliver_nmi(Cpu& cpu) {
  cpu.s.nmi_blocked = true;
  return deliver_interrupt(cpu, static_cast<uint8_t>(Vector::kNmi));
}

}  // namespace ostler::interp
