// Pushing and popping operands of type T. In 64-bit mode (kFlat) one software-TLB probe; otherwise by SS.B
// and SS's limit. RSP changes only after the access succeeded.
#pragma once

#include "interp/cpu.h"

namespace ostler::interp {

template <class T>
[[gnu::noinline]] void push_general(Cpu& cpu, T value) {
  const uint64_t sp = (cpu.s.gpr[x86::kRsp] - sizeof(T)) & cpu.stack_mask();
  cpu.mmu.write<T>(cpu.linear(x86::kSs, sp, sizeof(T), mmu::Access::kWrite), value);
  cpu.set_sp(sp);
}

// Raises what pushing a T would raise.
template <class T>
[[gnu::noinline]] void probe_push(Cpu& cpu) {
  const uint64_t sp = (cpu.s.gpr[x86::kRsp] - sizeof(T)) & cpu.stack_mask();
  cpu.mmu.probe(cpu.linear(x86::kSs, sp, sizeof(T), mmu::Access::kWrite), sizeof(T), mmu::Access::kWrite);
}

// The T at RSP + offset.
template <class T>
[[gnu::noinline]] T stack_general(Cpu& cpu, uint64_t offset) {
  const uint64_t sp = (cpu.s.gpr[x86::kRsp] + offset) & cpu.stack_mask();
  return cpu.mmu.read<T>(cpu.linear(x86::kSs, sp, sizeof(T), mmu::Access::kRead));
}

template <bool flat, class T>
[[gnu::always_inline]] inline void push(Cpu& cpu, T value) {
  if constexpr (flat) {
    const uint64_t sp = cpu.s.gpr[x86::kRsp] - sizeof(T);
    if (T* p = cpu.mmu.hit_write<T>(sp)) [[likely]] {
      *p = value;
      cpu.s.gpr[x86::kRsp] = sp;
      return;
    }
  }
  push_general<T>(cpu, value);
}

template <bool flat, class T>
[[gnu::always_inline]] inline T stack_top(Cpu& cpu) {
  if constexpr (flat) {
    if (const T* p = cpu.mmu.hit_read<T>(cpu.s.gpr[x86::kRsp])) [[likely]]
      return *p;
  }
  return stack_general<T>(cpu, 0);
}

// RSP += bytes, in the stack's address size.
template <bool flat>
[[gnu::always_inline]] inline void release_stack(Cpu& cpu, uint64_t bytes) {
  if constexpr (flat)
    cpu.s.gpr[x86::kRsp] += bytes;
  else
    cpu.set_sp((cpu.s.gpr[x86::kRsp] + bytes) & cpu.stack_mask());
}

}  // namespace ostler::interp
