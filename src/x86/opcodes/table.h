// The opcode tables as the decoder reads them, built by the compiler from the rows (table.cpp).
//
//   space, opcode byte -> Selector -> cell, chosen by prefix/mod/reg/rm bits -> list of rows, first match
//   wins
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "x86/opcodes/row.h"

namespace ostler::x86::opcodes {

inline constexpr size_t kRowCount = 1  // row 0 is what matches when nothing else does: kInvalid
#define SPACE(name)
#define ROW(byte, match, name, operands, properties) +1
#include "x86/opcodes/all.inc"
#undef ROW
#undef SPACE
    ;
inline constexpr size_t kCellCapacity = 5120, kListCapacity = 5120;

struct Selector {
  uint16_t first_cell = 0;
  uint16_t mask = 0;  // cell = first_cell + ((key >> shift) & mask)
  uint8_t shift = 0;
  bool has_modrm = false;
  bool ignores_mod = false;  // ModRM is always of the register form
};

struct Tables {
  std::array<Row, kRowCount> rows{};
  std::array<std::array<Selector, 256>, static_cast<size_t>(Space::kCount)> selectors{};
  std::array<uint16_t, kCellCapacity> cells{};  // index of the first element of a list
  std::array<uint16_t, kListCapacity> lists{};  // row numbers; each list ends with a row that always matches
};
extern const Tables kTables;

}  // namespace ostler::x86::opcodes
