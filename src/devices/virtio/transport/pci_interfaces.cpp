#include "devices/virtio/transport/pci_interfaces.h"

#include <fmt/format.h>

namespace ostler::virtio {
namespace {

constexpr uint16_t kVendor = 0x1af4;
constexpr uint16_t kFirstModern = 0x1040;
constexpr uint16_t kModernSubsystem = 0x1100;
constexpr uint16_t kTypeFileSystem = 26;

uint32_t class_of(uint16_t type) {
  switch (type) {
    case kTypeNet:
      return 0x020000;
    case kTypeBlock:
    case kTypeScsi:
      return 0x010000;
    case kTypeConsole:
      return 0x078000;
    case kTypeFileSystem:
      return 0x018000;
    default:
      return 0x00ff00;
  }
}

}  // namespace

std::optional<uint16_t> transitional_device_id(uint16_t type) {
  switch (type) {
    case kTypeNet:
      return uint16_t{0x1000};
    case kTypeBlock:
      return uint16_t{0x1001};
    case kTypeBalloon:
      return uint16_t{0x1002};
    case kTypeConsole:
      return uint16_t{0x1003};
    case kTypeScsi:
      return uint16_t{0x1004};
    case kTypeEntropy:
      return uint16_t{0x1005};
    case kType9p:
      return uint16_t{0x1009};
    default:
      return std::nullopt;
  }
}

Result<PciInterfaces> pci_interfaces(const std::string& name, uint16_t type, const DeviceOptions& options) {
  using config::OnOffAuto;
  const auto refuse = [&](ErrorKind kind, std::string_view why) {
    return Error(kind, fmt::format("{}: {}", name, why));
  };
  const bool told = options.disable_legacy != OnOffAuto::kAuto || options.disable_modern;
  const bool modern_name = name.ends_with("-non-transitional");
  const bool transitional_name = !modern_name && name.ends_with("-transitional");
  if (told && (modern_name || transitional_name))
    return refuse(ErrorKind::kInvalidArgument,
                  "its name says which interfaces it has; leave disable-legacy and disable-modern out");
  if (modern_name) return PciInterfaces::kModern;
  if (!transitional_device_id(type)) {
    if (options.disable_legacy == OnOffAuto::kOff || options.disable_modern)
      return refuse(ErrorKind::kUnsupported,
                    "such a device has no legacy interface; leave disable-legacy and disable-modern out");
    return PciInterfaces::kModern;
  }
  if (options.disable_legacy != OnOffAuto::kOn) {
    // A legacy driver sees 32 feature bits, and VIRTIO_F_ACCESS_PLATFORM is bit 33 (§6).
    if (options.disable_modern && options.iommu_platform)
      return refuse(
          ErrorKind::kInvalidArgument,
          "iommu_platform=on is for drivers of the modern interface; leave disable-modern=on or it out");
    return options.disable_modern ? PciInterfaces::kLegacy : PciInterfaces::kTransitional;
  }
  if (options.disable_modern)
    return refuse(ErrorKind::kInvalidArgument,
                  "no interface is left; turn disable-legacy or disable-modern off");
  return PciInterfaces::kModern;
}

// §4.1.2.1, §4.1.2.3: where there is a legacy interface the subsystem tells the type and the revision is 0.
pci::Identity pci_identity(uint16_t type, PciInterfaces interfaces) {
  pci::Identity id;
  id.vendor = id.subsystem_vendor = kVendor;
  id.class_code = class_of(type);
  id.interrupt_pin = 1;
  if (interfaces == PciInterfaces::kModern) {
    id.device = static_cast<uint16_t>(kFirstModern + type);
    id.revision = 1;
    id.subsystem = kModernSubsystem;
  } else {
    id.device = transitional_device_id(type).value_or(0);
    id.subsystem = type;
  }
  return id;
}

}  // namespace ostler::virtio
