// Writes the host instructions that translations are made of, straight into the code memory. asmjit writes
// the routines (routines.cpp); for translations it costs more than the time there is for a guest instruction,
// see docs/bt/design.md, "Emission".
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "bt/hot.h"
#include "bt/window.h"

namespace ostler::bt {

// Host registers by number. Guest registers live in the host's of the same number, but for those named here.
using Reg = uint8_t;
inline constexpr Reg kS0 = 14, kS1 = 15;  // scratch
inline constexpr Reg kSp = 13;            // guest RSP
inline constexpr Reg kRax = 0, kRcx = 1;
inline constexpr Reg kNoReg = 0xff;

// Memory operand base + index << scale + disp of host registers.
struct HostMem {
  Reg base = kNoReg;
  Reg index = kNoReg;
  uint8_t scale = 0;
  int32_t disp = 0;
};

inline constexpr uint8_t kCcB = 2, kCcE = 4, kCcNe = 5, kCcA = 7, kCcLe = 14;

class Assembler {
 public:
  Assembler() = default;
  // Writes at `p`, which is `offset` in the code memory.
  Assembler(uint8_t* p, uint32_t offset) : start_(p), p_(p), offset_(offset) {}

  uint32_t offset() const { return offset_ + static_cast<uint32_t>(p_ - start_); }
  uint8_t* at() const { return p_; }
  void move_to(uint8_t* at) { p_ = at; }

  void u8(unsigned value) { *p_++ = static_cast<uint8_t>(value); }
  void u32(uint32_t value) {
    std::memcpy(p_, &value, 4);
    p_ += 4;
  }
  void bytes(const void* data, size_t size) {
    std::memcpy(p_, data, size);
    p_ += size;
  }
  void u64(uint64_t value) {
    std::memcpy(p_, &value, 8);
    p_ += 8;
  }
  // Up to eight bytes at once, the first one lowest: bytes one by one go through memory, since a byte written
  // may be a part of `p_` for all that the compiler knows. Writes eight.
  void put(uint64_t packed, unsigned count) {
    std::memcpy(p_, &packed, 8);
    p_ += count;
  }
  // At most 16 bytes; reads and writes 16.
  void copy(const uint8_t* from, unsigned count) {
    std::memcpy(p_, from, 16);
    p_ += count;
  }
  // The four bytes after `lead` more, which another thread may change while code runs, shall lie in one cache
  // line.
  void align_field(unsigned lead) {
    const unsigned in_line = (offset() + lead) & 63;
    if (in_line > 60) nops(64 - in_line);
  }
  void nops(unsigned count);

  // ---- GS-relative ----
  void load(Reg r, size_t at) { gs(true, 0x8b, r, at); }
  void load32(Reg r, size_t at) { gs(false, 0x8b, r, at); }
  void store(size_t at, Reg r) { gs(true, 0x89, r, at); }
  void store16(size_t at, Reg r) {
    u8(0x65);
    u8(0x66);
    if (r >= 8) u8(0x44);
    u8(0x89);
    absolute(r, at);
  }
  void store32(size_t at, uint32_t value) {
    put(0x65 | 0xc7 << 8, 2);
    absolute(0, at);
    u32(value);
  }
  void compare32(size_t at, uint32_t value) {
    put(0x65 | 0x81 << 8 | 0x3c << 16 | uint64_t{0x25} << 24 | uint64_t{static_cast<uint32_t>(at)} << 32, 8);
    u32(value);
  }
  void and32_mem(size_t at, uint32_t value) { group1(4, at, value); }
  void or32_mem(size_t at, uint32_t value) { group1(1, at, value); }
  void test32_mem(size_t at, uint32_t value) {
    u8(0x65);
    u8(0xf7);
    absolute(0, at);
    u32(value);
  }
  void load_byte(Reg r, size_t at) {  // MOVZX r32, byte
    u8(0x65);
    if (r >= 8) u8(0x44);
    u8(0x0f);
    u8(0xb6);
    absolute(r, at);
  }
  void store_byte(size_t at, Reg r) {
    u8(0x65);
    u8(0x40 | (r >> 3) << 2);
    u8(0x88);
    absolute(r, at);
  }
  void or_(Reg r, size_t at) { gs(true, 0x0b, r, at); }
  void compare32_small(size_t at, int8_t value) {
    put(0x65 | 0x83 << 8 | 0x3c << 16 | uint64_t{0x25} << 24 | uint64_t{static_cast<uint32_t>(at)} << 32, 8);
    u8(static_cast<uint8_t>(value));
  }
  void push_mem(size_t at) {
    u8(0x65);
    u8(0xff);
    absolute(6, at);
  }
  void pop(Reg r) {
    if (r >= 8) u8(0x41);
    u8(0x58 | (r & 7));
  }
  void add(Reg r, size_t at, bool wide = true) { gs(wide, 0x03, r, at); }
  void sub(Reg r, size_t at) { gs(true, 0x2b, r, at); }
  // `index` * 8 + at
  void load_indexed(Reg r, Reg index, size_t at) { gs_indexed(0x8b, r, index, at); }
  void add_indexed(Reg r, Reg index, size_t at) { gs_indexed(0x03, r, index, at); }
  void sub_indexed(Reg r, Reg index, size_t at) { gs_indexed(0x2b, r, index, at); }

