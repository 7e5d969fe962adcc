// Owner of a mapping into our address space.
#pragma once

#include <sys/mman.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/result.h"

namespace ostler::accel::kvm {

class Mapping {
 public:
  static Result<Mapping> anonymous(size_t size) { return map(-1, size, MAP_PRIVATE | MAP_ANONYMOUS, 0); }
  static Result<Mapping> of_file(int fd, size_t size, uint64_t offset = 0) {
    return map(fd, size, MAP_SHARED, offset);
  }
  Mapping() = default;
  Mapping(Mapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Mapping() {
    if (data_ != nullptr) munmap(data_, size_);
  }

  std::byte* data() const { return data_; }

 private:
  static Result<Mapping> map(int fd, size_t size, int flags, uint64_t offset) {
    void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, fd, static_cast<off_t>(offset));
    if (data == MAP_FAILED) return errno_error("mmap", errno);
    Mapping out;
    out.data_ = static_cast<std::byte*>(data);
    out.size_ = size;
    return out;
  }

  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace ostler::accel::kvm
