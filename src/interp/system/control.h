// Writes to control registers and EFER with all that hangs on them (SDM 3A §2.5, §4.1, §10.8.5). Throw #GP(0)
// with nothing changed. The caller ends its block and calls Cpu::mode_changed().
#pragma once

#include <cstdint>

#include "interp/cpu.h"

namespace ostler::interp {

void write_cr0(Cpu& cpu, uint64_t value);
void write_cr3(Cpu& cpu, uint64_t value);
void write_cr4(Cpu& cpu, uint64_t value);
void write_efer(Cpu& cpu, uint64_t value);

}  // namespace ostler::interp
