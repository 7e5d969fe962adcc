// The parts of bind_vector(), tried in turn. nullptr: not of this part.
#pragma once

#include "interp/op.h"
#include "x86/vector_info.h"

namespace ostler::interp {

Handler bind_extended_state(const x86::Instruction& insn);       // XSAVE family, FXSAVE, FXRSTOR
Handler bind_x87(const x86::Instruction& insn, uint32_t& data);  // and WAIT
Handler bind_vector_control(const x86::Instruction& insn);  // LDMXCSR, STMXCSR, EMMS, VZEROUPPER, VZEROALL
Handler bind_vector_masked(const x86::Instruction& insn,
                           const x86::VectorInfo& info);  // masked moves, gathers
// Moves and bitwise logic in plain C++, where that is faster than a stub.
Handler bind_vector_move(const x86::Instruction& insn, const x86::VectorInfo& info,
                         const BindContext& context);

}  // namespace ostler::interp
