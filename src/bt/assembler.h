// Writes the host instructions that translations are made of, straight into the code memory. asmjit writes
// the routines (routines.cpp); for translations it costs more than the time there is for a guest instruction,
// see docs/bt/design.md, "Emission".
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "bt/hot.h"

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
    u8(0x65);
    u8(0xc7);
    absolute(0, at);
    u32(value);
  }
  void compare32(size_t at, uint32_t value) {
    u8(0x65);
    u8(0x81);
    absolute(7, at);
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
    u8(0x65);
    u8(0x83);
    absolute(7, at);
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
  void add(Reg r, size_t at) { gs(true, 0x03, r, at); }
  void sub(Reg r, size_t at) { gs(true, 0x2b, r, at); }
  // `index` * 8 + at
  void load_indexed(Reg r, Reg index, size_t at) { gs_indexed(0x8b, r, index, at); }
  void sub_indexed(Reg r, Reg index, size_t at) { gs_indexed(0x2b, r, index, at); }

  // ---- registers ----
  void mov(Reg to, Reg from) {
    u8(0x48 | (from >> 3) << 2 | to >> 3);
    u8(0x89);
    u8(0xc0 | (from & 7) << 3 | (to & 7));
  }
  void mov_imm(Reg r, uint64_t value) {
    if (value <= 0xffff'ffff) {
      if (r >= 8) u8(0x41);
      u8(0xb8 | (r & 7));
      u32(static_cast<uint32_t>(value));
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
  void rorx(Reg to, Reg from, uint8_t count) {  // BMI2: leaves flags alone
    u8(0xc4);
    u8((to < 8 ? 0x80 : 0) | 0x40 | (from < 8 ? 0x20 : 0) | 3);
    u8(0xfb);
    u8(0xf0);
    u8(0xc0 | (to & 7) << 3 | (from & 7));
    u8(count);
  }
  // to = bits of `from` that the mask at GS:`at` chooses; leaves flags alone, as does not_().
  void pext(Reg to, Reg from, size_t at) {
    u8(0x65);
    u8(0xc4);
    u8((to < 8 ? 0x80 : 0) | 0x40 | 0x20 | 2);
    u8(0x80 | (~from & 15) << 3 | 2);
    u8(0xf5);
    absolute(to, at);
  }
  void not_(Reg r) {
    u8(0x48 | r >> 3);
    u8(0xf7);
    u8(0xd0 | (r & 7));
  }
  void shr(Reg r, uint8_t count) {
    u8(0x48 | r >> 3);
    u8(0xc1);
    u8(0xe8 | (r & 7));
    u8(count);
  }
  void and32(Reg r, uint32_t value) {
    if (r >= 8) u8(0x41);
    u8(0x81);
    u8(0xe0 | (r & 7));
    u32(value);
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
  void sub_reg(Reg to, Reg from) {
    u8(0x48 | (from >> 3) << 2 | to >> 3);
    u8(0x29);
    u8(0xc0 | (from & 7) << 3 | (to & 7));
  }
  void sign_extend32(Reg r) {  // MOVSXD r, r
    u8(0x48 | (r >> 3) << 2 | r >> 3);
    u8(0x63);
    u8(0xc0 | (r & 7) << 3 | (r & 7));
  }
  void cmp_imm(Reg r, uint32_t value) {
    u8(0x48 | r >> 3);
    u8(0x81);
    u8(0xf8 | (r & 7));
    u32(value);
  }
  void cmp(Reg a, Reg b) {
    u8(0x48 | (b >> 3) << 2 | a >> 3);
    u8(0x39);
    u8(0xc0 | (b & 7) << 3 | (a & 7));
  }
  void lea(Reg to, const HostMem& mem, bool wide = true) {
    rex(wide, to, mem);
    u8(0x8d);
    modrm(to, mem);
  }
  void load_mem(Reg to, const HostMem& mem, bool wide = true) {
    rex(wide, to, mem);
    u8(0x8b);
    modrm(to, mem);
  }
  void store_mem(const HostMem& mem, Reg from, bool wide = true) {
    rex(wide, from, mem);
    u8(0x89);
    modrm(from, mem);
  }
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
    u8(0x0f);
    u8(0x80 | cc);
    return rel32(target);
  }
  uint32_t jmp(uint32_t target = 0) {
    u8(0xe9);
    return rel32(target);
  }
  uint32_t call(uint32_t target = 0) {
    u8(0xe8);
    return rel32(target);
  }
  uint32_t rel32(uint32_t target) {
    const uint32_t field = offset();
    u32(target - (field + 4));
    return field;
  }

  // ---- encodings ----
  void rex(bool wide, Reg reg, const HostMem& mem) {
    const unsigned bits = (wide ? 8u : 0u) | (reg >> 3) << 2 |
                          (mem.index != kNoReg ? (mem.index >> 3) << 1 : 0) |
                          (mem.base != kNoReg ? mem.base >> 3 : 0);
    if (bits != 0) u8(0x40 | bits);
  }
  // ModRM, SIB and displacement; `reg` is ModRM.reg, its low three bits.
  void modrm(unsigned reg, const HostMem& mem) {
    reg = (reg & 7) << 3;
    if (mem.base == kNoReg) {
      u8(reg | 4);
      u8(mem.scale << 6 | (mem.index == kNoReg ? 4u : mem.index & 7u) << 3 | 5);
      u32(static_cast<uint32_t>(mem.disp));
      return;
    }
    const bool sib = mem.index != kNoReg || (mem.base & 7) == 4;
    const unsigned mod = mem.disp == 0 && (mem.base & 7) != 5        ? 0
                         : mem.disp == static_cast<int8_t>(mem.disp) ? 1
                                                                     : 2;
    u8(mod << 6 | reg | (sib ? 4u : mem.base & 7u));
    if (sib) u8(mem.scale << 6 | (mem.index == kNoReg ? 4u : mem.index & 7u) << 3 | (mem.base & 7));
    if (mod == 1) u8(static_cast<uint8_t>(mem.disp));
    if (mod == 2) u32(static_cast<uint32_t>(mem.disp));
  }

 private:
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
  void absolute(unsigned reg, size_t at) {
    u8((reg & 7) << 3 | 4);
    u8(0x25);
    u32(static_cast<uint32_t>(at));
  }
  void gs(bool wide, unsigned opcode, Reg r, size_t at) {
    u8(0x65);
    if (wide || r >= 8) u8(0x40 | (wide ? 8 : 0) | (r >> 3) << 2);
    u8(opcode);
    absolute(r, at);
  }
  void gs_indexed(unsigned opcode, Reg r, Reg index, size_t at) {
    u8(0x65);
    u8(0x48 | (r >> 3) << 2 | (index >> 3) << 1);
    u8(opcode);
    u8((r & 7) << 3 | 4);
    u8(3 << 6 | (index & 7) << 3 | 5);
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
