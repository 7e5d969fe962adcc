// Which instructions end a block.
#pragma once

#include "x86/opcode.h"

namespace ostler::interp {

// Near control transfers handled by control.cpp: their handlers always leave the block, so nothing follows
// them.
bool always_leaves(x86::Opcode opcode);
// Instructions after which a block is not continued: those that may change the mode, interrupts or code.
bool ends_block(x86::Opcode opcode);

}  // namespace ostler::interp
