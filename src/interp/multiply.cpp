// MUL IMUL DIV IDIV MULX (SDM Vol. 2), by the host's instructions.
#include <type_traits>

#include "interp/families.h"
#include "interp/operand.h"

namespace ostler::interp {
namespace {

using x86::Opcode;
using x86::Vector;
__extension__ using Wide = unsigned __int128;
__extension__ using SignedWide = __int128;

template <class T>
using Signed = std::make_signed_t<T>;

constexpr uint8_t kAccumulator = x86::kRax * 8;
constexpr uint8_t kHigh = x86::kRdx * 8;

// The source of a one-operand form.
template <class T>
T operand_value(Cpu& cpu, const Op* op, unsigned operand) {
  const auto& from = op->insn.operand[operand];
  return is_gpr(from) ? cpu.reg<T>(from.index) : load_general<T>(cpu, op);
}

// One instruction on [E|R]AX and [E|R]DX (AX alone for bytes) with the flags loaded before and captured
// after.
// clang-format off
#define OSTLER_WIDE(mnemonic, suffix, mod)                                                       \
  asm volatile("movzwl %w[f], %%r8d\n\txchg %%rax, %%r8\n\t" OSTLER_LOAD_FLAGS "movq %%r8, %%rax\n\t" \
      mnemonic suffix " %" mod "[b]\n\tmovq %%rax, %%r8" OSTLER_SAVE_FLAGS "\n\tmovw %%ax, %w[f]\n\tmovq %%r8, %%rax" \
      : "+&a"(low), "+&d"(high), [f] "+&r"(flags) : [b] "r"(b) : "cc", "r8");
// clang-format on

enum class Wides : uint8_t { kMul, kImul, kDiv, kIdiv };

template <Wides kind, class T>
void wide(uint64_t& low_out, uint64_t& high_out, T b, uint16_t& flags_out) {
  uint64_t low = low_out;
  uint64_t high = high_out;
  uint16_t flags = flags_out;
#define OSTLER_ONE(suffix, mod)                \
  if constexpr (kind == Wides::kMul) {         \
    OSTLER_WIDE("mul", suffix, mod)            \
  } else if constexpr (kind == Wides::kImul) { \
    OSTLER_WIDE("imul", suffix, mod)           \
  } else if constexpr (kind == Wides::kDiv) {  \
    OSTLER_WIDE("div", suffix, mod)            \
  } else {                                     \
    OSTLER_WIDE("idiv", suffix, mod)           \
  }
  if constexpr (sizeof(T) == 1) {
    OSTLER_ONE("b", "b")
  } else if constexpr (sizeof(T) == 2) {
    OSTLER_ONE("w", "w")
  } else if constexpr (sizeof(T) == 4) {
    OSTLER_ONE("l", "k")
  } else {
    OSTLER_ONE("q", "q")
  }
#undef OSTLER_ONE
  low_out = low;
  high_out = high;
  flags_out = flags;
}

template <Wides kind, class T>
void store_wide(Cpu& cpu, T b) {
  uint64_t low = cpu.s.gpr[x86::kRax];
  uint64_t high = cpu.s.gpr[x86::kRdx];
  wide<kind, T>(low, high, b, cpu.s.flags_ax);
  cpu.s.gpr[x86::kRax] = low;
  cpu.s.gpr[x86::kRdx] = high;
}

template <Wides kind, class T>
const Op* multiply(Cpu& cpu, const Op* op) {
  store_wide<kind, T>(cpu, operand_value<T>(cpu, op, 0));
  return next(cpu, op);
}

// Whether the quotient of the double-width dividend fits; the host would raise #DE in our own process
// otherwise.
template <class T>
bool unsigned_quotient_fits(const Cpu& cpu, T divisor) {
  if constexpr (sizeof(T) == 1)
    return cpu.reg<uint8_t>(1) < divisor;
  else
    return cpu.reg<T>(kHigh) < divisor;
}
template <class T>
bool signed_quotient_fits(const Cpu& cpu, T divisor) {
  if (divisor == 0) return false;
  const auto by = static_cast<Signed<T>>(divisor);
  if constexpr (sizeof(T) == 8) {
    const auto low = static_cast<int64_t>(cpu.reg<uint64_t>(kAccumulator));
    const auto high = static_cast<int64_t>(cpu.reg<uint64_t>(kHigh));
    if (high == low >> 63) return low != INT64_MIN || by != -1;
    const auto dividend = static_cast<SignedWide>((static_cast<Wide>(static_cast<uint64_t>(high)) << 64) |
                                                  static_cast<uint64_t>(low));
    // |dividend| >= 2^63 here, and -2^127 / -1 has no 128-bit quotient either.
    if (by == -1 || by == 1) return by == -1 && dividend == static_cast<SignedWide>(1) << 63;
    const SignedWide quotient = dividend / by;
    return quotient >= INT64_MIN && quotient <= INT64_MAX;
  } else {
    int64_t dividend;
    if constexpr (sizeof(T) == 1)
      dividend = static_cast<int16_t>(cpu.reg<uint16_t>(kAccumulator));
    else
      dividend = static_cast<int64_t>((static_cast<uint64_t>(cpu.reg<T>(kHigh)) << (sizeof(T) * 8)) |
                                      cpu.reg<T>(kAccumulator));
    if constexpr (sizeof(T) == 2) dividend = static_cast<int32_t>(dividend);
    if (dividend == INT64_MIN && by == -1) return false;
    const int64_t quotient = dividend / by;
    return quotient == static_cast<Signed<T>>(quotient);
  }
}

template <class T, bool is_signed>
const Op* divide(Cpu& cpu, const Op* op) {
  const T divisor = operand_value<T>(cpu, op, 0);
  if (!(is_signed ? signed_quotient_fits<T>(cpu, divisor) : unsigned_quotient_fits<T>(cpu, divisor)))
      [[unlikely]]
    x86::raise(Vector::kDe);
  store_wide<is_signed ? Wides::kIdiv : Wides::kDiv, T>(cpu, divisor);
  return next(cpu, op);
}

template <class T>
T truncated_product(T a, T b, uint16_t& flags) {
  uint16_t out = flags;
#define OSTLER_IMUL(suffix, mod)                                                    \
  asm(OSTLER_LOAD_FLAGS "imul" suffix " %" mod "[b], %" mod "[a]" OSTLER_SAVE_FLAGS \
      : [a] "+&r"(a), "+&a"(out)                                                    \
      : [b] "r"(b)                                                                  \
      : "cc");
  if constexpr (sizeof(T) == 2) {
    OSTLER_IMUL("w", "w")
  } else if constexpr (sizeof(T) == 4) {
    OSTLER_IMUL("l", "k")
  } else {
    OSTLER_IMUL("q", "q")
  }
#undef OSTLER_IMUL
  flags = out;
  return a;
}

template <class T>
const Op* imul2(Cpu& cpu, const Op* op) {
  const uint8_t to = op->insn.operand[0].index;
  const T value = operand_value<T>(cpu, op, 1);
  cpu.set_reg<T>(to, truncated_product<T>(cpu.reg<T>(to), value, cpu.s.flags_ax));
  return next(cpu, op);
}
template <class T>
const Op* imul3(Cpu& cpu, const Op* op) {
  const T value = operand_value<T>(cpu, op, 1);
  cpu.set_reg<T>(op->insn.operand[0].index,
                 truncated_product<T>(value, static_cast<T>(op->insn.imm), cpu.s.flags_ax));
  return next(cpu, op);
}

// MULX high, low, source; when both destinations are one register it gets the high half.
template <class T>
const Op* mulx(Cpu& cpu, const Op* op) {
  const Wide product = static_cast<Wide>(cpu.reg<T>(kHigh)) * operand_value<T>(cpu, op, 2);
  cpu.set_reg<T>(op->insn.operand[1].index, static_cast<T>(product));
  cpu.set_reg<T>(op->insn.operand[0].index, static_cast<T>(product >> (sizeof(T) * 8)));
  return next(cpu, op);
}

}  // namespace

Handler bind_multiply_family(const x86::Instruction& insn, const BindContext&) {
  const unsigned size = insn.operand[0].size;
  switch (insn.opcode) {
    case Opcode::kMul:
      return by_size(size, []<class T>() -> Handler { return multiply<Wides::kMul, T>; });
    case Opcode::kImul:
      return by_size(size, []<class T>() -> Handler { return multiply<Wides::kImul, T>; });
    case Opcode::kDiv:
      return by_size(size, []<class T>() -> Handler { return divide<T, false>; });
    case Opcode::kIdiv:
      return by_size(size, []<class T>() -> Handler { return divide<T, true>; });
    case Opcode::kImul2:
      return by_word_size(size, []<class T>() -> Handler { return imul2<T>; });
    case Opcode::kImul3:
      return by_word_size(size, []<class T>() -> Handler { return imul3<T>; });
    case Opcode::kMulx:
      return by_word_size(size, []<class T>() -> Handler { return mulx<T>; });
    default:
      return nullptr;
  }
}

}  // namespace ostler::interp
