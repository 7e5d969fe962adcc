#include "bt/shadow_stack.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace ostler::bt {
namespace {
constexpr size_t kAll = ShadowStack::kGuard + ShadowStack::kSize + ShadowStack::kBottom;
}  // namespace

Result<ShadowStack> ShadowStack::create(uint64_t underflow) {
  ShadowStack stack;
  void* memory =
      mmap(nullptr, kAll, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return errno_error("memory of a vCPU", errno);
  stack.memory_ = static_cast<std::byte*>(memory);
  // All of the page: shared code takes two words for a call. When the stack starts again between them, it
  // pops one that it has not pushed. What is pushed next must not come to lie where returns of an empty stack
  // look: that word may be the guest's to choose.
  auto* bottom = reinterpret_cast<std::byte*>(stack.base());
  for (size_t at = 0; at < kBottom; at += sizeof underflow)
    std::memcpy(bottom + at, &underflow, sizeof underflow);
  if (mprotect(memory, kGuard, PROT_NONE) != 0 || mprotect(bottom, kBottom, PROT_READ) != 0)
    return errno_error("memory of a vCPU", errno);
  return stack;
}

ShadowStack::ShadowStack(ShadowStack&& other) noexcept : memory_(std::exchange(other.memory_, nullptr)) {}

ShadowStack& ShadowStack::operator=(ShadowStack&& other) noexcept {
  std::swap(memory_, other.memory_);
  return *this;
}

ShadowStack::~ShadowStack() {
  if (memory_ != nullptr) munmap(memory_, kAll);
}

}  // namespace ostler::bt
