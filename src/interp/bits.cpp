// Bit instructions: BT BTS BTR BTC, BSF BSR TZCNT LZCNT POPCNT, BMI1, BMI2, ADCX ADOX, CRC32 (SDM Vol. 2).
// Executed by the host with the guest's flags loaded before and captured after; what the host lacks the CPU
// model does not offer.
#include <type_traits>

#include "base/bytes.h"
#include "interp/families.h"
#include "interp/operand.h"

namespace ostler::interp {
namespace {

using mmu::Access;
using x86::Opcode;

enum class Bit : uint8_t { kBt, kBts, kBtr, kBtc };

#define OSTLER_WORD_SIZES(T, MACRO)      \
  if constexpr (sizeof(T) == 2) {        \
    MACRO("w", "w")                      \
  } else if constexpr (sizeof(T) == 4) { \
    MACRO("l", "k")                      \
  } else {                               \
    MACRO("q", "q")                      \
  }

// ---- BT and friends: `index` is taken modulo the operand's width ----
template <Bit kind, class T>
T bit_op(T value, T index, uint16_t& flags) {
  uint16_t out = flags;
#define OSTLER_BIT(mnemonic, suffix, mod)                                             \
  asm(OSTLER_LOAD_FLAGS mnemonic suffix " %" mod "[i], %" mod "[a]" OSTLER_SAVE_FLAGS \
      : [a] "+&r"(value), "+&a"(out)                                                  \
      : [i] "r"(index)                                                                \
      : "cc");
#define OSTLER_ONE(suffix, mod)             \
  if constexpr (kind == Bit::kBt) {         \
    OSTLER_BIT("bt", suffix, mod)           \
  } else if constexpr (kind == Bit::kBts) { \
    OSTLER_BIT("bts", suffix, mod)          \
  } else if constexpr (kind == Bit::kBtr) { \
    OSTLER_BIT("btr", suffix, mod)          \
  } else {                                  \
    OSTLER_BIT("btc", suffix, mod)          \
  }
  OSTLER_WORD_SIZES(T, OSTLER_ONE)
#undef OSTLER_ONE
#undef OSTLER_BIT
  flags = out;
  return value;
}
template <Bit kind, class T>
void locked_bit_op(T* p, T index, uint16_t& flags) {
  uint16_t out = flags;
  index &= sizeof(T) * 8 - 1;  // with a memory operand the host would address beyond it
#define OSTLER_BIT(mnemonic, suffix, mod)                                                       \
  asm volatile(OSTLER_LOAD_FLAGS "lock " mnemonic suffix " %" mod "[i], %[m]" OSTLER_SAVE_FLAGS \
               : [m] "+m"(*p), "+&a"(out)                                                       \
               : [i] "r"(index)                                                                 \
               : "cc", "memory");
#define OSTLER_ONE(suffix, mod)             \
  if constexpr (kind == Bit::kBts) {        \
    OSTLER_BIT("bts", suffix, mod)          \
  } else if constexpr (kind == Bit::kBtr) { \
    OSTLER_BIT("btr", suffix, mod)          \
  } else {                                  \
    OSTLER_BIT("btc", suffix, mod)          \
  }
  OSTLER_WORD_SIZES(T, OSTLER_ONE)
#undef OSTLER_ONE
#undef OSTLER_BIT
  flags = out;
}

template <class T>
T bit_index(const Cpu& cpu, const Op* op) {
  const auto& from = op->insn.operand[1];
  return is_imm(from) ? static_cast<T>(op->insn.imm) : cpu.reg<T>(from.index);
}

template <Bit kind, class T>
const Op* bit_reg(Cpu& cpu, const Op* op) {
  const uint8_t to = op->insn.operand[0].index;
  const T result = bit_op<kind, T>(cpu.reg<T>(to), bit_index<T>(cpu, op), cpu.s.flags_ax);
  if constexpr (kind != Bit::kBt) cpu.set_reg<T>(to, result);
  return next(cpu, op);
}

// With a register index the operand is a bit string: the signed index chooses the T that holds the bit.
template <Bit kind, class T>
const Op* bit_mem(Cpu& cpu, const Op* op) {
  const T index = bit_index<T>(cpu, op);
  uint64_t offset = cpu.effective_offset(*op);
  if (!is_imm(op->insn.operand[1])) {
    const auto words =
        static_cast<int64_t>(static_cast<std::make_signed_t<T>>(index)) >> (sizeof(T) == 2   ? 4
                                                                            : sizeof(T) == 4 ? 5
                                                                                             : 6);
    offset = (offset + static_cast<uint64_t>(words) * sizeof(T)) & size_mask(op->insn.address_size);
  }
  uint16_t& flags = cpu.s.flags_ax;
  if constexpr (kind == Bit::kBt) {
    const uint64_t address = cpu.linear(op->insn.segment, offset, sizeof(T), Access::kRead);
    bit_op<kind, T>(cpu.mmu.read<T>(address), index, flags);
  } else {
    const uint64_t address = cpu.linear(op->insn.segment, offset, sizeof(T), Access::kWrite);
    const auto update = [&](T value) { return bit_op<kind, T>(value, index, flags); };
    if (op->insn.lock) {
      locked_at<T>(
          cpu, address, [&](T* p) { locked_bit_op<kind, T>(p, index, flags); }, update);
    } else if (T* p = cpu.mmu.hit_write<T>(address)) {
      *p = update(*p);
    } else {
      cpu.mmu.probe(address, sizeof(T), Access::kWrite);
      const T value = cpu.mmu.read<T>(address);
      cpu.mmu.write<T>(address, update(value));
    }
  }
  return next(cpu, op);
}

template <Bit kind>
Handler bind_bit(const x86::Instruction& insn) {
  return by_word_size(insn.operand[0].size, [&]<class T>() -> Handler {
    return is_gpr(insn.operand[0]) ? bit_reg<kind, T> : bit_mem<kind, T>;
  });
}

// ---- one source, one destination, all flags through the host ----
enum class Scan : uint8_t { kBsf, kBsr, kTzcnt, kLzcnt, kPopcnt, kBlsi, kBlsmsk, kBlsr };

template <Scan kind, class T>
T scan(T old, T value, uint16_t& flags) {
  uint16_t out = flags;
#define OSTLER_SCAN(mnemonic, suffix, mod)                                            \
  asm(OSTLER_LOAD_FLAGS mnemonic suffix " %" mod "[v], %" mod "[a]" OSTLER_SAVE_FLAGS \
      : [a] "+&r"(old), "+&a"(out)                                                    \
      : [v] "r"(value)                                                                \
      : "cc");
#define OSTLER_ONE(suffix, mod)                \
  if constexpr (kind == Scan::kBsf) {          \
    OSTLER_SCAN("bsf", suffix, mod)            \
  } else if constexpr (kind == Scan::kBsr) {   \
    OSTLER_SCAN("bsr", suffix, mod)            \
  } else if constexpr (kind == Scan::kTzcnt) { \
    OSTLER_SCAN("tzcnt", suffix, mod)          \
  } else if constexpr (kind == Scan::kLzcnt) { \
    OSTLER_SCAN("lzcnt", suffix, mod)          \
  } else {                                     \
    OSTLER_SCAN("popcnt", suffix, mod)         \
  }
#define OSTLER_BLS(suffix, mod)                 \
  if constexpr (kind == Scan::kBlsi) {          \
    OSTLER_SCAN("blsi", suffix, mod)            \
  } else if constexpr (kind == Scan::kBlsmsk) { \
    OSTLER_SCAN("blsmsk", suffix, mod)          \
  } else {                                      \
    OSTLER_SCAN("blsr", suffix, mod)            \
  }
  if constexpr (kind < Scan::kBlsi) {
    OSTLER_WORD_SIZES(T, OSTLER_ONE)
  } else if constexpr (sizeof(T) == 4) {
    OSTLER_BLS("l", "k")
  } else {
    OSTLER_BLS("q", "q")
  }
#undef OSTLER_BLS
#undef OSTLER_ONE
#undef OSTLER_SCAN
  flags = out;
  return old;
}

template <class T>
T source(Cpu& cpu, const Op* op, unsigned operand) {
  const auto& from = op->insn.operand[operand];
  return is_gpr(from) ? cpu.reg<T>(from.index) : load_general<T>(cpu, op);
}

// BSF and BSR of 0 leave the destination alone on all processors, all 64 bits of it.
template <Scan kind, class T>
const Op* scan_op(Cpu& cpu, const Op* op) {
  const T value = source<T>(cpu, op, 1);
  const uint8_t to = op->insn.operand[0].index;
  const T result = scan<kind, T>(cpu.reg<T>(to), value, cpu.s.flags_ax);
  if ((kind != Scan::kBsf && kind != Scan::kBsr) || value != 0) cpu.set_reg<T>(to, result);
  return next(cpu, op);
}
template <Scan kind>
Handler bind_scan(const x86::Instruction& insn) {
  return by_word_size(insn.operand[0].size, []<class T>() -> Handler { return scan_op<kind, T>; });
}
template <Scan kind>
Handler bind_bls(const x86::Instruction& insn) {
  if (insn.operand[0].size == 8) return scan_op<kind, uint64_t>;
  return scan_op<kind, uint32_t>;
}

// ---- three operands: destination, first source (register or memory), second source ----
enum class Three : uint8_t { kAndn, kBextr, kBzhi, kPdep, kPext, kSarx, kShlx, kShrx };

template <Three kind, class T>
T three(T a, T b, uint16_t& flags) {
  T result;
  uint16_t out = flags;
#define OSTLER_THREE(mnemonic, mod)                                                         \
  asm(OSTLER_LOAD_FLAGS mnemonic " %" mod "[b], %" mod "[a], %" mod "[r]" OSTLER_SAVE_FLAGS \
      : [r] "=&r"(result), "+&a"(out)                                                       \
      : [a] "r"(a), [b] "r"(b)                                                              \
      : "cc");
#define OSTLER_ONE(mod)                         \
  if constexpr (kind == Three::kAndn) {         \
    OSTLER_THREE("andn", mod)                   \
  } else if constexpr (kind == Three::kBextr) { \
    OSTLER_THREE("bextr", mod)                  \
  } else if constexpr (kind == Three::kBzhi) {  \
    OSTLER_THREE("bzhi", mod)                   \
  } else if constexpr (kind == Three::kPdep) {  \
    OSTLER_THREE("pdep", mod)                   \
  } else if constexpr (kind == Three::kPext) {  \
    OSTLER_THREE("pext", mod)                   \
  } else if constexpr (kind == Three::kSarx) {  \
    OSTLER_THREE("sarx", mod)                   \
  } else if constexpr (kind == Three::kShlx) {  \
    OSTLER_THREE("shlx", mod)                   \
  } else {                                      \
    OSTLER_THREE("shrx", mod)                   \
  }
  if constexpr (sizeof(T) == 4) {
    OSTLER_ONE("k")
  } else {
    OSTLER_ONE("q")
  }
#undef OSTLER_ONE
#undef OSTLER_THREE
  flags = out;
  return result;
}

template <Three kind, class T>
const Op* three_op(Cpu& cpu, const Op* op) {
  const T a = source<T>(cpu, op, 1);
  const T b = source<T>(cpu, op, 2);
  cpu.set_reg<T>(op->insn.operand[0].index, three<kind, T>(a, b, cpu.s.flags_ax));
  return next(cpu, op);
}
template <Three kind>
Handler bind_three(const x86::Instruction& insn) {
  if (insn.operand[0].size == 8) return three_op<kind, uint64_t>;
  return three_op<kind, uint32_t>;
}

template <class T>
const Op* rorx(Cpu& cpu, const Op* op) {
  const T value = source<T>(cpu, op, 1);
  const unsigned count = op->insn.imm & (sizeof(T) * 8 - 1);
  const T rotated =
      count == 0 ? value : static_cast<T>((value >> count) | (value << (sizeof(T) * 8 - count)));
  cpu.set_reg<T>(op->insn.operand[0].index, rotated);
  return next(cpu, op);
}

// ADCX uses CF alone, ADOX OF alone; the other flags stay.
template <class T, uint16_t flag>
const Op* add_carry(Cpu& cpu, const Op* op) {
  const uint8_t to = op->insn.operand[0].index;
  const T value = source<T>(cpu, op, 1);
  const T carry = (cpu.s.flags_ax & flag) != 0;
  T sum;
  bool over = __builtin_add_overflow(cpu.reg<T>(to), value, &sum);
  over |= __builtin_add_overflow(sum, carry, &sum);
  cpu.set_reg<T>(to, sum);
  cpu.s.flags_ax = static_cast<uint16_t>((cpu.s.flags_ax & ~flag) | (over ? flag : 0));
  return next(cpu, op);
}

template <class T>
const Op* crc32(Cpu& cpu, const Op* op) {
  const T value = source<T>(cpu, op, 1);
  const uint8_t to = op->insn.operand[0].index;
  uint64_t crc = cpu.reg<uint32_t>(to);
  if constexpr (sizeof(T) == 1)
    asm("crc32b %1, %k0" : "+r"(crc) : "r"(value));
  else if constexpr (sizeof(T) == 2)
    asm("crc32w %1, %k0" : "+r"(crc) : "r"(value));
  else if constexpr (sizeof(T) == 4)
    asm("crc32l %1, %k0" : "+r"(crc) : "r"(value));
  else
    asm("crc32q %1, %0" : "+r"(crc) : "r"(value));
  cpu.set_reg<uint32_t>(to, static_cast<uint32_t>(crc));
  return next(cpu, op);
}

}  // namespace

Handler bind_bit_family(const x86::Instruction& insn, const BindContext&) {
  const bool wide = insn.operand[0].size == 8;
  switch (insn.opcode) {
    case Opcode::kBt:
      return bind_bit<Bit::kBt>(insn);
    case Opcode::kBts:
      return bind_bit<Bit::kBts>(insn);
    case Opcode::kBtr:
      return bind_bit<Bit::kBtr>(insn);
    case Opcode::kBtc:
      return bind_bit<Bit::kBtc>(insn);
    case Opcode::kBsf:
      return bind_scan<Scan::kBsf>(insn);
    case Opcode::kBsr:
      return bind_scan<Scan::kBsr>(insn);
    case Opcode::kTzcnt:
      return bind_scan<Scan::kTzcnt>(insn);
    case Opcode::kLzcnt:
      return bind_scan<Scan::kLzcnt>(insn);
    case Opcode::kPopcnt:
      return bind_scan<Scan::kPopcnt>(insn);
    case Opcode::kBlsi:
      return bind_bls<Scan::kBlsi>(insn);
    case Opcode::kBlsmsk:
      return bind_bls<Scan::kBlsmsk>(insn);
    case Opcode::kBlsr:
      return bind_bls<Scan::kBlsr>(insn);
    case Opcode::kAndn:
      return bind_three<Three::kAndn>(insn);
    case Opcode::kBextr:
      return bind_three<Three::kBextr>(insn);
    case Opcode::kBzhi:
      return bind_three<Three::kBzhi>(insn);
    case Opcode::kPdep:
      return bind_three<Three::kPdep>(insn);
    case Opcode::kPext:
      return bind_three<Three::kPext>(insn);
    case Opcode::kSarx:
      return bind_three<Three::kSarx>(insn);
    case Opcode::kShlx:
      return bind_three<Three::kShlx>(insn);
    case Opcode::kShrx:
      return bind_three<Three::kShrx>(insn);
    case Opcode::kRorx:
      return wide ? rorx<uint64_t> : rorx<uint32_t>;
    case Opcode::kAdcx:
      return wide ? add_carry<uint64_t, flags_ax::kCf> : add_carry<uint32_t, flags_ax::kCf>;
    case Opcode::kAdox:
      return wide ? add_carry<uint64_t, flags_ax::kOf> : add_carry<uint32_t, flags_ax::kOf>;
    case Opcode::kCrc32:
      return by_size(insn.operand[1].size, []<class T>() -> Handler { return crc32<T>; });
    default:
      return nullptr;
  }
}

}  // namespace ostler::interp
