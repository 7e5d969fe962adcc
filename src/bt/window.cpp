#include "bt/window.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <new>

#include "base/fd.h"

namespace ostler::bt {

Result<std::unique_ptr<Window>> Window::create() {
  const Fd memory(memfd_create("ostler-vcpu", MFD_CLOEXEC));
  constexpr size_t kUserBytes = kSize - kUser;
  if (!memory ||
      ftruncate(memory.get(), static_cast<off_t>(kUser + mmu::UserContexts::kMost * kUserBytes)) != 0)
    return errno_error("memory of a vCPU", errno);
  std::unique_ptr<Window> window(new Window);
  for (unsigned i = 0; i < mmu::UserContexts::kMost; ++i) {
    void* base = mmap(nullptr, kSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return errno_error("memory of a vCPU", errno);
    auto* view = static_cast<std::byte*>(base);
    window->views_[i] = view;
    constexpr int kAccess = PROT_READ | PROT_WRITE;
    if (mmap(view, kUser, kAccess, MAP_SHARED | MAP_FIXED, memory.get(), 0) == MAP_FAILED ||
        mmap(view + kUser, kUserBytes, kAccess, MAP_SHARED | MAP_FIXED, memory.get(),
             static_cast<off_t>(kUser + i * kUserBytes)) == MAP_FAILED)
      return errno_error("memory of a vCPU", errno);
  }
  new (window->views_[0]) Hot;
  window->hash(false)->key = window->hash(true)->key = ~uint64_t{0};
  return window;
}

Window::~Window() {
  for (std::byte* view : views_)
    if (view != nullptr) munmap(view, kSize);
}

// Empty entries are zeros, which would be the key of RIP 0: that one has its only place at 0.
void Window::clear_hash() {
  std::memset(views_[0] + kHash, 0, 2 * kHashBytes);
  hash(false)->key = hash(true)->key = ~uint64_t{0};
}

mmu::Tlb* Window::user(unsigned context) {
  return new (views_[context] + kUser) mmu::Tlb(mmu::Tlb::Memory::kZero);
}

mmu::Tlb* Window::supervisor(unsigned context) {
  return new (views_[0] + (context == 0 ? kSup : kAc)) mmu::Tlb(mmu::Tlb::Memory::kZero);
}

}  // namespace ostler::bt
