// CRC-32C (Castagnoli), as iSCSI (RFC 3720 §12.1) and VHDX use it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace ostler::block {

namespace detail {
constexpr std::array<uint32_t, 256> crc32c_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < table.size(); ++i) {
    uint32_t value = i;
    for (int step = 0; step < 8; ++step) value = (value >> 1) ^ ((value & 1) != 0 ? 0x82f63b78u : 0u);
    table[i] = value;
  }
  return table;
}
inline constexpr std::array<uint32_t, 256> kCrc32cTable = crc32c_table();
}  // namespace detail

// Of `size` bytes; `before` is the result for what comes before them.
inline uint32_t crc32c(const void* data, size_t size, uint32_t before = 0) {
  const auto* bytes = static_cast<const uint8_t*>(data);
  uint32_t crc = ~before;
  for (size_t i = 0; i < size; ++i) crc = (crc >> 8) ^ detail::kCrc32cTable[(crc ^ bytes[i]) & 0xff];
  return ~crc;
}

}  // namespace ostler::block
