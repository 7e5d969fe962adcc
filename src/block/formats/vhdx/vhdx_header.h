// The two headers of a VHDX file, which are written in turn: the valid one with the higher sequence number
// counts, so that a header torn by a power cut leaves the other.
// Source: Microsoft, "VHDX Format Specification" 1.00 (2012), §2.2.
#pragma once

#include <span>

#include "block/formats/mapped/image_file.h"

namespace ostler::block {

struct VhdxHeader {
  static constexpr size_t kBytes = 4096;
  static constexpr uint64_t kOffsets[2] = {64 << 10, 128 << 10};
  static constexpr uint64_t kMostLogBytes = uint64_t{1} << 30;

  uint64_t sequence = 0;
  Uuid file_write{}, data_write{};
  Uuid log_id{};  // zero: the log is empty
  uint32_t log_bytes = 1 << 20;
  uint64_t log_offset = 1 << 20;
  unsigned place = 0;  // which of the two

  static Task<Result<VhdxHeader>> read(Node& file);
  // Writes it with the next sequence number to the other place and flushes.
  Task<Result<void>> write(Node& file);
  bool log_in_use() const { return log_id != Uuid{}; }

 private:
  std::array<std::byte, kBytes> encode() const;
};

// CRC-32C of a structure whose own checksum, at byte 4, counts as zero.
uint32_t vhdx_checksum(std::span<const std::byte> bytes);

}  // namespace ostler::block
