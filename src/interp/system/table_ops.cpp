// Descriptor table and task registers (SDM Vol. 2: LGDT, LIDT, SGDT, SIDT, LLDT, LTR, SLDT, STR).
#include "interp/system/descriptors.h"
#include "interp/system/handlers.h"

namespace ostler::interp {

using mmu::Access;
using x86::CpuState;
using x86::OperandKind;
using x86::Selector;
using x86::SystemType;
using x86::Vector;

const Op* load_table(Cpu& cpu, const Op* op) {
  CpuState& s = cpu.s;
  require_ring0(cpu);
  const bool wide = cpu.code_size == x86::CodeSize::k64;
  const uint64_t linear = cpu.linear(*op, wide ? 10 : 6, Access::kRead);
  const uint16_t limit = cpu.mmu.read<uint16_t>(linear);
  uint64_t base = wide ? cpu.mmu.read<uint64_t>(linear + 2) : cpu.mmu.read<uint32_t>(linear + 2);
  if (!wide && op->insn.operand_size == 2) base &= 0xffffff;
  if (wide && !cpu.canonical(base)) x86::raise(Vector::kGp, 0);
  (op->insn.opcode == x86::Opcode::kLgdt ? s.gdtr : s.idtr) = {base, limit};
  return next(cpu, op);
}

const Op* store_table(Cpu& cpu, const Op* op) {
  require_umip(cpu);
  const bool wide = cpu.code_size == x86::CodeSize::k64;
  const x86::TableRegister& table = op->insn.opcode == x86::Opcode::kSgdt ? cpu.s.gdtr : cpu.s.idtr;
  const unsigned size = wide ? 10 : 6;
  const uint64_t linear = cpu.linear(*op, size, Access::kWrite);
  uint8_t bytes[10];
  std::memcpy(bytes, &table.limit, 2);
  std::memcpy(bytes + 2, &table.base, 8);
  cpu.mmu.write_bytes(linear, std::span<const uint8_t>(bytes, size));
  return next(cpu, op);
}

const Op* load_ldt(Cpu& cpu, const Op* op) {
  CpuState& s = cpu.s;
  require_protected(cpu);
  require_ring0(cpu);
  const Selector selector{static_cast<uint16_t>(read_operand(cpu, op, 0, 2))};
  if (selector.null()) {
    s.ldtr = null_segment(selector.value);
    return next(cpu, op);
  }
  if (selector.local()) x86::raise(Vector::kGp, selector.error());
  Found found = find_descriptor(cpu, selector);
  if (!found.descriptor.system() || found.descriptor.system_type() != SystemType::kLdt)
    x86::raise(Vector::kGp, selector.error());
  if (!found.descriptor.present()) x86::raise(Vector::kNp, selector.error());
  if (s.long_mode()) {
    find_upper_half(cpu, found, selector);
    if (!cpu.canonical(found.descriptor.base())) x86::raise(Vector::kGp, selector.error());
  }
  s.ldtr = found.descriptor.segment(selector);
  return next(cpu, op);
}

const Op* load_task(Cpu& cpu, const Op* op) {
  CpuState& s = cpu.s;
  require_protected(cpu);
  require_ring0(cpu);
  const Selector selector{static_cast<uint16_t>(read_operand(cpu, op, 0, 2))};
  if (selector.null()) x86::raise(Vector::kGp, 0);
  if (selector.local()) x86::raise(Vector::kGp, selector.error());
  Found found = find_descriptor(cpu, selector);
  const x86::Descriptor& d = found.descriptor;
  const bool available = d.system() && (d.system_type() == SystemType::kTss32 ||
                                        (d.system_type() == SystemType::kTss16 && !s.long_mode()));
  if (!available) x86::raise(Vector::kGp, selector.error());
  if (!d.present()) x86::raise(Vector::kNp, selector.error());
  if (s.long_mode()) {
    find_upper_half(cpu, found, selector);
    if (!cpu.canonical(found.descriptor.base())) x86::raise(Vector::kGp, selector.error());
  }
  mark_busy(cpu, found.address, true);
  s.tr = found.descriptor.segment(selector);
  s.tr.attributes |= 2;
  return next(cpu, op);
}

namespace {

const Op* store_selector(Cpu& cpu, const Op* op, uint16_t selector) {
  require_protected(cpu);
  require_umip(cpu);
  const bool memory = op->insn.operand[0].kind == OperandKind::kMem;
  write_operand(cpu, op, 0, memory ? 2 : op->insn.operand_size, selector);
  return next(cpu, op);
}

}  // namespace

const Op* store_ldt(Cpu& cpu, const Op* op) {
  return store_selector(cpu, op, cpu.s.ldtr.selector);
}
const Op* store_task(Cpu& cpu, const Op* op) {
  return store_selector(cpu, op, cpu.s.tr.selector);
}

}  // namespace ostler::interp
