// The integer families' binders, tried in turn by bind_integer(). nullptr: not of this family.
#pragma once

#include "interp/op.h"

namespace ostler::x86 {
class CpuModel;
}

namespace ostler::interp {

Handler bind_alu_family(const x86::Instruction& insn, const BindContext& context);       // alu.cpp
Handler bind_move_family(const x86::Instruction& insn, const BindContext& context);      // move.cpp
Handler bind_shift_family(const x86::Instruction& insn, const BindContext& context);     // shift.cpp
Handler bind_multiply_family(const x86::Instruction& insn, const BindContext& context);  // multiply.cpp
Handler bind_bit_family(const x86::Instruction& insn, const BindContext& context);       // bits.cpp
Handler bind_atomic_family(const x86::Instruction& insn, const BindContext& context);    // atomic.cpp
Handler bind_decimal_family(const x86::Instruction& insn, const BindContext& context);   // decimal.cpp
Handler bind_flag_family(const x86::Instruction& insn, const BindContext& context);      // flag_ops.cpp
Handler bind_port_family(const x86::Instruction& insn, const BindContext& context);      // port.cpp

// Feature check against `model`, then the families in turn; #UD for what is left. `data` is for Op::data.
Handler bind(const x86::Instruction& insn, const x86::CpuModel& model, const BindContext& context,
             uint32_t& data);

}  // namespace ostler::interp
