// A guest exception on its way from the place that found it to the engine's delivery. Engines throw it inside
// their own module only; the state is as before the faulting instruction.
#pragma once

#include <cstdint>

namespace ostler::x86 {

enum class Vector : uint8_t {
  kDe = 0,
  kDb = 1,
  kNmi = 2,
  kBp = 3,
  kOf = 4,
  kBr = 5,
  kUd = 6,
  kNm = 7,
  kDf = 8,
  kTs = 10,
  kNp = 11,
  kSs = 12,
  kGp = 13,
  kPf = 14,
  kMf = 16,
  kAc = 17,
  kMc = 18,
  kXm = 19,
};

namespace pf_error {
inline constexpr uint32_t kPresent = 1, kWrite = 2, kUser = 4, kReserved = 8, kFetch = 16;
}

struct Exception {
  Vector vector;
  bool has_error = false;
  uint32_t error = 0;
  uint64_t cr2 = 0;       // #PF: the linear address
  uint64_t dr6_bits = 0;  // #DB: causes to set in DR6
};

[[noreturn]] inline void raise(Vector vector) {
  throw Exception{vector};
}
[[noreturn]] inline void raise(Vector vector, uint32_t error) {
  throw Exception{vector, true, error};
}

}  // namespace ostler::x86
