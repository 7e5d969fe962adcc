// Nanoseconds of the virtual clock to ticks of a chip's oscillator and back, without overflow or drift.
#pragma once

#include <cstdint>

namespace ostler::chipset {

__extension__ using Wide = unsigned __int128;

// a * b / c, rounded down.
constexpr uint64_t multiply_divide(uint64_t a, uint64_t b, uint64_t c) {
  return static_cast<uint64_t>(static_cast<Wide>(a) * b / c);
}

inline constexpr uint64_t kNsPerSecond = 1'000'000'000;

// Ticks completed after `ns`; the moment the `ticks`th tick completes (rounded up, so that the two agree).
constexpr int64_t ticks_in(int64_t ns, uint64_t hertz) {
  return ns <= 0 ? 0 : static_cast<int64_t>(multiply_divide(static_cast<uint64_t>(ns), hertz, kNsPerSecond));
}
constexpr int64_t ns_of_tick(int64_t ticks, uint64_t hertz) {
  if (ticks <= 0) return 0;
  return static_cast<int64_t>((static_cast<Wide>(ticks) * kNsPerSecond + hertz - 1) / hertz);
}

}  // namespace ostler::chipset
