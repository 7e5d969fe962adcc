// What the vector, MMX and x87 families share: the checks before an instruction, memory operands, the passage
// from x87 to MMX. Internal to the interpreter.
#pragma once

#include <cstdint>
#include <span>

#include "interp/cpu.h"
#include "interp/op.h"
#include "x86/vector_info.h"

namespace ostler::interp {

// ---- #UD and #NM (SDM Vol. 3A §2.5, Vol. 2A §2.4-2.5) ----

[[noreturn]] void raise_unavailable(const Cpu& cpu, x86::VectorClass vector_class);

inline void check_sse(const Cpu& cpu) {
  if ((cpu.s.cr0 & (x86::cr0::kEm | x86::cr0::kTs)) != 0 || (cpu.s.cr4 & x86::cr4::kOsfxsr) == 0) [[unlikely]]
    raise_unavailable(cpu, x86::VectorClass::kSse);
}
inline void check_avx(const Cpu& cpu) {
  if ((cpu.s.cr0 & (x86::cr0::kTs | x86::cr0::kPe)) != x86::cr0::kPe ||
      (cpu.s.cr4 & x86::cr4::kOsxsave) == 0 || (cpu.s.xcr0 & 6) != 6 || cpu.s.v8086()) [[unlikely]]
    raise_unavailable(cpu, x86::VectorClass::kAvx);
}
inline void check_mmx_or_x87(const Cpu& cpu, x86::VectorClass vector_class) {
  if ((cpu.s.cr0 & (x86::cr0::kEm | x86::cr0::kTs)) != 0) [[unlikely]]
    raise_unavailable(cpu, vector_class);
}
inline void check_class(const Cpu& cpu, x86::VectorClass vector_class) {
  if (vector_class == x86::VectorClass::kSse)
    check_sse(cpu);
  else if (vector_class == x86::VectorClass::kAvx)
    check_avx(cpu);
  else
    check_mmx_or_x87(cpu, vector_class);
}

// ---- x87 and MMX ----

namespace fpu {
inline constexpr uint16_t kExceptions = 0x3f;  // IE DE ZE OE UE PE, in FCW (masks) and FSW (flags)
inline constexpr uint16_t kErrorSummary = 1u << 7, kBusy = 1u << 15;
inline constexpr unsigned kTopShift = 11;
inline constexpr uint16_t kTop = 7u << kTopShift;
}  // namespace fpu

inline unsigned fpu_top(const x86::FxState& fx) {
  return (fx.fsw & fpu::kTop) >> fpu::kTopShift;
}
// Changes TOP and moves the registers so that each physical one keeps its contents.
void set_fpu_top(x86::FxState& fx, unsigned top);
// Sets ES and B as flags and masks say.
void update_fpu_summary(x86::FxState& fx);

// Before a waiting instruction: #MF when an unmasked exception is pending and CR0.NE is set; without NE the
// outside world is told (Environment::fpu_error).
void check_fpu_error(Cpu& cpu);

// What every MMX instruction does to the x87 state: TOP 0, all tags valid. st[i] is MMi afterwards.
inline void enter_mmx(x86::FxState& fx) {
  if ((fx.fsw & fpu::kTop) != 0) [[unlikely]]
    set_fpu_top(fx, 0);
  fx.ftw = 0xff;
}
inline void mark_mmx_written(x86::FxState& fx, unsigned index) {
  fx.st[index][8] = fx.st[index][9] = 0xff;
}

// ---- memory ----

struct alignas(64) VectorBuffer {
  uint8_t bytes[128];
};

// The linear address of `op`'s operand, with the alignment rule applied.
inline uint64_t vector_linear(Cpu& cpu, const Op* op, unsigned size, unsigned alignment, mmu::Access access) {
  const uint64_t linear = cpu.linear(*op, size, access);
  if ((linear & (alignment - 1)) != 0) x86::raise(x86::Vector::kGp, 0);
  return linear;
}

// Where `size` bytes of guest memory can be read: in place, or copied to `buffer`.
inline const void* read_memory(Cpu& cpu, uint64_t linear, unsigned size, VectorBuffer& buffer) {
  if (const void* p = cpu.mmu.read_pointer(linear, size)) [[likely]]
    return p;
  cpu.mmu.read_bytes(linear, {buffer.bytes, size});
  return buffer.bytes;
}

}  // namespace ostler::interp
