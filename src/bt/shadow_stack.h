// The host stack that translated code runs on: nothing but return addresses of translated calls, so that
// returns are predicted. Pages that it may not write end it on both sides; a call that meets them starts
// again at the base.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/result.h"

namespace ostler::bt {

class ShadowStack {
 public:
  static constexpr size_t kSize = 256 * 1024, kGuard = 64 * 1024, kBottom = 4096;

  static Result<ShadowStack> create(uint64_t underflow);
  ShadowStack() = default;
  ShadowStack(ShadowStack&& other) noexcept;
  ShadowStack& operator=(ShadowStack&& other) noexcept;
  ~ShadowStack();

  // Empty: the next return goes to the underflow routine. Whatever is popped at and above it leads there, and
  // nothing can be pushed there.
  uint64_t base() const { return reinterpret_cast<uint64_t>(memory_) + kGuard + kSize; }
  // A push faulted there: the stack is full, or a word too many was popped of it when it was empty.
  bool is_end(uint64_t address) const {
    return address - reinterpret_cast<uint64_t>(memory_) < kGuard || address - base() < kBottom;
  }

 private:
  std::byte* memory_ = nullptr;
};

}  // namespace ostler::bt
