// The x87 environment as FNSTENV, FLDENV, FNSAVE and FRSTOR see it: four memory formats (SDM Vol. 1 §8.1.10,
// Figures 8-9 to 8-12), the full tag word, FNINIT's values. Internal to the interpreter.
#pragma once

#include <cstdint>

#include "interp/cpu.h"
#include "x86/state.h"

namespace ostler::interp {

struct X87Format {
  bool wide;       // 32-bit image: 28 bytes, else 14
  bool real_mode;  // real and virtual-8086 mode: linear pointers instead of selector and offset
  unsigned environment_size() const { return wide ? 28 : 14; }
};
X87Format x87_format(const Cpu& cpu, const x86::Instruction& insn);

// `image` has environment_size() bytes.
void x87_store_environment(const x86::FxState& fx, X87Format format, uint8_t* image);
void x87_load_environment(x86::FxState& fx, X87Format format, const uint8_t* image);

void x87_initialize(x86::FxState& fx);
// What the hardware keeps of a value loaded into FCW.
inline uint16_t x87_control_word(uint16_t value) {
  return static_cast<uint16_t>((value & 0x1f3f) | 0x40);
}
// Two bits per physical register, from the abridged tags and the registers' contents.
uint16_t x87_full_tags(const x86::FxState& fx);

// What FIP and FDP get for an instruction or operand: offsets, linear addresses in real and virtual-8086
// mode.
uint64_t x87_instruction_pointer(const Cpu& cpu, uint64_t rip);
uint64_t x87_data_pointer(const Cpu& cpu, x86::SegIndex segment, uint64_t offset);

}  // namespace ostler::interp
