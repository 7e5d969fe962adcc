// Why a command did not end well: sense keys and codes (SPC-4 §4.5), and the formats in which they travel.
#pragma once

#include <cstdint>
#include <vector>

#include "devices/scsi/bytes.h"

namespace ostler::scsi {

struct Sense {
  uint8_t key = 0, code = 0, qualifier = 0;
  friend bool operator==(const Sense&, const Sense&) = default;
};

namespace sense {
inline constexpr Sense kNone{};
inline constexpr Sense kNoMedium{2, 0x3a, 0}, kNoMediumTrayClosed{2, 0x3a, 1}, kNoMediumTrayOpen{2, 0x3a, 2};
inline constexpr Sense kStopped{2, 0x04, 2};  // not ready, initializing command required
inline constexpr Sense kWriteError{3, 0x0c, 0}, kReadError{3, 0x11, 0};
inline constexpr Sense kParameterListLength{5, 0x1a, 0}, kInvalidOpcode{5, 0x20, 0}, kOutOfRange{5, 0x21, 0};
inline constexpr Sense kInvalidField{5, 0x24, 0};  // in the CDB
inline constexpr Sense kNoSuchUnit{5, 0x25, 0};
inline constexpr Sense kInvalidParameter{5, 0x26, 0};
inline constexpr Sense kSavingUnsupported{5, 0x39, 0};
inline constexpr Sense kRemovalPrevented{5, 0x53, 2};
inline constexpr Sense kIllegalTrackMode{5, 0x64, 0};
inline constexpr Sense kReset{6, 0x29, 0}, kMediumChanged{6, 0x28, 0}, kCapacityChanged{6, 0x2a, 9};
inline constexpr Sense kWriteProtected{7, 0x27, 0}, kNoSpace{7, 0x27, 7};
}  // namespace sense

inline constexpr size_t kFixedSenseBytes = 18;

// Of current errors, in the fixed format or that of descriptors.
inline Bytes encode(const Sense& sense, bool descriptors = false) {
  Bytes bytes(descriptors ? 8 : kFixedSenseBytes);
  if (descriptors) {
    put(bytes, 0, 0x72);
    put(bytes, 1, sense.key);
    put(bytes, 2, sense.code);
    put(bytes, 3, sense.qualifier);
    return bytes;
  }
  put(bytes, 0, 0x70);
  put(bytes, 2, sense.key);
  put(bytes, 7, kFixedSenseBytes - 8);
  put(bytes, 12, sense.code);
  put(bytes, 13, sense.qualifier);
  return bytes;
}

}  // namespace ostler::scsi
