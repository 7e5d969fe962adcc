#include "bt/shadow_stack.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace ostler::bt {

Result<ShadowStack> ShadowStack::create(uint64_t underflow) {
  ShadowStack stack;
  void* memory = mmap(nullptr, kGuard + kSize, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return errno_error("memory of a vCPU", errno);
  stack.memory_ = static_cast<std::byte*>(memory);
  if (mprotect(memory, kGuard, PROT_NONE) != 0) return errno_error("memory of a vCPU", errno);
  // All of it: shared code takes two words for a call, and may pop one that it has not pushed after the stack
  // started again.
  for (uint64_t at = stack.base(); at < stack.base() + kSlack; at += sizeof underflow)
    std::memcpy(reinterpret_cast<void*>(at), &underflow, sizeof underflow);
  return stack;
}

ShadowStack::ShadowStack(ShadowStack&& other) noexcept : memory_(std::exchange(other.memory_, nullptr)) {}

ShadowStack& ShadowStack::operator=(ShadowStack&& other) noexcept {
  std::swap(memory_, other.memory_);
  return *this;
}

ShadowStack::~ShadowStack() {
  if (memory_ != nullptr) munmap(memory_, kGuard + kSize);
}

}  // namespace ostler::bt
