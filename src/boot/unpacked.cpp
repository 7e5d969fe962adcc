#include "boot/unpacked.h"

#include <sys/mman.h>

#include <cerrno>

#include "base/bytes.h"

namespace ostler::boot {

Result<Unpacked> Unpacked::reserve(size_t most) {
  constexpr size_t kHugePage = size_t{2} << 20;
  const size_t bytes = most + kHugePage;
  void* memory =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return errno_error("memory to unpack the kernel", errno);
  madvise(memory, bytes, MADV_HUGEPAGE);
  Unpacked made;
  made.memory_ = memory;
  made.mapped_ = bytes;
  const auto start = reinterpret_cast<uintptr_t>(memory);
  made.data_ = static_cast<uint8_t*>(memory) + (align_up(start, kHugePage) - start);
  made.room_ = most;
  return made;
}

Unpacked::~Unpacked() {
  if (mapped_ != 0) munmap(memory_, mapped_);
}

}  // namespace ostler::boot
