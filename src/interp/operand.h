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

template <class T>
[[gnu::noinline]] T load_general(Cpu& cpu, const Op* op) {
  return cpu.mmu.read<T>(cpu.linear(*op, sizeof(T), mmu::Access::kRead));
}
template <class T>
[[gnu::noinline]] void store_general(Cpu& cpu, const Op* op, T value) {
  cpu.mmu.write<T>(cpu.linear(*op, sizeof(T), mmu::Access::kWrite), value);
}

// The rest of a handler as a function of its memory operand. A flat form that misses the software TLB goes on
// in `general`, the same handler's kGeneral form, by a tail call: the fast path then needs no stack frame at
// all.

// body(value) with the operand's value.
template <Ea ea, class T, class Body>
[[gnu::always_inline]] inline const Op* with_load(Cpu& cpu, const Op* op, [[maybe_unused]] Handler general,
                                                  Body&& body) {
  if constexpr (ea == Ea::kGeneral) {
    body(load_general<T>(cpu, op));
  } else {
    const T* p = cpu.mmu.hit_read<T>(flat_address<ea>(cpu, op));
    if (p == nullptr) [[unlikely]]
      return general(cpu, op);
    body(*p);
  }
  return next(cpu, op);
}

// Stores `value` to the operand.
template <Ea ea, class T>
[[gnu::always_inline]] inline const Op* with_store(Cpu& cpu, const Op* op, [[maybe_unused]] Handler general,
                                                   T value) {
  if constexpr (ea == Ea::kGeneral) {
    store_general<T>(cpu, op, value);
  } else {
    T* p = cpu.mmu.hit_write<T>(flat_address<ea>(cpu, op));
    if (p == nullptr) [[unlikely]]
      return general(cpu, op);
    *p = value;
  }
  return next(cpu, op);
}

// operand = update(operand) without LOCK. The operand is checked for writing first, so that a fault says W=1
// and leaves everything as it was; update may change flags and registers and must not throw.
template <Ea ea, class T, class Update>
[[gnu::always_inline]] inline const Op* with_update(Cpu& cpu, const Op* op, [[maybe_unused]] Handler general,
                                                    Update&& update) {
  if constexpr (ea == Ea::kGeneral) {
    const uint64_t address = cpu.linear(*op, sizeof(T), mmu::Access::kWrite);
    if (T* p = cpu.mmu.hit_write<T>(address)) {
      *p = update(*p);
    } else {
      cpu.mmu.probe(address, sizeof(T), mmu::Access::kWrite);
      const T value = cpu.mmu.read<T>(address);
      cpu.mmu.write<T>(address, update(value));
    }
  } else {
    T* p = cpu.mmu.hit_write<T>(flat_address<ea>(cpu, op));
    if (p == nullptr) [[unlikely]]
      return general(cpu, op);
    *p = update(*p);
  }
  return next(cpu, op);
}

// The same with LOCK: in_place(T*) is one locked host instruction; update(value) does the same on a value,
// for memory that has no host address (MMIO, page-crossing, code pages), with all other vCPUs stopped.
template <class T, class InPlace, class Update>
inline void locked_at(Cpu& cpu, uint64_t address, InPlace&& in_place, Update&& update) {
  if (T* p = cpu.mmu.hit_write<T>(address))
    in_place(p);
  else if (void* slow = cpu.mmu.rmw_pointer(address, sizeof(T)))
    in_place(static_cast<T*>(slow));
  else
    cpu.mmu.exclusive_rmw<T>(address, update);
}
template <Ea ea, class T, class InPlace, class Update>
[[gnu::always_inline]] inline const Op* with_locked(Cpu& cpu, const Op* op, [[maybe_unused]] Handler general,
                                                    InPlace&& in_place, [[maybe_unused]] Update&& update) {
  if constexpr (ea == Ea::kGeneral) {
    locked_at<T>(cpu, cpu.linear(*op, sizeof(T), mmu::Access::kWrite), in_place, update);
  } else {
    T* p = cpu.mmu.hit_write<T>(flat_address<ea>(cpu, op));
    if (p == nullptr) [[unlikely]]
      return general(cpu, op);
    in_place(p);
  }
  return next(cpu, op);
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
