#include "devices/pci/config_access.h"

#include "base/bytes.h"

namespace ostler::pci {
namespace {

constexpr uint32_t kEnable = 0x80000000;

}  // namespace

void ConfigPorts::reset() {
  const std::lock_guard lock(mutex_);
  address_ = 0;
}

bool ConfigPorts::target(uint64_t offset, uint8_t& devfn, uint16_t& at) {
  const std::lock_guard lock(mutex_);
  if ((address_ & kEnable) == 0 || bits(address_, 16, 8) != 0) return false;
  devfn = static_cast<uint8_t>(address_ >> 8);
  at = static_cast<uint16_t>((address_ & 0xfc) + (offset - 4));
  return true;
}

uint64_t ConfigPorts::io_read(uint64_t offset, unsigned size) {
  if (offset >= 4) {
    uint8_t devfn = 0;
    uint16_t at = 0;
    // Accesses that cross a dword do not exist on the bus.
    if (size > 4 || offset - 4 + size > 4 || !target(offset, devfn, at)) return size_mask(size);
    return bus_.config_read(devfn, at, size);
  }
  if (offset == 1 && size == 1 && reset_control_ != nullptr) return reset_control_->io_read(0, 1);
  if (offset != 0 || size != 4) return size_mask(size);  // only a dword reaches the latch
  const std::lock_guard lock(mutex_);
  return address_;
}

void ConfigPorts::io_write(uint64_t offset, unsigned size, uint64_t value) {
  if (offset >= 4) {
    uint8_t devfn = 0;
    uint16_t at = 0;
    if (size > 4 || offset - 4 + size > 4 || !target(offset, devfn, at)) return;
    bus_.config_write(devfn, at, size, static_cast<uint32_t>(value));
    return;
  }
  if (offset == 1 && size == 1 && reset_control_ != nullptr) return reset_control_->io_write(0, 1, value);
  if (offset != 0 || size != 4) return;
  const std::lock_guard lock(mutex_);
  address_ = static_cast<uint32_t>(value) & 0x80fffffc;
}

void ConfigPorts::state(state::Archive& archive) {
  const std::lock_guard lock(mutex_);
  archive.section("pci-config-ports", 1);
  archive.field("address", address_);
}

uint64_t Ecam::io_read(uint64_t offset, unsigned size) {
  if (offset >= kBytesPerBus || size > 4 || offset % size != 0) return size_mask(size);
  return bus_.config_read(static_cast<uint8_t>(offset >> 12), static_cast<uint16_t>(offset & 0xfff), size);
}

void Ecam::io_write(uint64_t offset, unsigned size, uint64_t value) {
  if (offset >= kBytesPerBus || size > 4 || offset % size != 0) return;
  bus_.config_write(static_cast<uint8_t>(offset >> 12), static_cast<uint16_t>(offset & 0xfff), size,
                    static_cast<uint32_t>(value));
}

}  // namespace ostler::pci
