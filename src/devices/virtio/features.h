// Feature and status bits that belong to no particular device (Virtio 1.2 §2.1, §6). Names as in the
// specification.
#pragma once

#include <cstdint>

namespace ostler::virtio {

constexpr uint64_t feature(unsigned bit) {
  return uint64_t{1} << bit;
}

// Of the legacy interface only (§6.3).
inline constexpr unsigned VIRTIO_F_NOTIFY_ON_EMPTY = 24;
inline constexpr unsigned VIRTIO_F_ANY_LAYOUT = 27;

inline constexpr unsigned VIRTIO_F_INDIRECT_DESC = 28;
inline constexpr unsigned VIRTIO_F_EVENT_IDX = 29;
inline constexpr unsigned VIRTIO_F_VERSION_1 = 32;
inline constexpr unsigned VIRTIO_F_ACCESS_PLATFORM = 33;
inline constexpr unsigned VIRTIO_F_RING_PACKED = 34;
inline constexpr unsigned VIRTIO_F_IN_ORDER = 35;
inline constexpr unsigned VIRTIO_F_NOTIFICATION_DATA = 38;
inline constexpr unsigned VIRTIO_F_RING_RESET = 40;

namespace status {
inline constexpr uint8_t kAcknowledge = 1;
inline constexpr uint8_t kDriver = 2;
inline constexpr uint8_t kDriverOk = 4;
inline constexpr uint8_t kFeaturesOk = 8;
inline constexpr uint8_t kNeedsReset = 64;
inline constexpr uint8_t kFailed = 128;
}  // namespace status

// Device types (§5).
inline constexpr uint16_t kTypeNet = 1;
inline constexpr uint16_t kTypeBlock = 2;
inline constexpr uint16_t kTypeConsole = 3;
inline constexpr uint16_t kTypeEntropy = 4;
inline constexpr uint16_t kTypeBalloon = 5;
inline constexpr uint16_t kTypeScsi = 8;
inline constexpr uint16_t kType9p = 9;

}  // namespace ostler::virtio
