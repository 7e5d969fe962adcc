// What handlers are built from: going on to the next Op, and memory operands with the addressing form known
// at bind time. In 64-bit code without FS/GS, alignment checks or data breakpoints the form is kBase or
// kBaseIndex and an access is one software-TLB probe; everything else is kGeneral and goes through
// Cpu::linear().
#pragma once

#include <cstdint>

#include "interp/cpu.h"
#include "interp/flags.h"

namespace ostler::interp {

// Runs the next Op of the block. A tail call in optimized builds; a block's length bounds the depth
// otherwise.
[[gnu::always_inline]] inline const Op* next(Cpu& cpu, const Op* op) {
  ++op;
  cpu.current_op = op;
  return op->run(cpu, op);
}

enum class Ea : uint8_t { kBase, kBaseIndex, kGeneral };

inline Ea addressing(const x86::Instruction& insn, const BindContext& context) {
  if (!context.flat || insn.address_size != 8 || insn.segment == x86::kFs || insn.segment == x86::kGs)
    return Ea::kGeneral;
  return insn.index == x86::kNoRegister ? Ea::kBase : Ea::kBaseIndex;
}

template <Ea ea>
[[gnu::always_inline]] inline uint64_t flat_address(const Cpu& cpu, const Op* op) {
  static_assert(ea != Ea::kGeneral);
  uint64_t address = cpu.reg<uint64_t>(op->insn.base) + static_cast<uint64_t>(op->insn.disp);
  if constexpr (ea == Ea::kBaseIndex) address += cpu.reg<uint64_t>(op->insn.index) << op->insn.scale;
  return address;
}

// #GP(0), or #SS(0) for a stack-segment operand, when a flat address is not canonical.
void check_canonical(const Cpu& cpu, x86::SegIndex segment, uint64_t address, unsigned size);

template <class T>
[[gnu::noinline, gnu::cold]] T load_slow(Cpu& cpu, const Op* op, uint64_t address) {
  check_canonical(cpu, op->insn.segment, address, sizeof(T));
  return cpu.mmu.read<T>(address);
}
template <class T>
[[gnu::noinline, gnu::cold]] void store_slow(Cpu& cpu, const Op* op, uint64_t address, T value) {
  check_canonical(cpu, op->insn.segment, address, sizeof(T));
  cpu.mmu.write<T>(address, value);
}
template <class T>
[[gnu::noinline]] T load_general(Cpu& cpu, const Op* op) {
  return cpu.mmu.read<T>(cpu.linear(*op, sizeof(T), mmu::Access::kRead));
}
template <class T>
[[gnu::noinline]] void store_general(Cpu& cpu, const Op* op, T value) {
  cpu.mmu.write<T>(cpu.linear(*op, sizeof(T), mmu::Access::kWrite), value);
}

// The memory operand's value.
template <Ea ea, class T>
[[gnu::always_inline]] inline T load(Cpu& cpu, const Op* op) {
  if constexpr (ea == Ea::kGeneral) {
    return load_general<T>(cpu, op);
  } else {
    const uint64_t address = flat_address<ea>(cpu, op);
    if (const T* p = cpu.mmu.hit_read<T>(address)) [[likely]]
      return *p;
    return load_slow<T>(cpu, op, address);
  }
}
template <Ea ea, class T>
[[gnu::always_inline]] inline void store(Cpu& cpu, const Op* op, T value) {
  if constexpr (ea == Ea::kGeneral) {
    store_general<T>(cpu, op, value);
  } else {
    const uint64_t address = flat_address<ea>(cpu, op);
    if (T* p = cpu.mmu.hit_write<T>(address)) [[likely]] {
      *p = value;
      return;
    }
    store_slow<T>(cpu, op, address, value);
  }
}

// The linear address of a memory operand that is read and written.
template <Ea ea>
[[gnu::always_inline]] inline uint64_t rmw_address(Cpu& cpu, const Op* op, unsigned size) {
  if constexpr (ea == Ea::kGeneral)
    return cpu.linear(*op, size, mmu::Access::kWrite);
  else
    return flat_address<ea>(cpu, op);
}

// Read-modify-write without LOCK: the operand is checked for writing first, so that a fault says W=1 and
// leaves everything as it was. update(value) returns the new value and may change flags; it must not throw.
template <Ea ea, class T, class Update>
[[gnu::always_inline]] inline void read_modify_write(Cpu& cpu, const Op* op, Update&& update) {
  const uint64_t address = rmw_address<ea>(cpu, op, sizeof(T));
  if (T* p = cpu.mmu.hit_write<T>(address)) [[likely]] {
    *p = update(*p);
    return;
  }
  if constexpr (ea != Ea::kGeneral) check_canonical(cpu, op->insn.segment, address, sizeof(T));
  cpu.mmu.probe(address, sizeof(T), mmu::Access::kWrite);
  cpu.mmu.write<T>(address, update(cpu.mmu.read<T>(address)));
}

// Read-modify-write with LOCK: in_place(T*) is one locked host instruction; update(value) the same on a
// value, for memory that has no host address (MMIO, page-crossing, code pages), with all other vCPUs stopped.
template <class T, class InPlace, class Update>
inline void locked_read_modify_write(Cpu& cpu, uint64_t address, InPlace&& in_place, Update&& update) {
  if (void* p = cpu.mmu.rmw_pointer(address, sizeof(T))) [[likely]] {
    in_place(static_cast<T*>(p));
    return;
  }
  cpu.mmu.exclusive_rmw<T>(address, update);
}

// ---- binding ----
inline bool is_gpr(const x86::Operand& operand) {
  return operand.kind == x86::OperandKind::kGpr;
}
inline bool is_mem(const x86::Operand& operand) {
  return operand.kind == x86::OperandKind::kMem;
}
inline bool is_imm(const x86::Operand& operand) {
  return operand.kind == x86::OperandKind::kImm;
}

// Calls make.template operator()<T>() with the unsigned type of `size` bytes.
template <class Make>
Handler by_size(unsigned size, Make&& make) {
  switch (size) {
    case 1:
      return make.template operator()<uint8_t>();
    case 2:
      return make.template operator()<uint16_t>();
    case 4:
      return make.template operator()<uint32_t>();
    case 8:
      return make.template operator()<uint64_t>();
    default:
      return nullptr;
  }
}
// The same without bytes.
template <class Make>
Handler by_word_size(unsigned size, Make&& make) {
  switch (size) {
    case 2:
      return make.template operator()<uint16_t>();
    case 4:
      return make.template operator()<uint32_t>();
    case 8:
      return make.template operator()<uint64_t>();
    default:
      return nullptr;
  }
}
template <class Make>
Handler by_ea(Ea ea, Make&& make) {
  switch (ea) {
    case Ea::kBase:
      return make.template operator()<Ea::kBase>();
    case Ea::kBaseIndex:
      return make.template operator()<Ea::kBaseIndex>();
    case Ea::kGeneral:
      return make.template operator()<Ea::kGeneral>();
  }
  return nullptr;
}

}  // namespace ostler::interp
