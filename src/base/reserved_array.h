// An array that grows in place: address space for the most elements there may be is reserved, memory comes as
// elements are added. Elements never move, so other threads may read those they know of while one adds more.
// For trivial types.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <type_traits>
#include <utility>

#include "base/assert.h"

namespace ostler {

template <class T>
class ReservedArray {
  static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);

 public:
  ReservedArray() = default;
  // False: there is no address space.
  bool reserve(size_t most) {
    void* memory = mmap(nullptr, most * sizeof(T), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return false;
    data_ = static_cast<T*>(memory);
    capacity_ = most;
    return true;
  }
  ~ReservedArray() {
    if (data_ != nullptr) munmap(data_, capacity_ * sizeof(T));
  }
  ReservedArray(const ReservedArray&) = delete;
  ReservedArray& operator=(const ReservedArray&) = delete;

  size_t size() const { return size_; }
  size_t room() const { return capacity_ - size_; }
  T* data() { return data_; }
  const T* data() const { return data_; }
  T* begin() { return data_; }
  T* end() { return data_ + size_; }
  const T* begin() const { return data_; }
  const T* end() const { return data_ + size_; }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  T& add(const T& value) {
    ASSERT(size_ < capacity_, "whoever adds knows that there is room");
    return data_[size_++] = value;
  }
  // `count` elements whose values the caller writes at the returned place.
  T* add_many(size_t count) {
    ASSERT(room() >= count, "whoever adds knows that there is room");
    return data_ + std::exchange(size_, size_ + count);
  }
  // Without elements, and without memory.
  void clear() {
    if (size_ != 0) madvise(data_, capacity_ * sizeof(T), MADV_DONTNEED);
    size_ = 0;
  }

 private:
  T* data_ = nullptr;
  size_t size_ = 0, capacity_ = 0;
};

}  // namespace ostler
