// MOV CRn, MOV DRn, LMSW, SMSW, CLTS, XGETBV, XSETBV (SDM 3A §2.5, §2.6, §17.2).
#include "interp/system/control.h"
#include "interp/system/descriptors.h"
#include "interp/system/handlers.h"
#include "interp/xsave.h"
#include "x86/cpu_model.h"

namespace ostler::interp {

using x86::CpuState;
using x86::OperandKind;
using x86::Vector;
namespace cr0 = x86::cr0;
namespace cr4 = x86::cr4;
namespace efer = x86::efer;

namespace {

constexpr uint64_t kCr0Writable = cr0::kPe | cr0::kMp | cr0::kEm | cr0::kTs | cr0::kNe | cr0::kWp | cr0::kAm |
                                  cr0::kNw | cr0::kCd | cr0::kPg;

[[noreturn]] void general_protection() {
  x86::raise(Vector::kGp, 0);
}

// PAE paging (not long mode) keeps its page-directory-pointer entries in registers.
bool uses_pdptes(uint64_t cr0_value, uint64_t cr4_value, uint64_t efer_value) {
  return (cr0_value & cr0::kPg) != 0 && (cr4_value & cr4::kPae) != 0 && (efer_value & efer::kLma) == 0;
}

}  // namespace

void write_cr0(Cpu& cpu, uint64_t value) {
  CpuState& s = cpu.s;
  if ((value >> 32) != 0) general_protection();
  value = (value & kCr0Writable) | cr0::kEt;
  if ((value & (cr0::kPg | cr0::kPe)) == cr0::kPg) general_protection();
  if ((value & (cr0::kNw | cr0::kCd)) == cr0::kNw) general_protection();

  const bool paging = (value & cr0::kPg) != 0, was_paging = (s.cr0 & cr0::kPg) != 0;
  uint64_t new_efer = s.msr.efer;
  if (paging && !was_paging && (s.msr.efer & efer::kLme) != 0) {
    const bool tss16 = s.tr.usable() && (s.tr.type() & 8) == 0 && s.tr.type() != 0;
    if ((s.cr4 & cr4::kPae) == 0 || s.seg[x86::kCs].is_long() || tss16) general_protection();
    new_efer |= efer::kLma;
  }
  if (!paging && was_paging) {
    if (s.code64() || (s.cr4 & cr4::kPcide) != 0) general_protection();
    new_efer &= ~efer::kLma;
  }
  constexpr uint64_t kReload = cr0::kPg | cr0::kCd | cr0::kNw;  // SDM 3A §4.4.1
  if (uses_pdptes(value, s.cr4, new_efer) && ((value ^ s.cr0) & kReload) != 0) cpu.mmu.load_pdptes(s.cr3);
  s.cr0 = value;
  s.msr.efer = new_efer;
}

void write_cr3(Cpu& cpu, uint64_t value) {
  CpuState& s = cpu.s;
  uint64_t stored = value;
  if ((s.cr4 & cr4::kPcide) != 0) stored &= ~(uint64_t{1} << 63);  // "keep this PCID's translations"
  if (s.long_mode()) {
    if ((stored >> cpu.model.physical_bits()) != 0) general_protection();
  } else {
    stored = static_cast<uint32_t>(stored);
  }
  if (uses_pdptes(s.cr0, s.cr4, s.msr.efer)) cpu.mmu.load_pdptes(stored);
  s.cr3 = stored;
  cpu.mmu.cr3_written(value);
}

void write_cr4(Cpu& cpu, uint64_t value) {
  CpuState& s = cpu.s;
  if ((value & ~cpu.model.cr4_supported()) != 0) general_protection();
  const uint64_t changed = value ^ s.cr4;
  if (s.long_mode()) {
    if ((value & cr4::kPae) == 0 || (changed & cr4::kLa57) != 0) general_protection();
  }
  if ((changed & value & cr4::kPcide) != 0 && (!s.long_mode() || (s.cr3 & 0xfff) != 0)) general_protection();
  constexpr uint64_t kReload = cr4::kPse | cr4::kPae | cr4::kPge | cr4::kSmep;  // SDM 3A §4.4.1
  if (uses_pdptes(s.cr0, value, s.msr.efer) && (changed & kReload) != 0) cpu.mmu.load_pdptes(s.cr3);
  s.cr4 = value;
}

void write_efer(Cpu& cpu, uint64_t value) {
  CpuState& s = cpu.s;
  uint64_t writable = 0;
  if (cpu.model.has(x86::Feature::kSyscall)) writable |= efer::kSce;
  if (cpu.model.has(x86::Feature::kLm)) writable |= efer::kLme;
  if (cpu.model.has(x86::Feature::kNx)) writable |= efer::kNxe;
  if ((value & ~(writable | efer::kLma)) != 0) general_protection();
  // LME may not change under paging; LMA is not software's to write.
  if (((value ^ s.msr.efer) & efer::kLme) != 0 && (s.cr0 & cr0::kPg) != 0) general_protection();
  s.msr.efer = (value & writable) | (s.msr.efer & efer::kLma);
}

const Op* mov_from_control(Cpu& cpu, const Op* op) {
  require_ring0(cpu);
  CpuState& s = cpu.s;
  uint64_t value = 0;
  switch (op->insn.operand[1].index) {
    case 0:
      value = s.cr0;
      break;
    case 2:
      value = s.cr2;
      break;
    case 3:
      value = s.cr3;
      break;
    case 4:
      value = s.cr4;
      break;
    case 8:
      value = cpu.env.cr8();
      break;
    default:
      x86::raise(Vector::kUd);
  }
  const bool wide = cpu.code_size == x86::CodeSize::k64;
  set_register(cpu, op->insn.operand[0].index, wide ? 8 : 4, value);
  return next(cpu, op);
}

const Op* mov_to_control(Cpu& cpu, const Op* op) {
  const bool wide = cpu.code_size == x86::CodeSize::k64;
  const uint64_t value = truncate(cpu.reg<uint64_t>(op->insn.operand[1].index), wide ? 8 : 4);
  const unsigned number = op->insn.operand[0].index;
  if (number != 0 && number != 2 && number != 3 && number != 4 && number != 8) x86::raise(Vector::kUd);
  require_ring0(cpu);
  switch (number) {
    case 0:
      write_cr0(cpu, value);
      break;
    case 2:
      cpu.s.cr2 = value;
      break;
    case 3:
      write_cr3(cpu, value);
      break;
    case 4:
      write_cr4(cpu, value);
      break;
    default:
      if (value > 15) general_protection();
      cpu.env.set_cr8(static_cast<uint8_t>(value));
      break;
  }
  return leave_mode_changed(cpu, op);
}

namespace {

constexpr uint64_t kDr6Fixed = 0xffff0ff0, kDr6Writable = 0xe00f;
constexpr uint64_t kDr7Fixed = 0x400, kDr7Writable = 0xffff23ff;
constexpr uint64_t kGeneralDetect = 1u << 13;

// The register that `number` means; #UD, #GP and #DB in the order of SDM Vol. 2 "MOV DR".
unsigned debug_register(Cpu& cpu, unsigned number) {
  if (number > 7) x86::raise(Vector::kUd);
  if ((number == 4 || number == 5) && (cpu.s.cr4 & cr4::kDe) != 0) x86::raise(Vector::kUd);
  require_ring0(cpu);
  if ((cpu.s.dr[7] & kGeneralDetect) != 0) {
    x86::Exception exception{Vector::kDb};
    exception.dr6_bits = kGeneralDetect;  // DR6.BD
    throw exception;
  }
  return number == 4 ? 6 : number == 5 ? 7 : number;
}

}  // namespace

const Op* mov_from_debug(Cpu& cpu, const Op* op) {
  const unsigned number = debug_register(cpu, op->insn.operand[1].index);
  const bool wide = cpu.code_size == x86::CodeSize::k64;
  set_register(cpu, op->insn.operand[0].index, wide ? 8 : 4, cpu.s.dr[number]);
  return next(cpu, op);
}

const Op* mov_to_debug(Cpu& cpu, const Op* op) {
  const unsigned number = debug_register(cpu, op->insn.operand[0].index);
  const bool wide = cpu.code_size == x86::CodeSize::k64;
  uint64_t value = truncate(cpu.reg<uint64_t>(op->insn.operand[1].index), wide ? 8 : 4);
  if (number >= 6) {
    if ((value >> 32) != 0) general_protection();
    value = number == 6 ? (value & kDr6Writable) | kDr6Fixed : (value & kDr7Writable) | kDr7Fixed;
  }
  cpu.s.dr[number] = value;
  return leave_mode_changed(cpu, op);
}

const Op* store_machine_status(Cpu& cpu, const Op* op) {
  require_umip(cpu);
  const bool memory = op->insn.operand[0].kind == OperandKind::kMem;
  write_operand(cpu, op, 0, memory ? 2 : op->insn.operand_size, cpu.s.cr0);
  return next(cpu, op);
}

const Op* load_machine_status(Cpu& cpu, const Op* op) {
  require_ring0(cpu);
  constexpr uint64_t kLoadable = cr0::kPe | cr0::kMp | cr0::kEm | cr0::kTs;
  const uint64_t value = read_operand(cpu, op, 0, 2) & kLoadable;
  // LMSW can set PE but not clear it.
  write_cr0(cpu, (cpu.s.cr0 & ~(kLoadable & ~cr0::kPe)) | value);
  return leave_mode_changed(cpu, op);
}

const Op* clear_task_switched(Cpu& cpu, const Op* op) {
  require_ring0(cpu);
  cpu.s.cr0 &= ~cr0::kTs;
  return leave_mode_changed(cpu, op);
}

const Op* read_xcr(Cpu& cpu, const Op* op) {
  CpuState& s = cpu.s;
  if ((s.cr4 & cr4::kOsxsave) == 0) x86::raise(Vector::kUd);
  const uint32_t index = cpu.reg<uint32_t>(x86::kRcx * 8);
  // XCR1 is the set of components in use. MXCSR counts as SSE's here: claiming one in use is always allowed.
  const bool in_use = index == 1 && cpu.model.has(x86::Feature::kXgetbv1);
  if (index != 0 && !in_use) general_protection();
  constexpr uint32_t kMxcsrInitial = 0x1f80;
  uint64_t value = s.xcr0;
  if (in_use) value &= xinuse(s) | (s.fx.mxcsr != kMxcsrInitial ? 2 : 0);
  s.gpr[x86::kRax] = static_cast<uint32_t>(value);
  s.gpr[x86::kRdx] = value >> 32;
  return next(cpu, op);
}

const Op* write_xcr(Cpu& cpu, const Op* op) {
  CpuState& s = cpu.s;
  if ((s.cr4 & cr4::kOsxsave) == 0) x86::raise(Vector::kUd);
  require_ring0(cpu);
  const uint64_t value = cpu.reg<uint32_t>(x86::kRax * 8) | uint64_t{cpu.reg<uint32_t>(x86::kRdx * 8)} << 32;
  const bool valid = cpu.reg<uint32_t>(x86::kRcx * 8) == 0 && (value & 1) != 0 &&
                     (value & ~cpu.model.xcr0_supported()) == 0 && (value & 6) != 4;
  if (!valid) general_protection();
  s.xcr0 = value;
  return leave_mode_changed(cpu, op);
}

}  // namespace ostler::interp