  // kS1: offset in the user's hash table of indirect branch targets.
  void compare_user_hash() {  // with kS0
    put(0x65 | 0x4d << 8 | 0x39 << 16 | uint64_t{0xb7} << 24, 4);
    u32(static_cast<uint32_t>(Window::kHash));
  }
  void jmp_user_hash() {
    put(0x65 | 0x41 << 8 | 0xff << 16 | uint64_t{0xa7} << 24, 4);
    u32(static_cast<uint32_t>(Window::kHash + offsetof(HashEntry, host)));
  }

  // ---- registers ----
  void mov(Reg to, Reg from) { register_form(0x89, to, from); }
  void mov32_imm(Reg r, uint32_t value) {
    const unsigned rex = r >= 8 ? 1 : 0;
    const uint64_t packed = (0xb8ull | (r & 7)) | uint64_t{value} << 8;
    put(rex != 0 ? 0x41 | packed << 8 : packed, 5 + rex);
  }
  void mov_imm(Reg r, uint64_t value) {
    if (value <= 0xffff'ffff) {
      mov32_imm(r, static_cast<uint32_t>(value));
    } else if (static_cast<int64_t>(value) == static_cast<int32_t>(value)) {
      u8(0x48 | r >> 3);
      u8(0xc7);
      u8(0xc0 | (r & 7));
      u32(static_cast<uint32_t>(value));
    } else {
      mov_imm64(r, value);
    }
  }
  void mov_imm64(Reg r, uint64_t value) {
    u8(0x48 | r >> 3);
    u8(0xb8 | (r & 7));
    u64(value);
  }
  void mov32(Reg to, Reg from) {  // clears the upper half
    if (to >= 8 || from >= 8) u8(0x40 | (from >> 3) << 2 | to >> 3);
    u8(0x89);
    u8(0xc0 | (from & 7) << 3 | (to & 7));
  }
  void rorx(Reg to, Reg from, uint8_t count) {  // BMI2: leaves flags alone
    put(0xc4 | ((to < 8 ? 0x80ull : 0) | 0x40 | (from < 8 ? 0x20 : 0) | 3) << 8 | 0xfbull << 16 |
            0xf0ull << 24 | (0xc0ull | (to & 7) << 3 | (from & 7)) << 32 | uint64_t{count} << 40,
        6);
  }
  // to = bits of `from` that the mask at GS:`at` chooses; leaves flags alone, as does not_().
  void pext(Reg to, Reg from, size_t at) {
    put(0x65 | 0xc4ull << 8 | ((to < 8 ? 0x80ull : 0) | 0x40 | 0x20 | 2) << 16 |
            (0x80ull | (~from & 15) << 3 | 2) << 24 | 0xf5ull << 32,
        5);
    absolute(to, at);
  }
  void not_(Reg r) {
    u8(0x48 | r >> 3);
    u8(0xf7);
    u8(0xd0 | (r & 7));
  }
  void shr(Reg r, uint8_t count) {
    put((0x48 | r >> 3) | 0xc1ull << 8 | (0xe8ull | (r & 7)) << 16 | uint64_t{count} << 24, 4);
  }
  void and32(Reg r, uint32_t value) {
    if (r >= 8) u8(0x41);
    put(0x81 | (0xe0ull | (r & 7)) << 8 | uint64_t{value} << 16, 6);
  }
  void and64(Reg r, uint32_t value) {  // sign-extended
    u8(0x48 | r >> 3);
    u8(0x81);
    u8(0xe0 | (r & 7));
    u32(value);
  }
  void or32(Reg to, Reg from) { alu32(0x09, to, from); }
  void xor32(Reg to, Reg from) { alu32(0x31, to, from); }
  void or32_imm(Reg r, uint8_t value) {
    if (r >= 8) u8(0x41);
    u8(0x83);
    u8(0xc8 | (r & 7));
    u8(value);
  }
  void test32(Reg r, uint32_t value) {
    if (r >= 8) u8(0x41);
    u8(0xf7);
    u8(0xc0 | (r & 7));
    u32(value);
  }
  void shl32(Reg r, uint8_t count) {
    if (r >= 8) u8(0x41);
    u8(0xc1);
    u8(0xe0 | (r & 7));
    u8(count);
  }
  void sar(Reg r, uint8_t count) {
    u8(0x48 | r >> 3);
    u8(0xc1);
    u8(0xf8 | (r & 7));
    u8(count);
  }
  void sub_reg(Reg to, Reg from) { register_form(0x29, to, from); }
  void sign_extend32(Reg r) {  // MOVSXD r, r
    u8(0x48 | (r >> 3) << 2 | r >> 3);
    u8(0x63);
    u8(0xc0 | (r & 7) << 3 | (r & 7));
  }
  void cmp_imm(Reg r, uint32_t value) {
    put((0x48 | r >> 3) | 0x81ull << 8 | (0xf8ull | (r & 7)) << 16 | uint64_t{value} << 24, 7);
  }
  void cmp(Reg a, Reg b) { register_form(0x39, a, b); }
  void lea(Reg to, const HostMem& mem, bool wide = true) { memory_form(0x8d, wide, to, mem); }
  void load_mem(Reg to, const HostMem& mem, bool wide = true) { memory_form(0x8b, wide, to, mem); }
  void store_mem(const HostMem& mem, Reg from, bool wide = true) { memory_form(0x89, wide, from, mem); }
  void load_zero_extended(Reg to, const HostMem& mem, unsigned size) {
    rex(size == 8, to, mem);
    if (size < 4) u8(0x0f);
    u8(size == 1 ? 0xb6 : size == 2 ? 0xb7 : 0x8b);
    modrm(to, mem);
  }
  void store_sized(const HostMem& mem, Reg from, unsigned size) {
    if (size == 2) u8(0x66);
    rex(size == 8, from, mem);
    u8(size == 1 ? 0x88 : 0x89);
    modrm(from, mem);
  }
  // What is left of the register stays.
  void load_sized(Reg to, const HostMem& mem, unsigned size) { sized(0x8a, to, mem, size); }
  void cmp_reg_mem(Reg left, const HostMem& right, unsigned size) { sized(0x3a, left, right, size); }
  void cmp_mem_reg(const HostMem& left, Reg right, unsigned size) { sized(0x38, right, left, size); }
  // Sign-extended.
  void store_mem_imm(const HostMem& mem, uint32_t value, bool wide = true) {
    rex(wide, 0, mem);
    u8(0xc7);
    modrm(0, mem);
    u32(value);
  }

