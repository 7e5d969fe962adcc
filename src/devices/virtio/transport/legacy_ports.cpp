#include "devices/virtio/transport/legacy_ports.h"

#include <algorithm>
#include <bit>

#include "base/bytes.h"
#include "base/log.h"
#include "devices/virtio/transport/pci.h"

namespace ostler::virtio {
namespace {

enum Port : uint64_t {
  kDeviceFeatures = 0x00,
  kDriverFeatures = 0x04,
  kQueuePage = 0x08,
  kQueueSize = 0x0c,
  kQueueSelect = 0x0e,
  kQueueNotify = 0x10,
  kStatus = 0x12,
  kIsr = 0x13,
  kHeaderEnd = 0x14,
  kConfigVector = 0x14,
  kQueueVector = 0x16,
  kVectorsEnd = 0x18,
};

// The width of the register at each offset; 0: none starts here.
unsigned port_size(uint64_t offset) {
  if (offset < kQueueSize) return offset % 4 == 0 ? 4 : 0;
  if (offset == kStatus || offset == kIsr) return 1;
  return offset % 2 == 0 ? 2 : 0;
}

// A port BAR has at most 256 ports (PCI 3.0 §6.2.5.1).
uint64_t ports_of(Device& device) {
  return std::bit_ceil(std::min<uint64_t>(kVectorsEnd + device.config_size(), 256));
}

}  // namespace

LegacyPorts::LegacyPorts(Pci& pci)
    : pci_(pci), region_(pci.device().name() + "-legacy", *this, ports_of(pci.device()), 4) {}

std::string_view LegacyPorts::name() const {
  return pci_.name();
}

uint64_t LegacyPorts::config_offset() const {
  return pci_.msix_ && pci_.msix_->enabled() ? kVectorsEnd : kHeaderEnd;
}

uint64_t LegacyPorts::io_read(uint64_t offset, unsigned size) {
  if (const uint64_t config = config_offset(); offset >= config) {
    std::array<std::byte, 8> bytes{};
    pci_.device().read_config(offset - config, std::span(bytes).first(size));
    return load_le<uint64_t>(bytes.data());
  }
  if (port_size(offset) != size) {
    log::guest_error("{}: read of {} bytes at legacy port {:#x}", pci_.name(), size, offset);
    return 0;
  }
  return read_register(offset);
}

uint32_t LegacyPorts::read_register(uint64_t offset) {
  if (offset == kIsr) return pci_.take_isr();
  const std::lock_guard lock(pci_.registers_mutex_);
  Control& control = pci_.control_;
  switch (offset) {
    case kDeviceFeatures:
      return control.legacy_features();
    case kDriverFeatures:
      return control.legacy_driver_features();
    case kQueuePage:
      return control.legacy_queue_page();
    case kQueueSize:
      return control.queue_max_size();
    case kQueueSelect:
      return control.queue_select;
    case kStatus:
      return control.status();
    case kConfigVector:
      return pci_.config_vector_.load();
    case kQueueVector:
      return control.queue() == nullptr ? VIRTIO_MSI_NO_VECTOR
                                        : pci_.queue_vectors_[control.queue_select].load();
    default:
      return 0;
  }
}

void LegacyPorts::io_write(uint64_t offset, unsigned size, uint64_t value) {
  if (const uint64_t config = config_offset(); offset >= config) {
    {
      const std::lock_guard lock(pci_.registers_mutex_);
      if (!pci_.control_.claim(Interface::kLegacy)) return;
    }
    std::array<std::byte, 8> bytes;
    store_le(bytes.data(), value);
    pci_.device().write_config(offset - config, std::span(bytes).first(size));
    return;
  }
  if (port_size(offset) != size) {
    log::guest_error("{}: write of {} bytes at legacy port {:#x}", pci_.name(), size, offset);
    return;
  }
  write_register(offset, static_cast<uint32_t>(value));
}

void LegacyPorts::write_register(uint64_t offset, uint32_t value) {
  Control& control = pci_.control_;
  if (offset == kQueueNotify) {
    if (!control.activated()) {
      const std::lock_guard lock(pci_.registers_mutex_);
      control.start_legacy(value);
    }
    pci_.device().notify(value);  // without the register lock: requests are served on this thread
    return;
  }
  const std::lock_guard lock(pci_.registers_mutex_);
  switch (offset) {
    case kQueueSelect:
      control.queue_select = static_cast<uint16_t>(value);
      return;
    case kStatus:
      if (control.write_legacy_status(static_cast<uint8_t>(value))) pci_.clear_interrupts();
      return;
    case kDriverFeatures:
      if (control.claim(Interface::kLegacy)) control.write_legacy_driver_features(value);
      return;
    case kQueuePage:
      if (control.claim(Interface::kLegacy)) control.write_legacy_queue_page(value);
      return;
    case kConfigVector:
      if (control.claim(Interface::kLegacy)) pci_.config_vector_.store(pci_.checked_vector(value));
      return;
    case kQueueVector:
      if (control.queue() != nullptr && control.claim(Interface::kLegacy))
        pci_.queue_vectors_[control.queue_select].store(pci_.checked_vector(value));
      return;
    default:
      log::guest_error("{}: write of {:#x} to legacy port {:#x}", pci_.name(), value, offset);
  }
}

}  // namespace ostler::virtio
