// What openers and creators of formats need: whole pieces of a file as Results, integers in either byte
// order.
#pragma once

#include <array>
#include <bit>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "block/node.h"

namespace ostler::block {

template <class T>
T load_be(const void* from) {
  T value = load_le<T>(from);
  if constexpr (sizeof(T) == 2) return static_cast<T>(__builtin_bswap16(value));
  if constexpr (sizeof(T) == 4) return static_cast<T>(__builtin_bswap32(value));
  if constexpr (sizeof(T) == 8) return static_cast<T>(__builtin_bswap64(value));
  return value;
}
template <class T>
void store_be(void* to, T value) {
  store_le(to, load_be<T>(&value));
}

constexpr bool is_power_of_two(uint64_t value) {
  return value != 0 && (value & (value - 1)) == 0;
}

// The error names the file and the offset.
Task<Result<void>> read_image(Node& file, uint64_t offset, void* to, size_t bytes);
Task<Result<void>> write_image(Node& file, uint64_t offset, const void* from, size_t bytes);
Task<Result<void>> zero_image(Node& file, uint64_t offset, uint64_t bytes);
Task<Result<void>> flush_image(Node& file);

// kCorrupt: "FILE is not a valid WHAT image: …".
Error damaged(const Node& file, std::string_view what, std::string_view problem);
Error cannot(const Node& file, std::string_view what, std::string_view problem);

using Uuid = std::array<uint8_t, 16>;
Uuid random_uuid();  // version 4
// Of 16 bytes in the order in which they are written.
std::string uuid_text(const Uuid& uuid);

}  // namespace ostler::block
