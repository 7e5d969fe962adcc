// The bytes of a function's configuration space and who may change which bit (PCI Local Bus 3.0 §6, PCI
// Express 4.0 §7.5). Knows no side effects: the function looks at what a write may have changed.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "state/archive.h"

namespace ostler::pci {

// Offsets of the type 0 header.
namespace reg {
inline constexpr uint16_t kVendorId = 0x00;
inline constexpr uint16_t kDeviceId = 0x02;
inline constexpr uint16_t kCommand = 0x04;
inline constexpr uint16_t kStatus = 0x06;
inline constexpr uint16_t kRevision = 0x08;
inline constexpr uint16_t kClass = 0x09;  // 3 bytes: interface, subclass, base
inline constexpr uint16_t kCacheLine = 0x0c;
inline constexpr uint16_t kLatencyTimer = 0x0d;
inline constexpr uint16_t kHeaderType = 0x0e;
inline constexpr uint16_t kBar0 = 0x10;
inline constexpr uint16_t kSubsystemVendorId = 0x2c;
inline constexpr uint16_t kSubsystemId = 0x2e;
inline constexpr uint16_t kRomBar = 0x30;
inline constexpr uint16_t kCapabilities = 0x34;
inline constexpr uint16_t kInterruptLine = 0x3c;
inline constexpr uint16_t kInterruptPin = 0x3d;
inline constexpr uint16_t kHeaderEnd = 0x40;
}  // namespace reg

namespace command {
inline constexpr uint16_t kIo = 1;
inline constexpr uint16_t kMemory = 2;
inline constexpr uint16_t kBusMaster = 4;
inline constexpr uint16_t kInterruptDisable = 0x400;
}  // namespace command

inline constexpr uint16_t kStatusInterrupt = 8;
inline constexpr uint16_t kStatusCapabilities = 0x10;

inline constexpr uint8_t kCapabilityMsi = 0x05;
inline constexpr uint8_t kCapabilityVendor = 0x09;
inline constexpr uint8_t kCapabilityMsix = 0x11;

class ConfigSpace {
 public:
  static constexpr uint16_t kSize = 0x1000;  // with the extended space, reached through ECAM
  static constexpr uint16_t kConventional = 0x100;

  // `size` is 1, 2 or 4, at any offset such that the access stays within kSize.
  uint32_t read(uint16_t offset, unsigned size) const;
  // The guest's write: only writable bits change; write-1-to-clear bits are cleared.
  void write(uint16_t offset, unsigned size, uint32_t value);

  // The device's own changes.
  void set8(uint16_t offset, uint8_t value) { values_[offset] = value; }
  void set16(uint16_t offset, uint16_t value);
  void set32(uint16_t offset, uint32_t value);
  uint8_t get8(uint16_t offset) const { return values_[offset]; }
  uint16_t get16(uint16_t offset) const { return static_cast<uint16_t>(read(offset, 2)); }
  uint32_t get32(uint16_t offset) const { return read(offset, 4); }

  // Bits that the guest may write.
  void allow(uint16_t offset, unsigned size, uint32_t mask);
  void clear_on_write(uint16_t offset, unsigned size, uint32_t mask);

  // Appends a capability of `body.size()` bytes after its 2-byte head and links it. The offset of its head;
  // ASSERTs that it fits: devices declare theirs at construction.
  uint16_t add_capability(uint8_t id, std::span<const uint8_t> body);

  // What a reset brings back: the values as they are now.
  void seal() { reset_values_ = values_; }
  void reset() { values_ = reset_values_; }

  // The conventional space, and of the extended space what can change.
  void state(state::Archive& archive);

 private:
  std::array<uint8_t, kSize> values_{};
  std::array<uint8_t, kSize> reset_values_{};
  std::array<uint8_t, kSize> writable_{};
  std::array<uint8_t, kSize> clear_{};
  uint16_t last_capability_ = 0;
  uint16_t next_capability_ = reg::kHeaderEnd;
};

}  // namespace ostler::pci
