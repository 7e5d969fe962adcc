// Big-endian fields of command and data blocks, as all of SCSI has them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace ostler::scsi {

using Bytes = std::vector<std::byte>;

// Of a command block, or any bytes that reach so far.
inline uint64_t big_endian(std::span<const uint8_t> bytes, size_t at, size_t size) {
  uint64_t value = 0;
  for (size_t i = 0; i < size; ++i) value = value << 8 | bytes[at + i];
  return value;
}
inline uint64_t big_endian(std::span<const std::byte> bytes, size_t at, size_t size) {
  uint64_t value = 0;
  for (size_t i = 0; i < size; ++i) value = value << 8 | std::to_integer<uint8_t>(bytes[at + i]);
  return value;
}

// The low `size` bytes of `value`.
inline void put(Bytes& bytes, size_t at, uint64_t value, size_t size = 1) {
  for (size_t i = 0; i < size; ++i) bytes[at + i] = static_cast<std::byte>(value >> 8 * (size - 1 - i));
}
// Padded with spaces.
inline void put_text(Bytes& bytes, size_t at, size_t size, std::string_view text) {
  for (size_t i = 0; i < size; ++i)
    bytes[at + i] = static_cast<std::byte>(i < text.size() ? static_cast<unsigned char>(text[i]) : ' ');
}

}  // namespace ostler::scsi
