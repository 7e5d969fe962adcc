// Properties that every virtio device has, and those of a PCI function.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/property.h"
#include "devices/virtio/features.h"

namespace ostler::virtio {

struct DeviceOptions {
  std::string id;
  std::string bus;
  std::optional<config::PciAddress> addr;
  bool multifunction = false;
  uint16_t vectors = kVectorsAuto;  // MSI-X
  static constexpr uint16_t kVectorsAuto = 0xffff;
  bool event_idx = true;
  bool indirect_desc = true;
  config::OnOffAuto disable_legacy = config::OnOffAuto::kOn;  // there is no legacy interface to disable

  // Transport-independent features that the user does not want offered.
  uint64_t withheld_features() const {
    return (event_idx ? 0 : feature(VIRTIO_F_EVENT_IDX)) |
           (indirect_desc ? 0 : feature(VIRTIO_F_INDIRECT_DESC));
  }

  std::optional<uint16_t> vectors_wanted() const {
    return vectors == kVectorsAuto ? std::nullopt : std::optional<uint16_t>(vectors);
  }
};

// The device's own properties and those of its bus.
template <class Options>
std::vector<config::Property<Options>> with_bus_properties(std::vector<config::Property<Options>> own,
                                                           bool pci) {
  own.push_back(config::text<Options>("id", &Options::id, "the device's name"));
  own.push_back(config::text<Options>("bus", &Options::bus, "the bus to plug into"));
  own.push_back(
      config::boolean<Options>("event_idx", &Options::event_idx, "offer suppression by event index"));
  own.push_back(
      config::boolean<Options>("indirect_desc", &Options::indirect_desc, "offer indirect descriptors"));
  if (!pci) return own;
  own.push_back(
      config::on_off_auto<Options>("disable-legacy", &Options::disable_legacy,
                                   "accepted for QEMU's sake: the interface is always the modern one"));
  own.push_back(config::pci_address<Options>("addr", &Options::addr, "PCI slot and function"));
  own.push_back(
      config::boolean<Options>("multifunction", &Options::multifunction, "more functions share this slot"));
  own.push_back(config::number<Options, uint16_t>(
      "vectors", &Options::vectors, 0, 2047, "MSI-X vectors; 0 turns MSI-X off; unset: one for each queue"));
  return own;
}

}  // namespace ostler::virtio
