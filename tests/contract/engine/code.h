// Writes 64-bit code for the tests of this folder: the few instructions they need, by name, and bytes for the
// others. Registers are x86::GprIndex.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <vector>

#include "base/bytes.h"
#include "x86/state.h"

namespace ostler::test {

class Code {
 public:
  const std::vector<uint8_t>& bytes() const { return bytes_; }
  size_t size() const { return bytes_.size(); }
  Code& raw(std::initializer_list<uint8_t> bytes) {
    bytes_.insert(bytes_.end(), bytes);
    return *this;
  }
  Code& nops(size_t count) {
    bytes_.insert(bytes_.end(), count, 0x90);
    return *this;
  }

  // ---- data ----
  Code& mov(unsigned reg, uint64_t value) {
    raw({rex(0, reg), static_cast<uint8_t>(0xb8 | (reg & 7))});
    return little(value, 8);
  }
  Code& mov32(unsigned reg, uint32_t value) {  // 5 or 6 bytes, the last four of them the value
    if (reg >= 8) raw({0x41});
    raw({static_cast<uint8_t>(0xb8 | (reg & 7))});
    return little(value, 4);
  }
  Code& load(unsigned reg, unsigned base, int32_t disp = 0) { return memory({0x8b}, reg, base, disp); }
  Code& store(unsigned base, unsigned reg, int32_t disp = 0) { return memory({0x89}, reg, base, disp); }
  Code& store32(unsigned base, unsigned reg, int32_t disp = 0) {
    return memory({0x89}, reg, base, disp, false);
  }
  Code& store8(unsigned base, uint8_t value, int32_t disp = 0) {
    return memory({0xc6}, 0, base, disp).little(value, 1);
  }
  // One instruction with operands reg and [base + disp].
  Code& memory(std::initializer_list<uint8_t> opcode, unsigned reg, unsigned base, int32_t disp = 0,
               bool wide = true) {
    raw({static_cast<uint8_t>(0x40 | (wide ? 8 : 0) | (reg >> 3) << 2 | (base >> 3))}).raw(opcode);
    raw({static_cast<uint8_t>(0x80 | (reg & 7) << 3 | (base & 7))});
    if ((base & 7) == 4) raw({0x24});
    return little(static_cast<uint32_t>(disp), 4);
  }
  Code& add(unsigned to, unsigned from) { return registers(0x01, to, from); }
  Code& sub(unsigned to, unsigned from) { return registers(0x29, to, from); }
  Code& move(unsigned to, unsigned from) { return registers(0x89, to, from); }
  Code& compare(unsigned left, unsigned right) { return registers(0x39, left, right); }
  Code& exchange(unsigned a, unsigned b) { return registers(0x87, a, b); }
  Code& inc(unsigned reg) { return registers(0xff, reg, 0); }

  // ---- control ----
  Code& call(unsigned reg) { return through(2, reg); }
  Code& jump(unsigned reg) { return through(4, reg); }
  Code& ret() { return raw({0xc3}); }
  Code& hlt() { return raw({0xf4}); }
  // Repeats the code since offset `top` until `reg`, which is decremented, is 0.
  Code& loop(unsigned reg, size_t top) { return registers(0xff, reg, 1).jcc(5, top); }
  Code& jcc(unsigned condition, size_t target) {
    raw({0x0f, static_cast<uint8_t>(0x80 | condition)});
    return little(static_cast<uint32_t>(target - (size() + 4)), 4);
  }

  // ---- system ----
  Code& to_cr(unsigned number, unsigned reg) {
    return raw({static_cast<uint8_t>(0x40 | (reg >> 3)), 0x0f, 0x22,
                static_cast<uint8_t>(0xc0 | number << 3 | (reg & 7))});
  }
  Code& from_cr(unsigned reg, unsigned number) {
    return raw({static_cast<uint8_t>(0x40 | (reg >> 3)), 0x0f, 0x20,
                static_cast<uint8_t>(0xc0 | number << 3 | (reg & 7))});
  }
  Code& invlpg(unsigned base) { return memory({0x0f, 0x01}, 7, base, 0, false); }
  Code& invpcid(uint64_t type, unsigned base) {  // changes R8
    return mov(x86::kR8, type).raw({0x66}).memory({0x0f, 0x38, 0x82}, x86::kR8, base, 0, false);
  }
  Code& stac() { return raw({0x0f, 0x01, 0xcb}); }
  Code& clac() { return raw({0x0f, 0x01, 0xca}); }
  Code& serialize() { return raw({0x0f, 0xa2}); }  // CPUID: changes RAX, RBX, RCX, RDX

 private:
  static uint8_t rex(unsigned reg, unsigned rm) {
    return static_cast<uint8_t>(0x48 | (reg >> 3) << 2 | (rm >> 3));
  }
  Code& registers(uint8_t opcode, unsigned rm, unsigned reg) {
    return raw({rex(reg, rm), opcode, static_cast<uint8_t>(0xc0 | (reg & 7) << 3 | (rm & 7))});
  }
  Code& through(unsigned extension, unsigned reg) {
    if (reg >= 8) raw({0x41});
    return raw({0xff, static_cast<uint8_t>(0xc0 | extension << 3 | (reg & 7))});
  }
  Code& little(uint64_t value, unsigned count) {
    for (unsigned i = 0; i < count; ++i) bytes_.push_back(static_cast<uint8_t>(value >> 8 * i));
    return *this;
  }
  std::vector<uint8_t> bytes_;
};

}  // namespace ostler::test
