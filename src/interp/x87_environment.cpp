// Memory formats of the x87 environment. See x87_environment.h.

#include "interp/x87_environment.h"

#include <cstring>

#include "interp/vector.h"

namespace ostler::interp {

using x86::FxState;

namespace {

bool real_mode(const Cpu& cpu) {
  return !cpu.s.protected_mode() || cpu.s.v8086();
}

template <class T>
void put(uint8_t* image, unsigned index, uint64_t value) {
  const T narrow = static_cast<T>(value);
  std::memcpy(image + index * sizeof(T), &narrow, sizeof narrow);
}

template <class T>
uint32_t get(const uint8_t* image, unsigned index) {
  T value;
  std::memcpy(&value, image + index * sizeof(T), sizeof value);
  return value;
}

// Fields are dwords or words; the words that a dword format leaves over are stored as ones, those of the
// selectors as zero.
template <class T>
void store(const FxState& fx, bool real, uint8_t* image) {
  constexpr bool kWide = sizeof(T) == 4;
  constexpr uint32_t kUnused = kWide ? 0xffff0000 : 0;
  const auto fip = static_cast<uint32_t>(fx.fip), fdp = static_cast<uint32_t>(fx.fdp);
  const uint32_t fop = fx.fop & 0x7ff;
  put<T>(image, 0, kUnused | fx.fcw);
  put<T>(image, 1, kUnused | fx.fsw);
  put<T>(image, 2, kUnused | x87_full_tags(fx));
  if (real) {
    put<T>(image, 3, kUnused | (fip & 0xffff));
    put<T>(image, 4, (fip >> 16 << 12) | fop);
    put<T>(image, 5, kUnused | (fdp & 0xffff));
    put<T>(image, 6, fdp >> 16 << 12);
  } else {
    put<T>(image, 3, fip);
    put<T>(image, 4, kWide ? fop << 16 : 0);
    put<T>(image, 5, fdp);
    put<T>(image, 6, kUnused);
  }
}

template <class T>
void load(FxState& fx, bool real, const uint8_t* image) {
  constexpr bool kWide = sizeof(T) == 4;
  fx.fcw = x87_control_word(static_cast<uint16_t>(get<T>(image, 0)));
  const auto fsw = static_cast<uint16_t>(get<T>(image, 1));
  set_fpu_top(fx, (fsw & fpu::kTop) >> fpu::kTopShift);
  fx.fsw = fsw;
  update_fpu_summary(fx);
  const uint32_t tags = get<T>(image, 2);
  fx.ftw = 0;
  for (unsigned i = 0; i < 8; ++i)
    if (((tags >> (2 * i)) & 3) != 3) fx.ftw |= static_cast<uint8_t>(1u << i);
  if (real) {
    fx.fip = (get<T>(image, 3) & 0xffff) | (get<T>(image, 4) & 0x0ffff000) << 4;
    fx.fop = get<T>(image, 4) & 0x7ff;
    fx.fdp = (get<T>(image, 5) & 0xffff) | (get<T>(image, 6) & 0x0ffff000) << 4;
  } else {
    fx.fip = get<T>(image, 3);
    if (kWide) fx.fop = (get<T>(image, 4) >> 16) & 0x7ff;
    fx.fdp = get<T>(image, 5);
  }
}

}  // namespace

X87Format x87_format(const Cpu& cpu, const x86::Instruction& insn) {
  return {insn.operand_size != 2, real_mode(cpu)};
}

void x87_store_environment(const FxState& fx, X87Format format, uint8_t* image) {
  if (format.wide)
    store<uint32_t>(fx, format.real_mode, image);
  else
    store<uint16_t>(fx, format.real_mode, image);
}

void x87_load_environment(FxState& fx, X87Format format, const uint8_t* image) {
  if (format.wide)
    load<uint32_t>(fx, format.real_mode, image);
  else
    load<uint16_t>(fx, format.real_mode, image);
}

void x87_initialize(FxState& fx) {
  set_fpu_top(fx, 0);
  fx.fcw = 0x37f;
  fx.fsw = 0;
  fx.ftw = 0;
  fx.fop = 0;
  fx.fip = 0;
  fx.fdp = 0;
}

uint16_t x87_full_tags(const FxState& fx) {
  enum : unsigned { kValid, kZero, kSpecial, kEmpty };
  const unsigned top = fpu_top(fx);
  unsigned tags = 0;
  for (unsigned physical = 0; physical < 8; ++physical) {
    unsigned tag = kEmpty;
    if ((fx.ftw & (1u << physical)) != 0) {
      const uint8_t* st = fx.st[(physical - top) & 7];
      uint64_t significand;
      uint16_t exponent;
      std::memcpy(&significand, st, 8);
      std::memcpy(&exponent, st + 8, 2);
      exponent &= 0x7fff;
      if (exponent == 0 && significand == 0)
        tag = kZero;
      else if (exponent == 0 || exponent == 0x7fff || significand >> 63 == 0)
        tag = kSpecial;
      else
        tag = kValid;
    }
    tags |= tag << (2 * physical);
  }
  return static_cast<uint16_t>(tags);
}

uint64_t x87_instruction_pointer(const Cpu& cpu, uint64_t rip) {
  return real_mode(cpu) ? static_cast<uint32_t>(cpu.s.seg[x86::kCs].base + rip) : rip;
}

uint64_t x87_data_pointer(const Cpu& cpu, x86::SegIndex segment, uint64_t offset) {
  return real_mode(cpu) ? static_cast<uint32_t>(cpu.s.seg[segment].base + offset) : offset;
}

}  // namespace ostler::interp
