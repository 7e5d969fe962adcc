// Moves and bitwise logic between XMM/YMM registers, general registers and memory in plain C++: the bulk of
// the vector instructions of compiled code, quicker here than through a host stub. Semantics: SDM Vol. 2.
//
// T is what is moved: 4, 8, 16 or 32 bytes. `avx` clears the destination above T, SSE keeps bits 255:128.

#include <cstring>

#include "interp/operand.h"
#include "interp/vector.h"
#include "interp/vector_families.h"

namespace ostler::interp {

using mmu::Access;
using x86::Encoding;
using x86::Instruction;
using x86::OperandKind;
using x86::VectorInfo;

namespace {

struct Half {
  uint64_t word[2];
};
struct Full {
  uint64_t word[4];
};

template <bool avx>
[[gnu::always_inline]] inline void check(const Cpu& cpu) {
  if constexpr (avx)
    check_avx(cpu);
  else
    check_sse(cpu);
}

[[gnu::always_inline]] inline uint8_t* vec(Cpu& cpu, const Op* op, unsigned operand) {
  return cpu.s.vec[op->insn.operand[operand].index];
}

template <class T>
[[gnu::noinline]] T load_bytes(Cpu& cpu, const Op* op, unsigned alignment) {
  T value;
  const uint64_t linear = vector_linear(cpu, op, sizeof(T), alignment, Access::kRead);
  cpu.mmu.read_bytes(linear, {reinterpret_cast<uint8_t*>(&value), sizeof value});
  return value;
}
template <class T>
[[gnu::noinline]] void store_bytes(Cpu& cpu, const Op* op, unsigned alignment, T value) {
  const uint64_t linear = vector_linear(cpu, op, sizeof(T), alignment, Access::kWrite);
  cpu.mmu.write_bytes(linear, {reinterpret_cast<const uint8_t*>(&value), sizeof value});
}

template <Ea ea, class T, bool aligned>
[[gnu::always_inline]] inline T load_vector(Cpu& cpu, const Op* op) {
  constexpr unsigned kAlignment = aligned ? sizeof(T) : 1;
  if constexpr (ea != Ea::kGeneral) {
    const uint64_t address = flat_address<ea>(cpu, op);
    if ((address & (kAlignment - 1)) == 0) [[likely]]
      if (const T* p = cpu.mmu.hit_read<T>(address)) [[likely]] {
        T value;
        std::memcpy(&value, p, sizeof value);
        return value;
      }
  }
  return load_bytes<T>(cpu, op, kAlignment);
}
template <Ea ea, class T, bool aligned>
[[gnu::always_inline]] inline void store_vector(Cpu& cpu, const Op* op, const T& value) {
  constexpr unsigned kAlignment = aligned ? sizeof(T) : 1;
  if constexpr (ea != Ea::kGeneral) {
    const uint64_t address = flat_address<ea>(cpu, op);
    if ((address & (kAlignment - 1)) == 0) [[likely]]
      if (T* p = cpu.mmu.hit_write<T>(address)) [[likely]] {
        std::memcpy(static_cast<void*>(p), &value, sizeof value);
        return;
      }
  }
  store_bytes<T>(cpu, op, kAlignment, value);
}

// Writes the low part of a register; `zero_to` bytes are then zero above it.
template <bool avx, class T>
[[gnu::always_inline]] inline void set_low(uint8_t* destination, const T& value) {
  constexpr size_t kEnd = avx ? 32 : 16;
  std::memcpy(destination, &value, sizeof value);
  if constexpr (sizeof(T) < kEnd) std::memset(destination + sizeof value, 0, kEnd - sizeof value);
}

template <class T>
[[gnu::always_inline]] inline T get(const uint8_t* source) {
  T value;
  std::memcpy(&value, source, sizeof value);
  return value;
}

// ---- register ← memory, memory ← register, register ← register; upper part zeroed ----

template <bool avx, class T, bool aligned, Ea ea>
const Op* run_load(Cpu& cpu, const Op* op) {
  check<avx>(cpu);
  set_low<avx>(vec(cpu, op, 0), load_vector<ea, T, aligned>(cpu, op));
  return next(cpu, op);
}

template <bool avx, class T, bool aligned, Ea ea>
const Op* run_store(Cpu& cpu, const Op* op) {
  check<avx>(cpu);
  store_vector<ea, T, aligned>(cpu, op, get<T>(vec(cpu, op, 1)));
  return next(cpu, op);
}

template <bool avx, class T>
const Op* run_move(Cpu& cpu, const Op* op) {
  check<avx>(cpu);
  set_low<avx>(vec(cpu, op, 0), get<T>(vec(cpu, op, 1)));
  return next(cpu, op);
}

// ---- MOVD, MOVQ with general registers ----

template <bool avx, class T>
const Op* run_from_gpr(Cpu& cpu, const Op* op) {
  check<avx>(cpu);
  set_low<avx>(vec(cpu, op, 0), cpu.reg<T>(op->insn.operand[1].index));
  return next(cpu, op);
}
template <bool avx, class T>
const Op* run_to_gpr(Cpu& cpu, const Op* op) {
  check<avx>(cpu);
  cpu.set_reg<T>(op->insn.operand[0].index, get<T>(vec(cpu, op, 1)));
  return next(cpu, op);
}

// ---- MOVLPS, MOVHPS (SSE): one half of the register with memory ----

template <unsigned offset, Ea ea>
const Op* run_load_half(Cpu& cpu, const Op* op) {
  check_sse(cpu);
  const auto value = load_vector<ea, uint64_t, false>(cpu, op);
  std::memcpy(vec(cpu, op, 0) + offset, &value, sizeof value);
  return next(cpu, op);
}
template <unsigned offset, Ea ea>
const Op* run_store_half(Cpu& cpu, const Op* op) {
  check_sse(cpu);
  store_vector<ea, uint64_t, false>(cpu, op, get<uint64_t>(vec(cpu, op, 1) + offset));
  return next(cpu, op);
}

// ---- logic ----

enum class Logic : uint8_t { kAnd, kAndn, kOr, kXor };

template <Logic logic, class T>
[[gnu::always_inline]] inline T combine(const T& a, const T& b) {
  T result;
  for (size_t i = 0; i < sizeof(T) / 8; ++i) {
    if constexpr (logic == Logic::kAnd) result.word[i] = a.word[i] & b.word[i];
    if constexpr (logic == Logic::kAndn) result.word[i] = ~a.word[i] & b.word[i];
    if constexpr (logic == Logic::kOr) result.word[i] = a.word[i] | b.word[i];
    if constexpr (logic == Logic::kXor) result.word[i] = a.word[i] ^ b.word[i];
  }
  return result;
}

// Operands 0 op 1 (SSE), 1 op 2 (AVX); the last may be memory.
template <bool avx, class T, Logic logic>
const Op* run_logic(Cpu& cpu, const Op* op) {
  check<avx>(cpu);
  const T a = get<T>(vec(cpu, op, avx ? 1 : 0));
  set_low<avx>(vec(cpu, op, 0), combine<logic>(a, get<T>(vec(cpu, op, avx ? 2 : 1))));
  return next(cpu, op);
}
template <bool avx, class T, Logic logic, Ea ea>
const Op* run_logic_memory(Cpu& cpu, const Op* op) {
  check<avx>(cpu);
  const T b = load_vector<ea, T, !avx>(cpu, op);
  const T a = get<T>(vec(cpu, op, avx ? 1 : 0));
  set_low<avx>(vec(cpu, op, 0), combine<logic>(a, b));
  return next(cpu, op);
}

// ---- choice ----

template <bool avx, class T, bool aligned>
Handler load_handler(Ea ea) {
  return by_ea(ea, []<Ea e>() -> Handler { return run_load<avx, T, aligned, e>; });
}
template <bool avx, class T, bool aligned>
Handler store_handler(Ea ea) {
  return by_ea(ea, []<Ea e>() -> Handler { return run_store<avx, T, aligned, e>; });
}

template <bool avx, class T>
Handler whole_move(const Instruction& insn, bool aligned, Ea ea) {
  if (!insn.has_memory()) return run_move<avx, T>;
  if (insn.operand[0].kind == OperandKind::kMem)
    return aligned ? store_handler<avx, T, true>(ea) : store_handler<avx, T, false>(ea);
  return aligned ? load_handler<avx, T, true>(ea) : load_handler<avx, T, false>(ea);
}

template <bool avx, class T>
Handler logic_handler(const Instruction& insn, Logic logic, Ea ea) {
  const bool memory = insn.has_memory();
  auto make = [&]<Logic which>() -> Handler {
    if (!memory) return run_logic<avx, T, which>;
    return by_ea(ea, []<Ea e>() -> Handler { return run_logic_memory<avx, T, which, e>; });
  };
  switch (logic) {
    case Logic::kAnd:
      return make.template operator()<Logic::kAnd>();
    case Logic::kAndn:
      return make.template operator()<Logic::kAndn>();
    case Logic::kOr:
      return make.template operator()<Logic::kOr>();
    default:
      return make.template operator()<Logic::kXor>();
  }
}

bool logic_of(const Instruction& insn, Logic& logic) {
  const bool float_form = insn.prefix == 0 || insn.prefix == 0x66;
  switch (insn.opcode_byte) {
    case 0x54:
      logic = Logic::kAnd;
      return float_form;
    case 0x55:
      logic = Logic::kAndn;
      return float_form;
    case 0x56:
      logic = Logic::kOr;
      return float_form;
    case 0x57:
      logic = Logic::kXor;
      return float_form;
    case 0xdb:
      logic = Logic::kAnd;
      return insn.prefix == 0x66;
    case 0xdf:
      logic = Logic::kAndn;
      return insn.prefix == 0x66;
    case 0xeb:
      logic = Logic::kOr;
      return insn.prefix == 0x66;
    case 0xef:
      logic = Logic::kXor;
      return insn.prefix == 0x66;
    default:
      return false;
  }
}

// Moves of a whole register: MOVUPS, MOVUPD, MOVAPS, MOVAPD, MOVDQA, MOVDQU, LDDQU, MOVNTPS, MOVNTPD,
// MOVNTDQ.
bool whole_move_of(const Instruction& insn, bool& aligned) {
  switch (insn.opcode_byte) {
    case 0x10:
    case 0x11:
      aligned = false;
      return insn.prefix == 0 || insn.prefix == 0x66;
    case 0x28:
    case 0x29:
    case 0x2b:
      aligned = true;
      return insn.prefix == 0 || insn.prefix == 0x66;
    case 0x6f:
    case 0x7f:
      aligned = insn.prefix == 0x66;
      return insn.prefix == 0x66 || insn.prefix == 0xf3;
    case 0xf0:
      aligned = false;
      return insn.prefix == 0xf2;
    case 0xe7:
      aligned = true;
      return insn.prefix == 0x66;
    default:
      return false;
  }
}

template <bool avx>
Handler scalar_move(const Instruction& insn, Ea ea) {
  const bool memory = insn.has_memory();
  const bool wide = insn.operand[insn.operand[0].kind == OperandKind::kVector ? 1 : 0].size == 8;
  switch (insn.opcode_byte) {
    case 0x10:  // MOVSS, MOVSD
      if (!memory) return nullptr;
      return insn.prefix == 0xf3 ? load_handler<avx, uint32_t, false>(ea)
                                 : load_handler<avx, uint64_t, false>(ea);
    case 0x11:
      if (!memory) return nullptr;
      return insn.prefix == 0xf3 ? store_handler<avx, uint32_t, false>(ea)
                                 : store_handler<avx, uint64_t, false>(ea);
    case 0x6e:  // MOVD, MOVQ from a general register or memory
      if (insn.prefix != 0x66) return nullptr;
      if (memory)
        return wide ? load_handler<avx, uint64_t, false>(ea) : load_handler<avx, uint32_t, false>(ea);
      return wide ? run_from_gpr<avx, uint64_t> : run_from_gpr<avx, uint32_t>;
    case 0x7e:
      if (insn.prefix == 0xf3)
        return memory ? load_handler<avx, uint64_t, false>(ea) : run_move<avx, uint64_t>;
      if (insn.prefix != 0x66) return nullptr;
      if (memory)
        return wide ? store_handler<avx, uint64_t, false>(ea) : store_handler<avx, uint32_t, false>(ea);
      return wide ? run_to_gpr<avx, uint64_t> : run_to_gpr<avx, uint32_t>;
    case 0xd6:
      if (insn.prefix != 0x66) return nullptr;
      return memory ? store_handler<avx, uint64_t, false>(ea) : run_move<avx, uint64_t>;
    default:
      return nullptr;
  }
}

Handler half_move(const Instruction& insn, Ea ea) {
  if (!insn.has_memory() || (insn.prefix != 0 && insn.prefix != 0x66)) return nullptr;
  switch (insn.opcode_byte) {
    case 0x12:
      return by_ea(ea, []<Ea e>() -> Handler { return run_load_half<0, e>; });
    case 0x13:
      return by_ea(ea, []<Ea e>() -> Handler { return run_store_half<0, e>; });
    case 0x16:
      return by_ea(ea, []<Ea e>() -> Handler { return run_load_half<8, e>; });
    case 0x17:
      return by_ea(ea, []<Ea e>() -> Handler { return run_store_half<8, e>; });
    default:
      return nullptr;
  }
}

}  // namespace

Handler bind_vector_move(const Instruction& insn, const VectorInfo& info, const BindContext& context) {
  if (insn.map != 1 || info.mmx || info.vector_class == x86::VectorClass::kMmx) return nullptr;
  const Ea ea = addressing(insn, context);
  const bool avx = insn.encoding == Encoding::kVex;
  bool aligned = false;
  if (whole_move_of(insn, aligned)) {
    if (!avx) return whole_move<false, Half>(insn, aligned, ea);
    return insn.vex_l ? whole_move<true, Full>(insn, aligned, ea) : whole_move<true, Half>(insn, aligned, ea);
  }
  Logic logic;
  if (logic_of(insn, logic)) {
    if (!avx) return logic_handler<false, Half>(insn, logic, ea);
    return insn.vex_l ? logic_handler<true, Full>(insn, logic, ea)
                      : logic_handler<true, Half>(insn, logic, ea);
  }
  if (const Handler handler = avx ? scalar_move<true>(insn, ea) : scalar_move<false>(insn, ea))
    return handler;
  return avx ? nullptr : half_move(insn, ea);
}

}  // namespace ostler::interp