  // ---- control ----
  // Each returns the place of its rel32.
  uint32_t jcc(uint8_t cc, uint32_t target = 0) {
    const uint32_t field = offset() + 2;
    put(0x0f | (0x80ull | cc) << 8 | uint64_t{target - (field + 4)} << 16, 6);
    return field;
  }
  uint32_t jmp(uint32_t target = 0) { return jump(0xe9, target); }
  uint32_t call(uint32_t target = 0) { return jump(0xe8, target); }

  // ---- encodings ----
  void rex(bool wide, Reg reg, const HostMem& mem) {
    const unsigned bits = rex_bits(wide, reg, mem);
    if (bits != 0) u8(0x40 | bits);
  }
  // Without the 40 that makes them a prefix.
  static unsigned rex_bits(bool wide, Reg reg, const HostMem& mem) {
    return (wide ? 8u : 0u) | (reg >> 3) << 2 | (mem.index != kNoReg ? (mem.index >> 3) << 1 : 0) |
           (mem.base != kNoReg ? mem.base >> 3 : 0);
  }
  // ModRM, SIB and displacement; `reg` is ModRM.reg, its low three bits.
  void modrm(unsigned reg, const HostMem& mem) {
    reg = (reg & 7) << 3;
    const auto disp = uint64_t{static_cast<uint32_t>(mem.disp)};
    const unsigned index = mem.index == kNoReg ? 4u : mem.index & 7u;
    if (mem.base == kNoReg) return put(reg | 4 | (mem.scale << 6 | index << 3 | 5) << 8 | disp << 16, 6);
    const unsigned base = mem.base & 7u;
    const bool sib = mem.index != kNoReg || base == 4;
    const unsigned mod = mem.disp == 0 && base != 5 ? 0 : mem.disp == static_cast<int8_t>(mem.disp) ? 1 : 2;
    const unsigned size = mod == 2 ? 4 : mod;
    if (sib)
      return put(mod << 6 | reg | 4 | (mem.scale << 6 | index << 3 | base) << 8 | disp << 16, 2 + size);
    put(mod << 6 | reg | base | disp << 8, 1 + size);
  }

