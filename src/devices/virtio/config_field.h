// Fields of a device's configuration as drivers write them: whole, or, by the legacy interface, byte by byte.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/bytes.h"

namespace ostler::virtio {

// Changes the bytes of `value`, a field at `field` (of bytes, or a little-endian number), that a write of
// `from` to `offset` covers. False, and nothing changes, when the write is not wholly within the field.
inline bool write_config_bytes(uint64_t offset, std::span<const std::byte> from, size_t field,
                               std::span<std::byte> value) {
  if (offset < field || offset - field > value.size() || from.size() > value.size() - (offset - field))
    return false;
  std::ranges::copy(from, value.begin() + static_cast<ptrdiff_t>(offset - field));
  return true;
}
template <class T>
bool write_config_field(uint64_t offset, std::span<const std::byte> from, size_t field, T& value) {
  std::array<std::byte, sizeof(T)> bytes;
  store_le(bytes.data(), value);
  if (!write_config_bytes(offset, from, field, bytes)) return false;
  value = load_le<T>(bytes.data());
  return true;
}

}  // namespace ostler::virtio
