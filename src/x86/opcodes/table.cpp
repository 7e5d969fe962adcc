// Turns the rows of the .inc files into lookup tables, at compile time.
#include "x86/opcodes/table.h"

namespace ostler::x86::opcodes {
namespace {

constexpr bool is_vex(Space space) {
  return space >= Space::kVex0f;
}

constexpr bool uses_modrm(Place place) {
  switch (place) {
    case Place::kRm:
    case Place::kRmRegister:
    case Place::kMemory:
    case Place::kGather:
    case Place::kReg:
    case Place::kSegment:
    case Place::kControl:
    case Place::kDebug:
    case Place::kXmmReg:
    case Place::kXmmRm:
    case Place::kMmxReg:
    case Place::kMmxRm:
    case Place::kStRm:
      return true;
    default:
      return false;
  }
}

constexpr bool is_escape(Space space, uint8_t byte) {
  return space == Space::kPrimary && byte >= 0xd8 && byte <= 0xdf;
}

// Fills in what follows from the operands.
constexpr Row make_row(Space space, unsigned byte, Match match, Opcode opcode, Operands operands,
                       Properties properties) {
  Row row{opcode, match, operands, properties, space, static_cast<uint8_t>(byte), 0, is_vex(space)};
  for (const Spec& spec : operands) {
    if (spec.place == Place::kNone) break;
    ++row.operand_count;
    if (spec.place == Place::kMemory || spec.place == Place::kGather) row.match = row.match & notation::mem;
    if (spec.place == Place::kVvvv || spec.place == Place::kXmmVvvv) row.unused_vvvv = false;
  }
  return row;
}

constexpr std::array<Row, kRowCount> make_rows() {
  using namespace notation;
  std::array<Row, kRowCount> rows{};
  size_t count = 1;
  Space space = Space::kPrimary;
#define SPACE(name) space = Space::name;
#define ROW(byte, match, name, operands, properties) \
  rows[count++] = make_row(space, byte, match, Opcode::k##name, operands, properties);
#include "x86/opcodes/all.inc"
#undef ROW
#undef SPACE
  return rows;
}

constexpr Tables make_tables() {
  Tables tables;
  tables.rows = make_rows();
  size_t cell_count = 1, list_count = 1;  // cell 0 -> list 0 -> row 0

  // Rows of one opcode, chained in the order of the table.
  std::array<uint16_t, 256 * static_cast<size_t>(Space::kCount)> head{}, tail{};
  std::array<uint16_t, kRowCount> next{};
  for (size_t i = 1; i < kRowCount; ++i) {
    const size_t slot = static_cast<size_t>(tables.rows[i].space) * 256 + tables.rows[i].byte;
    if (head[slot] == 0)
      head[slot] = static_cast<uint16_t>(i);
    else
      next[tail[slot]] = static_cast<uint16_t>(i);
    tail[slot] = static_cast<uint16_t>(i);
  }

  for (size_t slot = 0; slot < head.size(); ++slot) {
    if (head[slot] == 0) continue;
    Selector& selector = tables.selectors[slot / 256][slot % 256];
    unsigned tested = 0;
    for (size_t i = head[slot]; i != 0; i = next[i]) {
      const Row& row = tables.rows[i];
      tested |= row.match.mask;
      selector.has_modrm = selector.has_modrm || (row.match.mask & key::kModrmBits) != 0;
      for (const Spec& spec : row.operands) {
        selector.has_modrm = selector.has_modrm || uses_modrm(spec.place);
        selector.ignores_mod = selector.ignores_mod || spec.place == Place::kRmRegister;
      }
    }
    selector.has_modrm =
        selector.has_modrm || is_escape(tables.rows[head[slot]].space, tables.rows[head[slot]].byte);

    unsigned low = 0, high = key::kSelectable;
    while (low < high && (tested >> low & 1) == 0) ++low;
    while (high > low && (tested >> (high - 1) & 1) == 0) --high;
    selector.shift = static_cast<uint8_t>(low);
    selector.mask = static_cast<uint16_t>((1u << (high - low)) - 1);
    selector.first_cell = static_cast<uint16_t>(cell_count);

    const unsigned chosen = static_cast<unsigned>(selector.mask) << low;
    const size_t first_list = list_count;
    for (unsigned value = 0; value <= selector.mask; ++value) {
      const size_t start = list_count;
      bool complete = false;
      for (size_t i = head[slot]; i != 0 && !complete; i = next[i]) {
        const Match& match = tables.rows[i].match;
        if ((value << low & match.mask) != (match.value & chosen)) continue;
        tables.lists[list_count++] = static_cast<uint16_t>(i);
        complete = (match.mask & ~chosen) == 0;
      }
      if (!complete) tables.lists[list_count++] = 0;
      // Cells with the same rows share a list.
      size_t same = first_list;
      const size_t length = list_count - start;
      for (; same < start; ++same) {
        size_t i = 0;
        while (i < length && tables.lists[same + i] == tables.lists[start + i]) ++i;
        if (i == length) break;
      }
      if (same < start) list_count = start;
      tables.cells[cell_count++] = static_cast<uint16_t>(same);
    }
  }
  return tables;
}

}  // namespace

constinit const Tables kTables = make_tables();

}  // namespace ostler::x86::opcodes
