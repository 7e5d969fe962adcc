// Which register sets a virtio PCI function has, and what it calls itself accordingly (Virtio 1.2 §4.1.2).
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/result.h"
#include "devices/pci/function.h"
#include "devices/virtio/options.h"

namespace ostler::virtio {

inline constexpr uint16_t VIRTIO_MSI_NO_VECTOR = 0xffff;

enum class PciInterfaces : uint8_t { kModern, kTransitional, kLegacy };

// The device ID of a type that virtio 0.9.5 knew; none: later types have no legacy interface.
std::optional<uint16_t> transitional_device_id(uint16_t type);

// What a `-device` of this name with these options gets: transitional where the type allows it, unless name
// or options say otherwise. Errors (kInvalidArgument, kUnsupported), one sentence: the name and the options
// contradict each other, no interface is left, the type has no legacy interface.
Result<PciInterfaces> pci_interfaces(const std::string& name, uint16_t type, const DeviceOptions& options);

pci::Identity pci_identity(uint16_t type, PciInterfaces interfaces);

}  // namespace ostler::virtio
