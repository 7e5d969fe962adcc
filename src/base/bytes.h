// Little-endian fields in byte buffers, alignment, bit ranges.
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace ostler {

static_assert(std::endian::native == std::endian::little, "hosts are x86-64 and arm64");

template <class T>
requires std::is_trivially_copyable_v<T> T load_le(const void* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <class T>
requires std::is_trivially_copyable_v<T>
void store_le(void* to, T value) {
  std::memcpy(to, &value, sizeof value);
}

// `alignment` is a power of two.
constexpr uint64_t align_down(uint64_t value, uint64_t alignment) {
  return value & ~(alignment - 1);
}
constexpr uint64_t align_up(uint64_t value, uint64_t alignment) {
  return (value + alignment - 1) & ~(alignment - 1);
}

// Bits [lowest, lowest + count) of `value`, shifted down. 1 <= count <= 64.
constexpr uint64_t bits(uint64_t value, unsigned lowest, unsigned count) {
  return (value >> lowest) & (count == 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1);
}
constexpr bool bit(uint64_t value, unsigned index) {
  return (value >> index) & 1;
}

// Mask of the low `size` bytes, size 1..8.
constexpr uint64_t size_mask(unsigned size) {
  return size >= 8 ? ~uint64_t{0} : (uint64_t{1} << (size * 8)) - 1;
}

}  // namespace ostler
