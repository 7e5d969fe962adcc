// Zeroed elements at addresses that stay: address space for all of them is reserved, memory comes as they are
// touched. Threads may use different elements at the same time. For trivial types whose zero is a value.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace ostler {

template <class T>
class ReservedArray {
  static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);

 public:
  ReservedArray() = default;
  // False: there is no address space.
  bool reserve(size_t count) {
    void* memory = mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return false;
    data_ = static_cast<T*>(memory);
    size_ = count;
    return true;
  }
  ~ReservedArray() {
    if (data_ != nullptr) munmap(data_, size_ * sizeof(T));
  }
  ReservedArray(const ReservedArray&) = delete;
  ReservedArray& operator=(const ReservedArray&) = delete;

  size_t size() const { return size_; }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  // All elements are zero again, and without memory.
  void clear() {
    if (size_ != 0) madvise(data_, size_ * sizeof(T), MADV_DONTNEED);
  }

  // The memory of [first, first + count) is given back, but for what shares a page with others: those
  // elements may stay as they are.
  void clear(size_t first, size_t count) {
    constexpr uintptr_t kPage = 4096;
    const auto start = (reinterpret_cast<uintptr_t>(data_ + first) + kPage - 1) & ~(kPage - 1);
    const auto end = reinterpret_cast<uintptr_t>(data_ + first + count) & ~(kPage - 1);
    if (start < end) madvise(reinterpret_cast<void*>(start), end - start, MADV_DONTNEED);
  }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace ostler
