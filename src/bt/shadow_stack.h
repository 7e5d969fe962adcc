// The host stack that translated code runs on: nothing but return addresses of translated calls, so that
// returns are predicted. A guard page ends it; a call that meets it starts again at the base.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/result.h"

namespace ostler::bt {

class ShadowStack {
 public:
  static constexpr size_t kSize = 256 * 1024, kGuard = 64 * 1024;

  static Result<ShadowStack> create(uint64_t underflow);
  ShadowStack() = default;
  ShadowStack(ShadowStack&& other) noexcept;
  ShadowStack& operator=(ShadowStack&& other) noexcept;
  ~ShadowStack();

  // Empty: the next return goes to the underflow routine.
  uint64_t base() const { return reinterpret_cast<uint64_t>(memory_) + kGuard + kSize - kSlack; }
  bool in_guard(uint64_t address) const { return address - reinterpret_cast<uint64_t>(memory_) < kGuard; }

 private:
  static constexpr size_t kSlack = 64;

  std::byte* memory_ = nullptr;
};

}  // namespace ostler::bt
