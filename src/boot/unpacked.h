// Memory for what a packed file holds: address space for the most it may be, of which what is written takes
// memory, in huge pages where the host has them.
#pragma once

#include <sys/mman.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "base/result.h"

namespace ostler::boot {

class Unpacked {
 public:
  static Result<Unpacked> reserve(size_t most) {
    Unpacked made;
    made.room_ = most;
    made.mapped_ = most + kHuge;
    void* memory = mmap(nullptr, made.mapped_, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
      made.mapped_ = 0;
      return errno_error("memory to unpack the kernel", errno);
    }
    made.memory_ = memory;
    madvise(memory, made.mapped_, MADV_HUGEPAGE);
    return made;
  }
  Unpacked() = default;
  ~Unpacked() {
    if (mapped_ != 0) munmap(memory_, mapped_);
  }
  Unpacked(Unpacked&& other) noexcept { swap(other); }
  Unpacked& operator=(Unpacked&& other) noexcept {
    swap(other);
    return *this;
  }

  // Stays where it is when this is moved.
  uint8_t* data() {
    const auto start = reinterpret_cast<uintptr_t>(memory_);
    return static_cast<uint8_t*>(memory_) + ((start + kHuge - 1) / kHuge * kHuge - start);
  }
  size_t room() const { return room_; }  // bytes
  void set_size(size_t bytes) { bytes_ = {data(), bytes}; }
  std::span<const uint8_t> bytes() const { return bytes_; }

 private:
  static constexpr size_t kHuge = size_t{2} << 20;

  void swap(Unpacked& other) {
    std::swap(memory_, other.memory_);
    std::swap(mapped_, other.mapped_);
    std::swap(room_, other.room_);
    std::swap(bytes_, other.bytes_);
  }

  void* memory_ = nullptr;
  size_t mapped_ = 0, room_ = 0;
  std::span<const uint8_t> bytes_;
};

}  // namespace ostler::boot
