// The handlers of the system family, one group for each source file; bind_system() chooses among them.
//
// Known deviations from the manuals:
// - Accessed bits of descriptors and busy bits of task state segments are set without LOCK.
// - DEBUGCTL.BTF and LBR are remembered and have no effect; last-branch registers read 0.
// - SYSRET gives SS flat attributes with either vendor; AMD's leaves them as they were.
// - VME, PVI, MONITOR, performance counters and SMM are not offered in CPUID, so what belongs to them is #UD
// or #GP.
#pragma once

#include "interp/cpu.h"
#include "interp/op.h"
#include "interp/operand.h"

namespace ostler::interp {

// Leaves the block before the next instruction: code, mode or interrupts may look different from here on.
inline const Op* leave(Cpu& cpu, const Op* op) {
  cpu.s.rip = cpu.next_rip(*op);
  return nullptr;
}
inline const Op* leave_mode_changed(Cpu& cpu, const Op* op) {
  cpu.s.rip = cpu.next_rip(*op);
  cpu.mode_changed();
  return nullptr;
}
// #GP(0) above ring 0 (virtual-8086 mode included).
inline void require_ring0(const Cpu& cpu) {
  if (cpu.s.cpl() != 0) x86::raise(x86::Vector::kGp, 0);
}
// #UD in real and virtual-8086 mode.
inline void require_protected(const Cpu& cpu) {
  if (!cpu.s.protected_mode() || cpu.s.v8086()) x86::raise(x86::Vector::kUd);
}
inline void require_umip(const Cpu& cpu) {
  if ((cpu.s.cr4 & x86::cr4::kUmip) != 0 && cpu.s.cpl() != 0) x86::raise(x86::Vector::kGp, 0);
}
inline unsigned iopl(const Cpu& cpu) {
  return static_cast<unsigned>(cpu.s.flags_rest >> 12 & 3);
}

// A general-register or memory operand of a size known at run time.
uint64_t read_operand(Cpu& cpu, const Op* op, unsigned index, unsigned size);
void write_operand(Cpu& cpu, const Op* op, unsigned index, unsigned size, uint64_t value);
// Checks that write_operand() will not fault.
void set_register(Cpu& cpu, uint8_t offset, unsigned size, uint64_t value);

// far_transfer.cpp
const Op* jump_far(Cpu& cpu, const Op* op);
const Op* call_far(Cpu& cpu, const Op* op);
// far_return.cpp
const Op* return_far(Cpu& cpu, const Op* op);
const Op* interrupt_return(Cpu& cpu, const Op* op);
// software_interrupt.cpp
const Op* software_interrupt(Cpu& cpu, const Op* op);
const Op* breakpoint(Cpu& cpu, const Op* op);
const Op* overflow(Cpu& cpu, const Op* op);
const Op* icebp(Cpu& cpu, const Op* op);
// segment_ops.cpp
const Op* mov_from_segment(Cpu& cpu, const Op* op);
const Op* mov_to_segment(Cpu& cpu, const Op* op);
const Op* push_segment(Cpu& cpu, const Op* op);
const Op* pop_segment(Cpu& cpu, const Op* op);
const Op* load_far_pointer(Cpu& cpu, const Op* op);
const Op* access_rights(Cpu& cpu, const Op* op);
const Op* segment_limit(Cpu& cpu, const Op* op);
const Op* verify_read(Cpu& cpu, const Op* op);
const Op* verify_write(Cpu& cpu, const Op* op);
const Op* adjust_rpl(Cpu& cpu, const Op* op);
const Op* swapgs(Cpu& cpu, const Op* op);
const Op* read_base(Cpu& cpu, const Op* op);
const Op* write_base(Cpu& cpu, const Op* op);
// table_ops.cpp
const Op* load_table(Cpu& cpu, const Op* op);
const Op* store_table(Cpu& cpu, const Op* op);
const Op* load_ldt(Cpu& cpu, const Op* op);
const Op* load_task(Cpu& cpu, const Op* op);
const Op* store_ldt(Cpu& cpu, const Op* op);
const Op* store_task(Cpu& cpu, const Op* op);
// control_registers.cpp
const Op* mov_from_control(Cpu& cpu, const Op* op);
const Op* mov_to_control(Cpu& cpu, const Op* op);
const Op* mov_from_debug(Cpu& cpu, const Op* op);
const Op* mov_to_debug(Cpu& cpu, const Op* op);
const Op* store_machine_status(Cpu& cpu, const Op* op);
const Op* load_machine_status(Cpu& cpu, const Op* op);
const Op* clear_task_switched(Cpu& cpu, const Op* op);
const Op* read_xcr(Cpu& cpu, const Op* op);
const Op* write_xcr(Cpu& cpu, const Op* op);
// fast_call.cpp
const Op* syscall(Cpu& cpu, const Op* op);
const Op* sysret(Cpu& cpu, const Op* op);
const Op* sysenter(Cpu& cpu, const Op* op);
const Op* sysexit(Cpu& cpu, const Op* op);
// msr.cpp
const Op* read_msr(Cpu& cpu, const Op* op);
const Op* write_msr(Cpu& cpu, const Op* op);
// processor.cpp
const Op* cpuid(Cpu& cpu, const Op* op);
const Op* read_tsc(Cpu& cpu, const Op* op);
const Op* read_tscp(Cpu& cpu, const Op* op);
const Op* read_pid(Cpu& cpu, const Op* op);
const Op* read_pmc(Cpu& cpu, const Op* op);
const Op* halt(Cpu& cpu, const Op* op);
const Op* clear_interrupts(Cpu& cpu, const Op* op);
const Op* set_interrupts(Cpu& cpu, const Op* op);
const Op* clear_ac(Cpu& cpu, const Op* op);
const Op* set_ac(Cpu& cpu, const Op* op);
const Op* hypercall(Cpu& cpu, const Op* op);
const Op* invalidate_caches(Cpu& cpu, const Op* op);
const Op* invalidate_page(Cpu& cpu, const Op* op);
const Op* invalidate_pcid(Cpu& cpu, const Op* op);
const Op* flush_line(Cpu& cpu, const Op* op);
const Op* fence(Cpu& cpu, const Op* op);
const Op* serialize(Cpu& cpu, const Op* op);
const Op* hint(Cpu& cpu, const Op* op);
const Op* undefined(Cpu& cpu, const Op* op);

}  // namespace ostler::interp
