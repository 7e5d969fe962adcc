// Numbers of the qcow2 format, versions 2 and 3 (QEMU's docs/interop/qcow2.txt).
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bytes.h"

namespace ostler::block::qcow2 {

inline constexpr uint32_t kMagic = 0x514649fb;  // "QFI\xfb"
inline constexpr unsigned kHeaderBytesV2 = 72, kHeaderBytesV3 = 104;

enum Incompatible : uint64_t {
  kDirty = 1,     // refcounts may be wrong
  kCorrupt = 2,   // no writing before a repair
  kDataFile = 4,  // guest data in another file
  kCompression = 8,
  kExtendedL2 = 16,
  kKnownIncompatible = 31,
};
enum Compatible : uint64_t { kLazyRefcounts = 1 };
enum Autoclear : uint64_t { kBitmapsConsistent = 1, kRawDataFile = 2, kKnownAutoclear = 3 };

enum ExtensionType : uint32_t {
  kEndOfExtensions = 0,
  kBackingFormat = 0xe2792aca,
  kFeatureNames = 0x6803f857,
  kBitmapsExtension = 0x23852875,
  kEncryptionHeader = 0x0537be77,
  kDataFileName = 0x44415441,
};

inline constexpr uint64_t kCopied = uint64_t{1} << 63;  // refcount is exactly one
inline constexpr uint64_t kCompressed = uint64_t{1} << 62;
inline constexpr uint64_t kZeroFlag = 1;
inline constexpr uint64_t kOffsetMask = 0x00fffffffffffe00;          // of L1 and L2 entries
inline constexpr uint64_t kRefcountOffsetMask = 0xfffffffffffffe00;  // of the refcount table
inline constexpr unsigned kSubclusters = 32;

// Larger ones are refused: nobody makes them, and reading them would take memory that an image must not
// decide about.
inline constexpr uint64_t kMostL1Bytes = 32u << 20;
inline constexpr uint64_t kMostRefcountTableBytes = 8u << 20;
inline constexpr uint32_t kMostSnapshots = 65536;
inline constexpr uint64_t kMostSnapshotTableBytes = 64u << 20;
inline constexpr uint64_t kMostEncryptionHeaderBytes = 64u << 20;
inline constexpr uint64_t kMostHeaderStrings = 1023;

template <class T>
T load_be(const void* from) {
  const T value = load_le<T>(from);
  if constexpr (sizeof(T) == 1) return value;
  if constexpr (sizeof(T) == 2) return static_cast<T>(__builtin_bswap16(value));
  if constexpr (sizeof(T) == 4) return static_cast<T>(__builtin_bswap32(value));
  if constexpr (sizeof(T) == 8) return static_cast<T>(__builtin_bswap64(value));
}
template <class T>
void store_be(void* to, T value) {
  if constexpr (sizeof(T) == 2) value = static_cast<T>(__builtin_bswap16(value));
  if constexpr (sizeof(T) == 4) value = static_cast<T>(__builtin_bswap32(value));
  if constexpr (sizeof(T) == 8) value = static_cast<T>(__builtin_bswap64(value));
  store_le(to, value);
}

}  // namespace ostler::block::qcow2
