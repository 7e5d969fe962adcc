// Fields of network headers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace ostler::virtio::net {

template <class T>
requires std::is_unsigned_v<T> T load_be(const std::byte* from) {
  T value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) value = static_cast<T>(value << 8 | std::to_integer<T>(from[i]));
  return value;
}

template <class T>
requires std::is_unsigned_v<T>
void store_be(std::byte* to, T value) {
  for (size_t i = sizeof(T); i-- != 0; value = static_cast<T>(value >> 8))
    to[i] = static_cast<std::byte>(value);
}

}  // namespace ostler::virtio::net
