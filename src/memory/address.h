// Addresses as distinct types, so that they cannot be mixed.
#pragma once

#include <compare>
#include <cstdint>

namespace ostler {

struct GuestPhys {
  uint64_t value = 0;

  friend constexpr auto operator<=>(GuestPhys, GuestPhys) = default;
  friend constexpr GuestPhys operator+(GuestPhys a, uint64_t n) { return {a.value + n}; }
  friend constexpr uint64_t operator-(GuestPhys a, GuestPhys b) { return a.value - b.value; }
};

inline constexpr uint64_t kPageSize = 4096;
inline constexpr uint64_t kPageMask = kPageSize - 1;

}  // namespace ostler
