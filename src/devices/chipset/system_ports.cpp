#include "devices/chipset/system_ports.h"

#include <array>

#include "base/bytes.h"
#include "devices/chipset/io_range.h"

namespace ostler::chipset {

uint64_t Port92::io_read(uint64_t offset, unsigned size) {
  return read_bytes(offset, size, [&](uint64_t port) { return port == 0 ? value_.load() : uint8_t{0xff}; });
}

void Port92::io_write(uint64_t offset, unsigned, uint64_t value) {
  if (offset != 0) return;
  const auto byte = static_cast<uint8_t>(value);
  const uint8_t before = value_.exchange(byte & (kReset | kA20));
  if ((byte & kReset) != 0 && (before & kReset) == 0) requests_.request_reset("port 0x92");
}

void Port92::state(state::Archive& archive) {
  archive.section("port-92", 1);
  uint8_t value = value_.load();
  archive.field("value", value);
  value_.store(value);
}

uint64_t ResetControl::io_read(uint64_t offset, unsigned size) {
  return read_bytes(offset, size, [&](uint64_t port) { return port == 0 ? value_.load() : uint8_t{0xff}; });
}

void ResetControl::io_write(uint64_t offset, unsigned, uint64_t value) {
  if (offset != 0) return;
  const auto byte = static_cast<uint8_t>(value);
  const uint8_t before = value_.exchange(byte & (kHard | kReset));
  if ((byte & kReset) != 0 && (before & kReset) == 0) requests_.request_reset("port 0xcf9");
}

void ResetControl::state(state::Archive& archive) {
  archive.section("reset-control", 1);
  uint8_t value = value_.load();
  archive.field("value", value);
  value_.store(value);
}

uint64_t DebugPort::io_read(uint64_t offset, unsigned size) {
  return read_bytes(offset, size, [](uint64_t port) { return port == 0 ? kMagic : uint8_t{0xff}; });
}

void DebugPort::io_write(uint64_t offset, unsigned size, uint64_t value) {
  if (offset != 0) return;
  std::array<std::byte, 8> bytes;
  store_le(bytes.data(), value);
  backend_.write(std::span(bytes).first(size));
}

uint64_t DebugExit::io_read(uint64_t, unsigned) {
  return 0;
}

void DebugExit::io_write(uint64_t, unsigned, uint64_t value) {
  requests_.debug_exit(static_cast<int>(static_cast<uint32_t>(value) << 1 | 1));
}

uint64_t PvPanic::io_read(uint64_t, unsigned) {
  return kPanicked;
}

void PvPanic::io_write(uint64_t offset, unsigned, uint64_t value) {
  if (offset == 0 && (value & kPanicked) != 0) requests_.guest_panicked("pvpanic");
}

}  // namespace ostler::chipset