 private:
  // `opcode`: of the form with bytes.
  void sized(unsigned opcode, Reg reg, const HostMem& mem, unsigned size) {
    if (size == 2) u8(0x66);
    rex(size == 8, reg, mem);
    u8(size == 1 ? opcode : opcode | 1);
    modrm(reg, mem);
  }
  void alu32(unsigned opcode, Reg to, Reg from) {
    if (to >= 8 || from >= 8) u8(0x40 | (from >> 3) << 2 | to >> 3);
    u8(opcode);
    u8(0xc0 | (from & 7) << 3 | (to & 7));
  }
  void group1(unsigned digit, size_t at, uint32_t value) {
    u8(0x65);
    u8(0x81);
    absolute(digit, at);
    u32(value);
  }
  // REX.W, ModRM of two registers.
  void register_form(uint64_t opcode, Reg rm, Reg reg) {
    put((0x48 | (reg >> 3) << 2 | rm >> 3) | opcode << 8 | (0xc0ull | (reg & 7) << 3 | (rm & 7)) << 16, 3);
  }
  void memory_form(unsigned opcode, bool wide, Reg reg, const HostMem& mem) {
    const unsigned bits = rex_bits(wide, reg, mem);
    if (bits != 0)
      put(0x40 | bits | opcode << 8, 2);
    else
      u8(opcode);
    modrm(reg, mem);
  }
  uint32_t jump(uint64_t opcode, uint32_t target) {
    const uint32_t field = offset() + 1;
    put(opcode | uint64_t{target - (field + 4)} << 8, 5);
    return field;
  }
  void absolute(unsigned reg, size_t at) {
    put(((reg & 7) << 3 | 4) | 0x25 << 8 | uint64_t{static_cast<uint32_t>(at)} << 16, 6);
  }
  void gs(bool wide, unsigned opcode, Reg r, size_t at) {
    const unsigned rex = (wide ? 8u : 0u) | (r >> 3) << 2;
    if (rex == 0) {
      put(0x65 | opcode << 8, 2);
      return absolute(r, at);
    }
    put(0x65 | (0x40 | rex) << 8 | opcode << 16 | uint64_t{(r & 7u) << 3 | 4} << 24 | uint64_t{0x25} << 32 |
            uint64_t{at & 0xffffff} << 40,
        8);
    u8(static_cast<uint8_t>(at >> 24));
  }
  void gs_indexed(uint64_t opcode, Reg r, Reg index, size_t at) {
    put(0x65 | (0x48 | (r >> 3) << 2 | (index >> 3) << 1) << 8 | opcode << 16 | ((r & 7) << 3 | 4) << 24 |
            (3ull << 6 | (index & 7) << 3 | 5) << 32,
        5);
    u32(static_cast<uint32_t>(at));
  }

  uint8_t* start_ = nullptr;
  uint8_t* p_ = nullptr;
  uint32_t offset_ = 0;
};

inline void Assembler::nops(unsigned count) {
  static constexpr uint8_t kNops[9][9] = {{0x90},
                                          {0x66, 0x90},
                                          {0x0f, 0x1f, 0x00},
                                          {0x0f, 0x1f, 0x40, 0x00},
                                          {0x0f, 0x1f, 0x44, 0x00, 0x00},
                                          {0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00},
                                          {0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00},
                                          {0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00},
                                          {0x66, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00}};
  while (count != 0) {
    const unsigned step = count < 9 ? count : 9;
    std::memcpy(p_, kNops[step - 1], step);
    p_ += step;
    count -= step;
  }
}

// Where the guest's register is while translated code runs: a host register, or kNoReg for those kept in
// memory.
constexpr Reg host_reg(unsigned guest) {
  return guest == 4 ? kSp : guest < 13 ? static_cast<Reg>(guest) : kNoReg;
}
constexpr size_t gpr_at(unsigned guest) {
  return offsetof(Hot, cpu) + offsetof(x86::CpuState, gpr) + guest * 8;
}
inline constexpr size_t kFlagsAt = offsetof(Hot, cpu) + offsetof(x86::CpuState, flags_ax);
inline constexpr size_t kFlagsRestAt = offsetof(Hot, cpu) + offsetof(x86::CpuState, flags_rest);
inline constexpr size_t kRipAt = offsetof(Hot, cpu) + offsetof(x86::CpuState, rip);
constexpr size_t segment_base_at(unsigned segment) {
  return offsetof(Hot, cpu) + offsetof(x86::CpuState, seg) + segment * sizeof(x86::Segment) +
         offsetof(x86::Segment, base);
}

}  // namespace ostler::bt
