// A debugger's wishes as the interpreter takes them, and its stops as the debugger is told them. Pure.
#pragma once

#include "accel/debug.h"
#include "interp/debug.h"

namespace ostler::accel {

interp::DebugRequest interpreter_request(const DebugRequest& request);
// Which of the breakpoints of `request` it was. A software one goes before a hardware one at the same
// address.
DebugStop debug_stop_of(const DebugRequest& request, const interp::DebugStop& stop);

}  // namespace ostler::accel
