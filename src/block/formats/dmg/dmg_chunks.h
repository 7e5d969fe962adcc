// The table of contents of an Apple disk image (UDIF, "dmg"): a trailer, a property list, tables of chunks.
// All numbers are big-endian. Source: published descriptions of the format; Apple has no specification.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "block/formats/mapped/image_file.h"

namespace ostler::block {

struct DmgTrailer {
  static constexpr size_t kBytes = 512;  // the last of the file

  uint64_t data_offset = 0;  // what chunks' offsets are relative to
  uint64_t list_offset = 0, list_bytes = 0;

  static bool recognised(std::span<const std::byte> tail);
  static Result<DmgTrailer> parse(std::span<const std::byte, kBytes> bytes, const Node& file);
};

struct DmgChunk {
  enum class Kind : uint8_t { kZero, kRaw, kZlib, kBzip2 };
  static constexpr uint64_t kMostPacked = 64u << 20;  // bytes of a compressed chunk, packed and unpacked
  static constexpr size_t kMostChunks = 1 << 20;

  Kind kind = Kind::kZero;
  uint64_t begin = 0, bytes = 0;  // of the disk
  uint64_t offset = 0;            // in the file
  uint64_t length = 0;            // there

  uint64_t end() const { return begin + bytes; }
};

// The chunks that the property list `list` describes, sorted by place; they do not overlap and lie in the
// file.
Result<std::vector<DmgChunk>> parse_dmg_chunks(std::string_view list, uint64_t data_offset, const Node& file);

}  // namespace ostler::block
