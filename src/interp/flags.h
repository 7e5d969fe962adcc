// Arithmetic flags computed by the host: every function runs the very instruction it stands for and captures
// the host's flags with LAHF and SETO into the form of CpuState::flags_ax, so that "undefined" flags are also
// what the host CPU gives. Flag inputs are loaded with BT (CF only) or ADD AL,0x7f / SAHF (all six).
#pragma once

#include <cstdint>
#include <type_traits>

namespace ostler::interp {

namespace flags_ax {
inline constexpr uint16_t kCf = 0x0100, kPf = 0x0400, kAf = 0x1000, kZf = 0x4000, kSf = 0x8000, kOf = 0x0001;
}

// Condition codes 0..15 as in Jcc (SDM Vol. 1 Appendix B), evaluated on flags_ax.
template <unsigned condition>
constexpr bool condition_holds(uint16_t flags) {
  bool result = false;
  constexpr unsigned kind = condition >> 1;
  if constexpr (kind == 0) result = flags & flags_ax::kOf;
  if constexpr (kind == 1) result = flags & flags_ax::kCf;
  if constexpr (kind == 2) result = flags & flags_ax::kZf;
  if constexpr (kind == 3) result = flags & (flags_ax::kCf | flags_ax::kZf);
  if constexpr (kind == 4) result = flags & flags_ax::kSf;
  if constexpr (kind == 5) result = flags & flags_ax::kPf;
  if constexpr (kind == 6) result = ((flags >> 15) ^ flags) & 1;
  if constexpr (kind == 7) result = (((flags >> 15) ^ flags) & 1) != 0 || (flags & flags_ax::kZf) != 0;
  return result != static_cast<bool>(condition & 1);
}

enum class Alu : uint8_t { kAdd, kOr, kAdc, kSbb, kAnd, kSub, kXor, kCmp, kTest };
enum class Unary : uint8_t { kInc, kDec, kNeg, kNot };
enum class Shift : uint8_t { kRol, kRor, kRcl, kRcr, kShl, kShr, kSar };

// clang-format off
#define OSTLER_LOAD_FLAGS "addb $0x7f, %%al\n\tsahf\n\t"
#define OSTLER_SAVE_FLAGS "\n\tlahf\n\tseto %%al"
// The AT&T size suffix and operand modifier of T, as the three strings mnemonic + suffix + modifier.
#define OSTLER_BY_SIZE(T, MACRO)                 \
  if constexpr (sizeof(T) == 1) { MACRO("b", "b") } \
  else if constexpr (sizeof(T) == 2) { MACRO("w", "w") } \
  else if constexpr (sizeof(T) == 4) { MACRO("l", "k") } \
  else { MACRO("q", "q") }

// a = a op b. `flags` is CpuState::flags_ax, read by ADC and SBB only.
template <Alu op, class T>
[[gnu::always_inline]] inline T alu(T a, T b, uint16_t& flags) {
  uint16_t out;
#define OSTLER_ALU(mnemonic, suffix, mod) \
  asm(mnemonic suffix " %" mod "[b], %" mod "[a]" OSTLER_SAVE_FLAGS : [a] "+r"(a), "=&a"(out) : [b] "r"(b) : "cc");
#define OSTLER_ALU_CARRY(mnemonic, suffix, mod) \
  asm("btl $8, %k[in]\n\t" mnemonic suffix " %" mod "[b], %" mod "[a]" OSTLER_SAVE_FLAGS \
      : [a] "+&r"(a), "=&a"(out) : [b] "r"(b), [in] "r"(static_cast<uint32_t>(flags)) : "cc");
#define OSTLER_ONE(suffix, mod)                                             \
  if constexpr (op == Alu::kAdd) { OSTLER_ALU("add", suffix, mod) }         \
  else if constexpr (op == Alu::kOr) { OSTLER_ALU("or", suffix, mod) }      \
  else if constexpr (op == Alu::kAdc) { OSTLER_ALU_CARRY("adc", suffix, mod) } \
  else if constexpr (op == Alu::kSbb) { OSTLER_ALU_CARRY("sbb", suffix, mod) } \
  else if constexpr (op == Alu::kAnd) { OSTLER_ALU("and", suffix, mod) }    \
  else if constexpr (op == Alu::kSub) { OSTLER_ALU("sub", suffix, mod) }    \
  else if constexpr (op == Alu::kXor) { OSTLER_ALU("xor", suffix, mod) }    \
  else if constexpr (op == Alu::kCmp) { OSTLER_ALU("cmp", suffix, mod) }    \
  else { OSTLER_ALU("test", suffix, mod) }
  OSTLER_BY_SIZE(T, OSTLER_ONE)
#undef OSTLER_ONE
#undef OSTLER_ALU
#undef OSTLER_ALU_CARRY
  flags = out;
  return a;
}

// *p = *p op b with a LOCK prefix, on host memory.
template <Alu op, class T>
[[gnu::always_inline]] inline void locked_alu(T* p, T b, uint16_t& flags) {
  uint16_t out;
#define OSTLER_ALU(mnemonic, suffix, mod) \
  asm volatile("lock " mnemonic suffix " %" mod "[b], %[m]" OSTLER_SAVE_FLAGS \
               : [m] "+m"(*p), "=&a"(out) : [b] "r"(b) : "cc", "memory");
#define OSTLER_ALU_CARRY(mnemonic, suffix, mod) \
  asm volatile("btl $8, %k[in]\n\tlock " mnemonic suffix " %" mod "[b], %[m]" OSTLER_SAVE_FLAGS \
      : [m] "+m"(*p), "=&a"(out) : [b] "r"(b), [in] "r"(static_cast<uint32_t>(flags)) : "cc", "memory");
#define OSTLER_ONE(suffix, mod)                                             \
  if constexpr (op == Alu::kAdd) { OSTLER_ALU("add", suffix, mod) }         \
  else if constexpr (op == Alu::kOr) { OSTLER_ALU("or", suffix, mod) }      \
  else if constexpr (op == Alu::kAdc) { OSTLER_ALU_CARRY("adc", suffix, mod) } \
  else if constexpr (op == Alu::kSbb) { OSTLER_ALU_CARRY("sbb", suffix, mod) } \
  else if constexpr (op == Alu::kAnd) { OSTLER_ALU("and", suffix, mod) }    \
  else if constexpr (op == Alu::kSub) { OSTLER_ALU("sub", suffix, mod) }    \
  else { OSTLER_ALU("xor", suffix, mod) }
  OSTLER_BY_SIZE(T, OSTLER_ONE)
#undef OSTLER_ONE
#undef OSTLER_ALU
#undef OSTLER_ALU_CARRY
  flags = out;
}

// INC and DEC keep CF.
template <Unary op, class T>
[[gnu::always_inline]] inline T unary(T a, uint16_t& flags) {
  if constexpr (op == Unary::kNot) {
    return static_cast<T>(~a);
  } else {
    uint16_t out;
#define OSTLER_UNARY(mnemonic, suffix, mod) \
  asm("btl $8, %k[in]\n\t" mnemonic suffix " %" mod "[a]" OSTLER_SAVE_FLAGS \
      : [a] "+&r"(a), "=&a"(out) : [in] "r"(static_cast<uint32_t>(flags)) : "cc");
#define OSTLER_ONE(suffix, mod)                                         \
  if constexpr (op == Unary::kInc) { OSTLER_UNARY("inc", suffix, mod) } \
  else if constexpr (op == Unary::kDec) { OSTLER_UNARY("dec", suffix, mod) } \
  else { OSTLER_UNARY("neg", suffix, mod) }
    OSTLER_BY_SIZE(T, OSTLER_ONE)
#undef OSTLER_ONE
#undef OSTLER_UNARY
    flags = out;
    return a;
  }
}

template <Unary op, class T>
[[gnu::always_inline]] inline void locked_unary(T* p, uint16_t& flags) {
  uint16_t out = flags;
#define OSTLER_UNARY(mnemonic, suffix) \
  asm volatile(OSTLER_LOAD_FLAGS "lock " mnemonic suffix " %[m]" OSTLER_SAVE_FLAGS \
               : [m] "+m"(*p), "+a"(out) : : "cc", "memory");
#define OSTLER_ONE(suffix, mod)                                    \
  if constexpr (op == Unary::kInc) { OSTLER_UNARY("inc", suffix) } \
  else if constexpr (op == Unary::kDec) { OSTLER_UNARY("dec", suffix) } \
  else if constexpr (op == Unary::kNeg) { OSTLER_UNARY("neg", suffix) } \
  else { OSTLER_UNARY("not", suffix) }
  OSTLER_BY_SIZE(T, OSTLER_ONE)
#undef OSTLER_ONE
#undef OSTLER_UNARY
  flags = out;
}

template <Shift op, class T>
[[gnu::always_inline]] inline T shift(T a, uint8_t count, uint16_t& flags) {
  uint16_t out = flags;
#define OSTLER_SHIFT(mnemonic, suffix, mod) \
  asm(OSTLER_LOAD_FLAGS mnemonic suffix " %%cl, %" mod "[a]" OSTLER_SAVE_FLAGS \
      : [a] "+&r"(a), "+&a"(out) : "c"(count) : "cc");
#define OSTLER_ONE(suffix, mod)                                         \
  if constexpr (op == Shift::kRol) { OSTLER_SHIFT("rol", suffix, mod) } \
  else if constexpr (op == Shift::kRor) { OSTLER_SHIFT("ror", suffix, mod) } \
  else if constexpr (op == Shift::kRcl) { OSTLER_SHIFT("rcl", suffix, mod) } \
  else if constexpr (op == Shift::kRcr) { OSTLER_SHIFT("rcr", suffix, mod) } \
  else if constexpr (op == Shift::kShl) { OSTLER_SHIFT("shl", suffix, mod) } \
  else if constexpr (op == Shift::kShr) { OSTLER_SHIFT("shr", suffix, mod) } \
  else { OSTLER_SHIFT("sar", suffix, mod) }
  OSTLER_BY_SIZE(T, OSTLER_ONE)
#undef OSTLER_ONE
#undef OSTLER_SHIFT
  flags = out;
  return a;
}
// clang-format on

}  // namespace ostler::interp
