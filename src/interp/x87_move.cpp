// x87 moves without the cost of switching the host's x87 unit to the guest's state: loads, FSTP m80, FXCH.
// Whatever would raise an exception (stack faults, denormals, signaling NaNs, one already pending) is left to
// the host.

#include <cstring>
#include <type_traits>

#include "interp/operand.h"
#include "interp/vector.h"
#include "interp/x87.h"

namespace ostler::interp {

using mmu::Access;
using x86::FxState;
using x86::Instruction;

namespace {

constexpr uint16_t kC1 = 1u << 9;

// An 80-bit value as the registers hold it.
struct Extended {
  uint64_t significand;
  uint16_t sign_exponent;
};

bool tag_valid(const FxState& fx, unsigned i) {
  return (fx.ftw & (1u << ((fpu_top(fx) + i) & 7))) != 0;
}

void set_top_field(FxState& fx, unsigned top) {
  fx.fsw = static_cast<uint16_t>((fx.fsw & ~(fpu::kTop | kC1)) | (top & 7) << fpu::kTopShift);
}

// The register above the top must be empty.
void push(FxState& fx, const Extended& value) {
  std::memmove(fx.st[1], fx.st[0], sizeof fx.st - sizeof fx.st[0]);
  std::memset(fx.st[0], 0, sizeof fx.st[0]);
  std::memcpy(fx.st[0], &value.significand, 8);
  std::memcpy(fx.st[0] + 8, &value.sign_exponent, 2);
  set_top_field(fx, fpu_top(fx) - 1);
  fx.ftw |= static_cast<uint8_t>(1u << fpu_top(fx));
}

void pop(FxState& fx) {
  fx.ftw &= static_cast<uint8_t>(~(1u << fpu_top(fx)));
  uint8_t old[16];
  std::memcpy(old, fx.st[0], sizeof old);
  std::memmove(fx.st[0], fx.st[1], sizeof fx.st - sizeof fx.st[0]);
  std::memcpy(fx.st[7], old, sizeof old);
  set_top_field(fx, fpu_top(fx) + 1);
}

bool nothing_pending(const FxState& fx) {
  return (fx.fsw & ~fx.fcw & fpu::kExceptions) == 0;
}

// From the wider integer types: sign and magnitude, normalized.
Extended from_integer(int64_t value) {
  if (value == 0) return {0, 0};
  const bool negative = value < 0;
  const uint64_t magnitude = negative ? ~static_cast<uint64_t>(value) + 1 : static_cast<uint64_t>(value);
  const int shift = __builtin_clzll(magnitude);
  return {magnitude << shift, static_cast<uint16_t>((negative ? 0x8000 : 0) | (0x3fff + 63 - shift))};
}

// From IEEE formats. False for what raises #D or #IA: denormals, signaling NaNs (and quiet ones, for
// simplicity).
template <class T, unsigned fraction_bits, unsigned exponent_bits>
bool from_float(T bits, Extended& out) {
  constexpr unsigned kMax = (1u << exponent_bits) - 1, kBias = kMax >> 1;
  const auto exponent = static_cast<unsigned>(bits >> fraction_bits) & kMax;
  const uint64_t fraction = static_cast<uint64_t>(bits) << (64 - fraction_bits) >> 1;
  const unsigned sign = (bits >> (fraction_bits + exponent_bits)) != 0 ? 0x8000 : 0;
  constexpr uint64_t kInteger = uint64_t{1} << 63;
  if (exponent == 0) {
    out = {0, static_cast<uint16_t>(sign)};
    return fraction == 0;
  }
  if (exponent == kMax) {
    out = {kInteger, static_cast<uint16_t>(sign | 0x7fff)};
    return fraction == 0;
  }
  out = {kInteger | fraction, static_cast<uint16_t>(sign | (exponent - kBias + 0x3fff))};
  return true;
}

struct M80 {};  // the 10-byte format

template <class T>
bool read_value(Cpu& cpu, const Op* op, Extended& out) {
  if constexpr (std::is_same_v<T, M80>) {
    uint8_t bytes[10];
    cpu.mmu.read_bytes(x87_linear(cpu, op, sizeof bytes, Access::kRead), bytes);
    std::memcpy(&out.significand, bytes, 8);
    std::memcpy(&out.sign_exponent, bytes + 8, 2);
    return true;
  } else if constexpr (std::is_same_v<T, float>) {
    return from_float<uint32_t, 23, 8>(cpu.mmu.read<uint32_t>(cpu.linear(*op, 4, Access::kRead)), out);
  } else if constexpr (std::is_same_v<T, double>) {
    return from_float<uint64_t, 52, 11>(cpu.mmu.read<uint64_t>(cpu.linear(*op, 8, Access::kRead)), out);
  } else {
    out = from_integer(cpu.mmu.read<T>(cpu.linear(*op, sizeof(T), Access::kRead)));
    return true;
  }
}

template <class T>
void execute_load(Cpu& cpu, const Op* op) {
  check_mmx_or_x87(cpu, x86::VectorClass::kX87);
  FxState& fx = cpu.s.fx;
  Extended value;
  if (!nothing_pending(fx) || tag_valid(fx, 7) || !read_value<T>(cpu, op, value))
    return x87_execute_on_host(cpu, op);
  push(fx, value);
  x87_set_pointers(cpu, op, true);
}

void execute_load_register(Cpu& cpu, const Op* op) {
  check_mmx_or_x87(cpu, x86::VectorClass::kX87);
  FxState& fx = cpu.s.fx;
  const unsigned i = op->insn.modrm & 7;
  if (!nothing_pending(fx) || tag_valid(fx, 7) || !tag_valid(fx, i)) return x87_execute_on_host(cpu, op);
  Extended value;
  std::memcpy(&value.significand, fx.st[i], 8);
  std::memcpy(&value.sign_exponent, fx.st[i] + 8, 2);
  push(fx, value);
  x87_set_pointers(cpu, op, false);
}

void execute_store_extended(Cpu& cpu, const Op* op) {
  check_mmx_or_x87(cpu, x86::VectorClass::kX87);
  FxState& fx = cpu.s.fx;
  if (!nothing_pending(fx) || !tag_valid(fx, 0)) return x87_execute_on_host(cpu, op);
  cpu.mmu.write_bytes(x87_linear(cpu, op, 10, Access::kWrite), {fx.st[0], 10});
  pop(fx);
  x87_set_pointers(cpu, op, true);
}

void execute_exchange(Cpu& cpu, const Op* op) {
  check_mmx_or_x87(cpu, x86::VectorClass::kX87);
  FxState& fx = cpu.s.fx;
  const unsigned i = op->insn.modrm & 7;
  if (!nothing_pending(fx) || !tag_valid(fx, 0) || !tag_valid(fx, i)) return x87_execute_on_host(cpu, op);
  uint8_t old[16];
  std::memcpy(old, fx.st[0], sizeof old);
  std::memmove(fx.st[0], fx.st[i], sizeof old);
  std::memcpy(fx.st[i], old, sizeof old);
  fx.fsw &= static_cast<uint16_t>(~kC1);
  x87_set_pointers(cpu, op, false);
}

template <void (*execute)(Cpu&, const Op*)>
const Op* run(Cpu& cpu, const Op* op) {
  execute(cpu, op);
  return next(cpu, op);
}

}  // namespace

Handler bind_x87_move(const Instruction& insn) {
  const bool memory = insn.modrm < 0xc0;
  switch (insn.opcode_byte << 4 | ((insn.modrm >> 3) & 7)) {
    case 0xd90:
      return memory ? run<execute_load<float>> : run<execute_load_register>;
    case 0xd91:
      return memory ? nullptr : run<execute_exchange>;
    case 0xdd0:
      return memory ? run<execute_load<double>> : nullptr;
    case 0xdf0:
      return memory ? run<execute_load<int16_t>> : nullptr;
    case 0xdb0:
      return memory ? run<execute_load<int32_t>> : nullptr;
    case 0xdf5:
      return memory ? run<execute_load<int64_t>> : nullptr;
    case 0xdb5:
      return memory ? run<execute_load<M80>> : nullptr;
    case 0xdb7:
      return memory ? run<execute_store_extended> : nullptr;
    default:
      return nullptr;
  }
}

}  // namespace ostler::interp
