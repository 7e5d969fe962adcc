// Which handler an instruction of the system family has. Feature flags were checked by bind() before.
#include "interp/op.h"
#include "interp/system/handlers.h"

namespace ostler::interp {

using x86::Opcode;
using x86::OperandKind;

namespace {

Handler bind_mov(const x86::Instruction& insn) {
  switch (insn.operand[0].kind) {
    case OperandKind::kSegment:
      return mov_to_segment;
    case OperandKind::kControl:
      return mov_to_control;
    case OperandKind::kDebug:
      return mov_to_debug;
    default:
      break;
  }
  switch (insn.operand[1].kind) {
    case OperandKind::kSegment:
      return mov_from_segment;
    case OperandKind::kControl:
      return mov_from_control;
    case OperandKind::kDebug:
      return mov_from_debug;
    default:
      return nullptr;
  }
}

}  // namespace

Handler bind_system(const x86::Instruction& insn, const BindContext&) {
  const bool segment_operand = insn.operand[0].kind == OperandKind::kSegment;
  switch (insn.opcode) {
    case Opcode::kMov:
      return bind_mov(insn);
    case Opcode::kPush:
      return segment_operand ? push_segment : nullptr;
    case Opcode::kPop:
      return segment_operand ? pop_segment : nullptr;
    case Opcode::kLds:
    case Opcode::kLes:
    case Opcode::kLfs:
    case Opcode::kLgs:
    case Opcode::kLss:
      return load_far_pointer;
    case Opcode::kJmpFar:
      return jump_far;
    case Opcode::kCallFar:
      return call_far;
    case Opcode::kRetFar:
      return return_far;
    case Opcode::kIret:
      return interrupt_return;
    case Opcode::kInt:
      return software_interrupt;
    case Opcode::kInt1:
      return icebp;
    case Opcode::kInt3:
      return breakpoint;
    case Opcode::kInto:
      return overflow;
    case Opcode::kCli:
      return clear_interrupts;
    case Opcode::kSti:
      return set_interrupts;
    case Opcode::kHlt:
      return halt;
    case Opcode::kSyscall:
      return syscall;
    case Opcode::kSysret:
      return sysret;
    case Opcode::kSysenter:
      return sysenter;
    case Opcode::kSysexit:
      return sysexit;
    case Opcode::kSwapgs:
      return swapgs;
    case Opcode::kCpuid:
      return cpuid;
    case Opcode::kRdmsr:
      return read_msr;
    case Opcode::kWrmsr:
      return write_msr;
    case Opcode::kRdtsc:
      return read_tsc;
    case Opcode::kRdtscp:
      return read_tscp;
    case Opcode::kRdpmc:
      return read_pmc;
    case Opcode::kRdpid:
      return read_pid;
    case Opcode::kLgdt:
    case Opcode::kLidt:
      return load_table;
    case Opcode::kSgdt:
    case Opcode::kSidt:
      return store_table;
    case Opcode::kLldt:
      return load_ldt;
    case Opcode::kLtr:
      return load_task;
    case Opcode::kSldt:
      return store_ldt;
    case Opcode::kStr:
      return store_task;
    case Opcode::kSmsw:
      return store_machine_status;
    case Opcode::kLmsw:
      return load_machine_status;
    case Opcode::kClts:
      return clear_task_switched;
    case Opcode::kLar:
      return access_rights;
    case Opcode::kLsl:
      return segment_limit;
    case Opcode::kVerr:
      return verify_read;
    case Opcode::kVerw:
      return verify_write;
    case Opcode::kArpl:
      return adjust_rpl;
    case Opcode::kInvd:
    case Opcode::kWbinvd:
      return invalidate_caches;
    case Opcode::kInvlpg:
      return invalidate_page;
    case Opcode::kInvpcid:
      return invalidate_pcid;
    case Opcode::kClflush:
    case Opcode::kClflushopt:
    case Opcode::kClwb:
      return flush_line;
    case Opcode::kLfence:
    case Opcode::kMfence:
    case Opcode::kSfence:
      return fence;
    case Opcode::kCldemote:
    case Opcode::kPrefetch:
    case Opcode::kPrefetchw:
      return hint;
    case Opcode::kSerialize:
      return serialize;
    case Opcode::kVmcall:
    case Opcode::kVmmcall:
      return hypercall;
    case Opcode::kXgetbv:
      return read_xcr;
    case Opcode::kXsetbv:
      return write_xcr;
    case Opcode::kRdfsbase:
    case Opcode::kRdgsbase:
      return read_base;
    case Opcode::kWrfsbase:
    case Opcode::kWrgsbase:
      return write_base;
    case Opcode::kClac:
      return clear_ac;
    case Opcode::kStac:
      return set_ac;
    case Opcode::kMonitor:  // not offered
    case Opcode::kMwait:
    case Opcode::kRsm:  // outside SMM
    case Opcode::kUd0:
    case Opcode::kUd1:
    case Opcode::kUd2:
      return undefined;
    default:
      return nullptr;
  }
}

}  // namespace ostler::interp
