// Flag instructions and hints: LAHF SAHF CLC STC CMC CLD STD SALC NOP PAUSE.
#include "interp/families.h"
#include "interp/operand.h"

namespace ostler::interp {
namespace {

using x86::Opcode;
namespace rflags = x86::rflags;

const Op* lahf(Cpu& cpu, const Op* op) {
  cpu.set_reg<uint8_t>(1, static_cast<uint8_t>(((cpu.s.flags_ax >> 8) & 0xd5) | 2));
  return next(cpu, op);
}
const Op* sahf(Cpu& cpu, const Op* op) {
  cpu.s.flags_ax = static_cast<uint16_t>(((cpu.reg<uint8_t>(1) & 0xd5) | 2) << 8 | (cpu.s.flags_ax & 1));
  return next(cpu, op);
}
const Op* clc(Cpu& cpu, const Op* op) {
  cpu.s.flags_ax = static_cast<uint16_t>(cpu.s.flags_ax & ~flags_ax::kCf);
  return next(cpu, op);
}
const Op* stc(Cpu& cpu, const Op* op) {
  cpu.s.flags_ax |= flags_ax::kCf;
  return next(cpu, op);
}
const Op* cmc(Cpu& cpu, const Op* op) {
  cpu.s.flags_ax ^= flags_ax::kCf;
  return next(cpu, op);
}
const Op* cld(Cpu& cpu, const Op* op) {
  cpu.s.flags_rest &= ~rflags::kDf;
  return next(cpu, op);
}
const Op* std(Cpu& cpu, const Op* op) {
  cpu.s.flags_rest |= rflags::kDf;
  return next(cpu, op);
}
// Undocumented by Intel until late, on every processor: AL = CF ? FFh : 0.
const Op* salc(Cpu& cpu, const Op* op) {
  cpu.set_reg<uint8_t>(0, (cpu.s.flags_ax & flags_ax::kCf) != 0 ? 0xff : 0);
  return next(cpu, op);
}

const Op* nop(Cpu& cpu, const Op* op) {
  return next(cpu, op);
}
const Op* pause(Cpu& cpu, const Op* op) {
  __builtin_ia32_pause();
  return next(cpu, op);
}
}  // namespace

Handler bind_flag_family(const x86::Instruction& insn, const BindContext&) {
  switch (insn.opcode) {
    case Opcode::kLahf:
      return lahf;
    case Opcode::kSahf:
      return sahf;
    case Opcode::kClc:
      return clc;
    case Opcode::kStc:
      return stc;
    case Opcode::kCmc:
      return cmc;
    case Opcode::kCld:
      return cld;
    case Opcode::kStd:
      return std;
    case Opcode::kSalc:
      return salc;
    case Opcode::kNop:
      return nop;
    case Opcode::kPause:
      return pause;
    default:
      return nullptr;
  }
}

}  // namespace ostler::interp
