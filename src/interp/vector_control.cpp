// Instructions on the control state of the vector units: MXCSR, EMMS, VZEROUPPER, VZEROALL, and the checks
// and state changes that MMX shares with x87 (SDM Vol. 1 §9.5, §10.2.3; Vol. 3A §12.2).

#include <cstring>

#include "interp/operand.h"
#include "interp/vector.h"
#include "interp/vector_families.h"

namespace ostler::interp {

using mmu::Access;
using x86::Opcode;
using x86::Vector;
using x86::VectorClass;

void set_fpu_top(x86::FxState& fx, unsigned top) {
  // ST(i) is physical register (TOP + i) mod 8.
  uint8_t registers[8][16];
  for (unsigned i = 0; i < 8; ++i) std::memcpy(registers[i], fx.st[(i + top - fpu_top(fx)) & 7], 16);
  std::memcpy(fx.st, registers, sizeof registers);
  fx.fsw = static_cast<uint16_t>((fx.fsw & ~fpu::kTop) | (top & 7) << fpu::kTopShift);
}

void update_fpu_summary(x86::FxState& fx) {
  constexpr uint16_t kSummary = fpu::kErrorSummary | fpu::kBusy;
  const bool pending = (fx.fsw & ~fx.fcw & fpu::kExceptions) != 0;
  fx.fsw = static_cast<uint16_t>(pending ? fx.fsw | kSummary : fx.fsw & ~kSummary);
}

void check_fpu_error(Cpu& cpu) {
  if ((cpu.s.fx.fsw & ~cpu.s.fx.fcw & fpu::kExceptions) == 0) [[likely]]
    return;
  if ((cpu.s.cr0 & x86::cr0::kNe) != 0) x86::raise(Vector::kMf);
  cpu.env.fpu_error();
}

namespace {

constexpr uint32_t kMxcsrMask = 0xffff;

void check_mxcsr_class(const Cpu& cpu, const Op* op) {
  if (op->insn.encoding == x86::Encoding::kVex)
    check_avx(cpu);
  else
    check_sse(cpu);
}

const Op* run_ldmxcsr(Cpu& cpu, const Op* op) {
  check_mxcsr_class(cpu, op);
  const uint32_t value = cpu.mmu.read<uint32_t>(cpu.linear(*op, 4, Access::kRead));
  if ((value & ~kMxcsrMask) != 0) x86::raise(Vector::kGp, 0);
  cpu.s.fx.mxcsr = value;
  return next(cpu, op);
}

const Op* run_stmxcsr(Cpu& cpu, const Op* op) {
  check_mxcsr_class(cpu, op);
  cpu.mmu.write<uint32_t>(cpu.linear(*op, 4, Access::kWrite), cpu.s.fx.mxcsr);
  return next(cpu, op);
}

const Op* run_emms(Cpu& cpu, const Op* op) {
  check_mmx_or_x87(cpu, VectorClass::kMmx);
  check_fpu_error(cpu);
  set_fpu_top(cpu.s.fx, 0);
  cpu.s.fx.ftw = 0;
  return next(cpu, op);
}

unsigned vector_registers(const Cpu& cpu) {
  return cpu.code_size == x86::CodeSize::k64 ? 16 : 8;
}

const Op* run_vzeroupper(Cpu& cpu, const Op* op) {
  check_avx(cpu);
  for (unsigned i = 0; i < vector_registers(cpu); ++i) std::memset(cpu.s.vec[i] + 16, 0, 16);
  return next(cpu, op);
}

const Op* run_vzeroall(Cpu& cpu, const Op* op) {
  check_avx(cpu);
  for (unsigned i = 0; i < vector_registers(cpu); ++i) std::memset(cpu.s.vec[i], 0, 32);
  return next(cpu, op);
}

}  // namespace

Handler bind_vector_control(const x86::Instruction& insn) {
  switch (insn.opcode) {
    case Opcode::kLdmxcsr:
      return run_ldmxcsr;
    case Opcode::kStmxcsr:
      return run_stmxcsr;
    case Opcode::kEmms:
      return run_emms;
    case Opcode::kVzeroupper:
      return run_vzeroupper;
    case Opcode::kVzeroall:
      return run_vzeroall;
    default:
      return nullptr;
  }
}

}  // namespace ostler::interp
