// ASSERT(condition, "why it holds"): stops the process when our own invariant is broken, in every build
// type. Never on guest, file or network data.
#pragma once

namespace ostler {
[[noreturn]] void assertion_failed(const char* condition, const char* why, const char* file, int line);
}

#define ASSERT(condition, why)                                         \
  do {                                                                 \
    if (!(condition)) [[unlikely]]                                     \
      ::ostler::assertion_failed(#condition, why, __FILE__, __LINE__); \
  } while (false)
