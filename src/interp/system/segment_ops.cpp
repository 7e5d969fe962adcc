// Segment registers and what is asked about selectors (SDM Vol. 2: MOV, POP, LDS…, LAR, LSL, VERR, ARPL,
// SWAPGS, RDFSBASE…).
#include "interp/system/descriptors.h"
#include "interp/system/handlers.h"

namespace ostler::interp {

using mmu::Access;
using x86::CpuState;
using x86::OperandKind;
using x86::SegIndex;
using x86::Selector;
using x86::Vector;

void set_register(Cpu& cpu, uint8_t offset, unsigned size, uint64_t value) {
  switch (size) {
    case 1:
      return cpu.set_reg<uint8_t>(offset, static_cast<uint8_t>(value));
    case 2:
      return cpu.set_reg<uint16_t>(offset, static_cast<uint16_t>(value));
    case 4:
      return cpu.set_reg<uint32_t>(offset, static_cast<uint32_t>(value));
    default:
      return cpu.set_reg<uint64_t>(offset, value);
  }
}

uint64_t read_operand(Cpu& cpu, const Op* op, unsigned index, unsigned size) {
  const x86::Operand& operand = op->insn.operand[index];
  if (operand.kind == OperandKind::kMem) return read_sized(cpu, cpu.linear(*op, size, Access::kRead), size);
  return truncate(cpu.reg<uint64_t>(operand.index), size);
}

void write_operand(Cpu& cpu, const Op* op, unsigned index, unsigned size, uint64_t value) {
  const x86::Operand& operand = op->insn.operand[index];
  if (operand.kind == OperandKind::kMem)
    write_sized(cpu, cpu.linear(*op, size, Access::kWrite), value, size);
  else
    set_register(cpu, operand.index, size, value);
}

const Op* mov_from_segment(Cpu& cpu, const Op* op) {
  const uint16_t selector = cpu.s.seg[op->insn.operand[1].index].selector;
  const bool memory = op->insn.operand[0].kind == OperandKind::kMem;
  write_operand(cpu, op, 0, memory ? 2 : op->insn.operand_size, selector);
  return next(cpu, op);
}

// The translator may know 32-bit code with the segments that there are now.
static const Op* go_on_after_load(Cpu& cpu, const Op* op) {
  return cpu.code_size == x86::CodeSize::k32 ? leave(cpu, op) : next(cpu, op);
}

const Op* mov_to_segment(Cpu& cpu, const Op* op) {
  const auto index = static_cast<SegIndex>(op->insn.operand[0].index);
  load_segment(cpu, index, static_cast<uint16_t>(read_operand(cpu, op, 1, 2)));
  if (index != x86::kSs) return go_on_after_load(cpu, op);
  cpu.s.interrupt_shadow = true;
  return leave_mode_changed(cpu, op);
}

const Op* push_segment(Cpu& cpu, const Op* op) {
  const Stack stack = current_stack(cpu);
  const unsigned width = op->insn.operand_size;
  const uint16_t selector = cpu.s.seg[op->insn.operand[0].index].selector;
  const uint64_t sp = (stack.sp - width) & stack.mask();
  // With a 32-bit operand only the selector's two bytes are written, as current processors do.
  const unsigned size = width == 8 ? 8 : 2;
  write_sized(cpu, stack_linear(cpu, stack, sp, width), selector, size);
  cpu.s.gpr[x86::kRsp] = merged_sp(stack, cpu.s.gpr[x86::kRsp], sp);
  return next(cpu, op);
}

const Op* pop_segment(Cpu& cpu, const Op* op) {
  const Stack stack = current_stack(cpu);
  const unsigned width = op->insn.operand_size;
  const auto index = static_cast<SegIndex>(op->insn.operand[0].index);
  const uint64_t linear = stack_linear(cpu, stack, stack.sp, width);
  load_segment(cpu, index, cpu.mmu.read<uint16_t>(linear));
  cpu.s.gpr[x86::kRsp] = merged_sp(stack, cpu.s.gpr[x86::kRsp], stack.sp + width);
  if (index != x86::kSs) return go_on_after_load(cpu, op);
  cpu.s.interrupt_shadow = true;
  return leave_mode_changed(cpu, op);
}

const Op* load_far_pointer(Cpu& cpu, const Op* op) {
  SegIndex index;
  switch (op->insn.opcode) {
    case x86::Opcode::kLds:
      index = x86::kDs;
      break;
    case x86::Opcode::kLes:
      index = x86::kEs;
      break;
    case x86::Opcode::kLfs:
      index = x86::kFs;
      break;
    case x86::Opcode::kLgs:
      index = x86::kGs;
      break;
    default:
      index = x86::kSs;
      break;
  }
  const unsigned size = op->insn.operand_size;
  const uint64_t linear = cpu.linear(*op, size + 2, Access::kRead);
  const uint64_t offset = read_sized(cpu, linear, size);
  load_segment(cpu, index, cpu.mmu.read<uint16_t>(linear + size));
  set_register(cpu, op->insn.operand[0].index, size, offset);
  return leave_mode_changed(cpu, op);
}

namespace {

void set_zf(CpuState& s, bool on) {
  s.flags_ax = static_cast<uint16_t>(on ? s.flags_ax | 0x4000 : s.flags_ax & ~0x4000);
}

// Looks `selector` up for an instruction that answers in ZF and never faults on it.
bool look_up(Cpu& cpu, Selector selector, Found& found) {
  return !selector.null() && probe_descriptor(cpu, selector, found);
}

const Op* verify(Cpu& cpu, const Op* op, bool write) {
  require_protected(cpu);
  const Selector selector{static_cast<uint16_t>(read_operand(cpu, op, 0, 2))};
  Found found;
  bool good = false;
  if (look_up(cpu, selector, found) && !found.descriptor.system()) {
    const x86::Descriptor& d = found.descriptor;
    const bool privileged = d.conforming() || (cpu.s.cpl() <= d.dpl() && selector.rpl() <= d.dpl());
    good = privileged && (write ? d.writable() : d.readable());
  }
  set_zf(cpu.s, good);
  return next(cpu, op);
}

}  // namespace

const Op* verify_read(Cpu& cpu, const Op* op) {
  return verify(cpu, op, false);
}
const Op* verify_write(Cpu& cpu, const Op* op) {
  return verify(cpu, op, true);
}

const Op* access_rights(Cpu& cpu, const Op* op) {
  require_protected(cpu);
  const Selector selector{static_cast<uint16_t>(read_operand(cpu, op, 1, 2))};
  Found found;
  const bool good = look_up(cpu, selector, found) &&
                    lar_answers(selector, found.descriptor, cpu.s.cpl(), cpu.s.long_mode());
  if (good)
    set_register(cpu, op->insn.operand[0].index, op->insn.operand_size,
                 found.descriptor.low >> 32 & 0x00f0ff00);
  set_zf(cpu.s, good);
  return next(cpu, op);
}

const Op* segment_limit(Cpu& cpu, const Op* op) {
  require_protected(cpu);
  const Selector selector{static_cast<uint16_t>(read_operand(cpu, op, 1, 2))};
  Found found;
  const bool good = look_up(cpu, selector, found) &&
                    lsl_answers(selector, found.descriptor, cpu.s.cpl(), cpu.s.long_mode());
  if (good) set_register(cpu, op->insn.operand[0].index, op->insn.operand_size, found.descriptor.limit());
  set_zf(cpu.s, good);
  return next(cpu, op);
}

const Op* adjust_rpl(Cpu& cpu, const Op* op) {
  require_protected(cpu);
  const bool memory = op->insn.operand[0].kind == OperandKind::kMem;
  const uint16_t source = cpu.reg<uint16_t>(op->insn.operand[1].index);
  // Memory is written only when it changes, as processors do.
  const auto target = static_cast<uint16_t>(read_operand(cpu, op, 0, 2));
  const bool lower = (target & 3) < (source & 3);
  if (lower) {
    const uint16_t raised = static_cast<uint16_t>((target & ~3) | (source & 3));
    if (memory)
      cpu.mmu.write<uint16_t>(cpu.linear(*op, 2, Access::kWrite), raised);
    else
      cpu.set_reg<uint16_t>(op->insn.operand[0].index, raised);
  }
  set_zf(cpu.s, lower);
  return next(cpu, op);
}

const Op* swapgs(Cpu& cpu, const Op* op) {
  if (!cpu.s.code64()) x86::raise(Vector::kUd);
  require_ring0(cpu);
  std::swap(cpu.s.seg[x86::kGs].base, cpu.s.msr.kernel_gs_base);
  return next(cpu, op);
}

namespace {

SegIndex based(const Op* op) {
  return op->insn.opcode == x86::Opcode::kRdfsbase || op->insn.opcode == x86::Opcode::kWrfsbase ? x86::kFs
                                                                                                : x86::kGs;
}

void require_fsgsbase(const Cpu& cpu) {
  if (!cpu.s.code64() || (cpu.s.cr4 & x86::cr4::kFsgsbase) == 0) x86::raise(Vector::kUd);
}

}  // namespace

const Op* read_base(Cpu& cpu, const Op* op) {
  require_fsgsbase(cpu);
  set_register(cpu, op->insn.operand[0].index, op->insn.operand_size, cpu.s.seg[based(op)].base);
  return next(cpu, op);
}

const Op* write_base(Cpu& cpu, const Op* op) {
  require_fsgsbase(cpu);
  const uint64_t base = truncate(cpu.reg<uint64_t>(op->insn.operand[0].index), op->insn.operand_size);
  if (!cpu.canonical(base)) x86::raise(Vector::kGp, 0);
  cpu.s.seg[based(op)].base = base;
  return next(cpu, op);
}

}  // namespace ostler::interp
