// ELF executables for x86 (System V gABI): what a boot loader needs of them.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/symbols.h"
#include "boot/image.h"

namespace ostler::boot {

struct Elf {
  bool is64 = false;
  uint64_t entry = 0;
  std::vector<Chunk> segments;  // PT_LOAD at its physical address, zero-filled to p_memsz; pieces of the file
  std::optional<uint32_t> pvh_entry;  // XEN_ELFNOTE_PHYS32_ENTRY
  uint64_t end = 0;                   // end of the highest segment
};

bool is_elf(std::span<const uint8_t> file);

// kCorrupt when the file is cut short or its tables lie; kNoResource when a segment ends past `ram_end`.
Result<Elf> parse_elf(std::span<const uint8_t> file, uint64_t ram_end);

// Its functions and labels; none when it has none, or its tables lie.
std::vector<symbols::Symbol> parse_symbols(std::span<const uint8_t> file);

}  // namespace ostler::boot
