// Identification, counters, halting, interrupt flag, caches, TLB and hypercalls.
#include <atomic>

#include "interp/outside.h"
#include "interp/system/descriptors.h"
#include "interp/system/handlers.h"
#include "x86/cpu_model.h"

namespace ostler::interp {

using mmu::Access;
using x86::CpuState;
using x86::Vector;
namespace cr4 = x86::cr4;
namespace rflags = x86::rflags;

namespace {

void set_edx_eax(CpuState& s, uint64_t value) {
  s.gpr[x86::kRax] = static_cast<uint32_t>(value);
  s.gpr[x86::kRdx] = value >> 32;
}

void require_tsc(const Cpu& cpu) {
  if ((cpu.s.cr4 & cr4::kTsd) != 0 && cpu.s.cpl() != 0) x86::raise(Vector::kGp, 0);
}

// CLI and STI: allowed at CPL <= IOPL. Virtual interrupts (VME, PVI) are not offered.
void require_io_privilege(const Cpu& cpu) {
  if (cpu.s.protected_mode() && cpu.s.cpl() > iopl(cpu)) x86::raise(Vector::kGp, 0);
}

}  // namespace

const Op* cpuid(Cpu& cpu, const Op* op) {
  CpuState& s = cpu.s;
  const x86::CpuidResult r = cpu.model.cpuid(cpu.reg<uint32_t>(x86::kRax * 8),
                                             cpu.reg<uint32_t>(x86::kRcx * 8), s, cpu.env.vcpu_info());
  s.gpr[x86::kRax] = r.eax;
  s.gpr[x86::kRbx] = r.ebx;
  s.gpr[x86::kRcx] = r.ecx;
  s.gpr[x86::kRdx] = r.edx;
  return next(cpu, op);
}

const Op* read_tsc(Cpu& cpu, const Op* op) {
  require_tsc(cpu);
  set_edx_eax(cpu.s, cpu.env.tsc());
  return next(cpu, op);
}

const Op* read_tscp(Cpu& cpu, const Op* op) {
  require_tsc(cpu);
  set_edx_eax(cpu.s, cpu.env.tsc());
  cpu.s.gpr[x86::kRcx] = static_cast<uint32_t>(cpu.s.msr.tsc_aux);
  return next(cpu, op);
}

const Op* read_pid(Cpu& cpu, const Op* op) {
  const bool wide = cpu.code_size == x86::CodeSize::k64;
  set_register(cpu, op->insn.operand[0].index, wide ? 8 : 4, cpu.s.msr.tsc_aux);
  return next(cpu, op);
}

// No performance counters are offered, so no index is valid.
const Op* read_pmc(Cpu&, const Op*) {
  x86::raise(Vector::kGp, 0);
}

const Op* halt(Cpu& cpu, const Op* op) {
  require_ring0(cpu);
  cpu.s.activity = x86::Activity::kHalted;
  return leave(cpu, op);
}

const Op* clear_interrupts(Cpu& cpu, const Op* op) {
  require_io_privilege(cpu);
  cpu.s.flags_rest &= ~rflags::kIf;
  return next(cpu, op);
}

const Op* set_interrupts(Cpu& cpu, const Op* op) {
  require_io_privilege(cpu);
  // Interrupts stay off for one more instruction, but only if they were off.
  if (!cpu.s.flag(rflags::kIf)) cpu.s.interrupt_shadow = true;
  cpu.s.flags_rest |= rflags::kIf;
  return leave(cpu, op);
}

const Op* clear_ac(Cpu& cpu, const Op* op) {
  if (cpu.s.cpl() != 0) x86::raise(Vector::kUd);
  cpu.s.flags_rest &= ~rflags::kAc;
  return leave_mode_changed(cpu, op);
}

const Op* set_ac(Cpu& cpu, const Op* op) {
  if (cpu.s.cpl() != 0) x86::raise(Vector::kUd);
  cpu.s.flags_rest |= rflags::kAc;
  return leave_mode_changed(cpu, op);
}

// VMCALL and VMMCALL as KVM takes them: number in RAX, arguments in RBX, RCX, RDX, RSI, from ring 0 only.
const Op* hypercall(Cpu& cpu, const Op* op) {
  CpuState& s = cpu.s;
  if (cpu.model.cpuid(0x40000001, 0, s, cpu.env.vcpu_info()).eax == 0) x86::raise(Vector::kUd);
  constexpr uint64_t kNotPermitted = static_cast<uint64_t>(-1);
  const unsigned size = cpu.code_size == x86::CodeSize::k64 ? 8 : 4;
  const x86::Hypercall call{.number = truncate(s.gpr[x86::kRax], size),
                            .arguments = {truncate(s.gpr[x86::kRbx], size), truncate(s.gpr[x86::kRcx], size),
                                          truncate(s.gpr[x86::kRdx], size), truncate(s.gpr[x86::kRsi], size)},
                            .wide = size == 8};
  const uint64_t result =
      s.cpl() != 0 ? kNotPermitted : outside_guest(cpu, [&] { return cpu.env.hypercall(call); });
  set_register(cpu, x86::kRax * 8, size, result);
  return next(cpu, op);
}

const Op* invalidate_caches(Cpu& cpu, const Op* op) {
  require_ring0(cpu);
  return next(cpu, op);
}

const Op* invalidate_page(Cpu& cpu, const Op* op) {
  require_ring0(cpu);
  const uint64_t offset = cpu.effective_offset(*op);
  uint64_t linear = offset;
  if (cpu.code_size != x86::CodeSize::k64)
    linear = static_cast<uint32_t>(offset + cpu.s.seg[op->insn.segment].base);
  else if (op->insn.segment == x86::kFs || op->insn.segment == x86::kGs)
    linear += cpu.s.seg[op->insn.segment].base;
  if (cpu.canonical(linear)) cpu.mmu.invlpg(linear);
  return leave(cpu, op);
}

const Op* invalidate_pcid(Cpu& cpu, const Op* op) {
  require_ring0(cpu);
  const unsigned size = cpu.code_size == x86::CodeSize::k64 ? 8 : 4;
  const uint64_t type = truncate(cpu.reg<uint64_t>(op->insn.operand[0].index), size);
  const uint64_t linear = cpu.linear(*op, 16, Access::kRead);
  const uint64_t pcid = cpu.mmu.read<uint64_t>(linear);
  const uint64_t address = cpu.mmu.read<uint64_t>(linear + 8);
  const bool pcids_off = (cpu.s.cr4 & cr4::kPcide) == 0;
  bool valid = type <= 3;
  if (type <= 1) valid = valid && (pcid >> 12) == 0 && !(pcids_off && pcid != 0);
  if (type == 0) valid = valid && cpu.canonical(address);
  if (!valid) x86::raise(Vector::kGp, 0);
  cpu.mmu.invpcid(type, pcid, address);
  return leave(cpu, op);
}

// CLFLUSH, CLFLUSHOPT, CLWB: caches are coherent, what is left is the access check of a byte read.
const Op* flush_line(Cpu& cpu, const Op* op) {
  cpu.mmu.probe(cpu.linear(*op, 1, Access::kRead), 1, Access::kRead);
  return next(cpu, op);
}

const Op* fence(Cpu& cpu, const Op* op) {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return next(cpu, op);
}

const Op* serialize(Cpu& cpu, const Op* op) {
  return leave(cpu, op);
}
const Op* hint(Cpu& cpu, const Op* op) {
  return next(cpu, op);
}
const Op* undefined(Cpu&, const Op*) {
  x86::raise(Vector::kUd);
}

}  // namespace ostler::interp
