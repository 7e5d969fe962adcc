// IN and OUT (SDM Vol. 1 §19). INS and OUTS are in string.cpp.
#include "interp/delivery.h"
#include "interp/families.h"
#include "interp/operand.h"
#include "interp/outside.h"

namespace ostler::interp {
namespace {

using x86::Opcode;

uint16_t port_of(const Cpu& cpu, const Op* op, unsigned operand) {
  return is_imm(op->insn.operand[operand]) ? static_cast<uint16_t>(op->insn.imm & 0xff)
                                           : cpu.reg<uint16_t>(x86::kRdx * 8);
}

template <class T>
const Op* in(Cpu& cpu, const Op* op) {
  const uint16_t port = port_of(cpu, op, 1);
  check_io_permission(cpu, port, sizeof(T));
  cpu.check_io_breakpoints(port, sizeof(T));
  cpu.set_reg<T>(0, static_cast<T>(read_port(cpu, port, sizeof(T))));
  return next(cpu, op);
}

// What a port write starts (an interrupt, a reset) is looked at before the next instruction.
template <class T>
const Op* out(Cpu& cpu, const Op* op) {
  const uint16_t port = port_of(cpu, op, 0);
  check_io_permission(cpu, port, sizeof(T));
  cpu.check_io_breakpoints(port, sizeof(T));
  write_port(cpu, port, sizeof(T), cpu.reg<T>(0));
  cpu.s.rip = cpu.next_rip(*op);
  return nullptr;
}

}  // namespace

Handler bind_port_family(const x86::Instruction& insn, const BindContext&) {
  const unsigned size = insn.operand_size;
  switch (insn.opcode) {
    case Opcode::kIn:
      return size == 1 ? in<uint8_t> : size == 2 ? in<uint16_t> : in<uint32_t>;
    case Opcode::kOut:
      return size == 1 ? out<uint8_t> : size == 2 ? out<uint16_t> : out<uint32_t>;
    default:
      return nullptr;
  }
}

}  // namespace ostler::interp
