// Loads and stores of guest memory by host address. Guest memory is shared with other vCPUs and with devices,
// so each scalar access is one volatile access of exactly its size: never repeated, split or invented by the
// compiler. On x86-64 hosts plain accesses have the guest's own memory ordering (TSO), and are atomic
// wherever the guest's would be. Under ThreadSanitizer they are spelled as relaxed atomics, because guests
// race by right.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace ostler::memory {

#if defined(__SANITIZE_THREAD__)
#define OSTLER_GUEST_ACCESS_ATOMIC 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define OSTLER_GUEST_ACCESS_ATOMIC 1
#endif
#endif

namespace detail {
inline void copy_bytes_relaxed(void* to, const void* from, size_t size) {
  for (size_t i = 0; i < size; ++i)
    __atomic_store_n(static_cast<uint8_t*>(to) + i,
                     __atomic_load_n(static_cast<const uint8_t*>(from) + i, __ATOMIC_RELAXED),
                     __ATOMIC_RELAXED);
}
}  // namespace detail

// Copies between guest and engine memory, without any order among the bytes.
inline void guest_copy(void* to, const void* from, size_t size) {
#ifdef OSTLER_GUEST_ACCESS_ATOMIC
  detail::copy_bytes_relaxed(to, from, size);
#else
  std::memcpy(to, from, size);
#endif
}

inline void guest_fill(void* to, uint8_t value, size_t size) {
#ifdef OSTLER_GUEST_ACCESS_ATOMIC
  for (size_t i = 0; i < size; ++i) __atomic_store_n(static_cast<uint8_t*>(to) + i, value, __ATOMIC_RELAXED);
#else
  std::memset(to, value, size);
#endif
}

template <class T>
inline constexpr bool kScalarAccess = std::is_integral_v<T> && sizeof(T) <= 8;

// Any alignment.
template <class T>
inline T guest_load(const void* from) {
  if constexpr (kScalarAccess<T>) {
#ifdef OSTLER_GUEST_ACCESS_ATOMIC
    if (reinterpret_cast<uintptr_t>(from) % sizeof(T) == 0)
      return __atomic_load_n(static_cast<const T*>(from), __ATOMIC_RELAXED);
#else
    using Access [[gnu::aligned(1), gnu::may_alias]] = T;
    return *static_cast<const volatile Access*>(from);
#endif
  }
  T value;
  guest_copy(&value, from, sizeof value);
  return value;
}

template <class T>
inline void guest_store(void* to, T value) {
  if constexpr (kScalarAccess<T>) {
#ifdef OSTLER_GUEST_ACCESS_ATOMIC
    if (reinterpret_cast<uintptr_t>(to) % sizeof(T) == 0)
      return __atomic_store_n(static_cast<T*>(to), value, __ATOMIC_RELAXED);
#else
    using Access [[gnu::aligned(1), gnu::may_alias]] = T;
    *static_cast<volatile Access*>(to) = value;
    return;
#endif
  }
  guest_copy(to, &value, sizeof value);
}

}  // namespace ostler::memory
