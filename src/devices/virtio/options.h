// Properties that every virtio device has, and those of a PCI function.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
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
  bool packed = false;
  bool in_order = false;
  bool queue_reset = true;
  bool notification_data = false;
  bool iommu_platform = false;
  bool ioeventfd = true;
  bool irqfd = false;
  config::OnOffAuto disable_legacy = config::OnOffAuto::kAuto;  // auto: off
  bool disable_modern = false;

  // Transport-independent features that the user does not want offered.
  uint64_t withheld_features() const {
    const auto unless = [](bool wanted, unsigned bit) { return wanted ? 0 : feature(bit); };
    return unless(event_idx, VIRTIO_F_EVENT_IDX) | unless(indirect_desc, VIRTIO_F_INDIRECT_DESC) |
           unless(packed, VIRTIO_F_RING_PACKED) | unless(in_order, VIRTIO_F_IN_ORDER) |
           unless(queue_reset, VIRTIO_F_RING_RESET) | unless(notification_data, VIRTIO_F_NOTIFICATION_DATA) |
           unless(iommu_platform, VIRTIO_F_ACCESS_PLATFORM);
  }

  std::optional<uint16_t> vectors_wanted() const {
    return vectors == kVectorsAuto ? std::nullopt : std::optional<uint16_t>(vectors);
  }
};

// How many request queues a device has: a number, or "auto" (none), which QEMU also spells `qemus_auto`.
template <class Options>
config::Property<Options> queues_or_auto(std::string name, std::optional<uint16_t> Options::*member,
                                         uint16_t most, uint32_t qemus_auto) {
  return {
      {std::move(name), "uint16|auto", "request queues; auto: one for each vCPU of a PCI device, else one"},
      [=](Options& options, std::string_view text) -> Result<void> {
        options.*member = std::nullopt;
        if (text == "auto" || text == std::to_string(qemus_auto)) return {};
        TRY_ASSIGN(const uint64_t value, config::parse_number_between(text, 1, most));
        options.*member = static_cast<uint16_t>(value);
        return {};
      },
      [member](const Options& options) {
        return options.*member ? std::to_string(*(options.*member)) : std::string("auto");
      }};
}

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
  own.push_back(config::boolean<Options>("packed", &Options::packed, "offer packed rings"));
  own.push_back(config::boolean<Options>("in_order", &Options::in_order,
                                         "offer to use buffers in the order in which they come"));
  own.push_back(
      config::boolean<Options>("queue_reset", &Options::queue_reset, "let the guest reset single queues"));
  own.push_back(config::boolean<Options>("notification_data", &Options::notification_data,
                                         "offer notifications that tell the ring's index"));
  own.push_back(config::boolean<Options>("iommu_platform", &Options::iommu_platform,
                                         "let the guest's IOMMU layer choose the device's addresses"));
  own.push_back(config::boolean<Options>(
      "ioeventfd", &Options::ioeventfd,
      "with -accel kvm: the guest's notifications wake the main loop, and do not stop the vCPU"));
  if (!pci) return own;
  own.push_back(config::boolean<Options>("irqfd", &Options::irqfd,
                                         "with -accel kvm: interrupts of a device in another process "
                                         "(vhost-user) go by the host's kernel alone"));
  own.push_back(config::on_off_auto<Options>("disable-legacy", &Options::disable_legacy,
                                             "leave the interface of virtio 0.9.5 out; auto: off"));
  own.push_back(config::boolean<Options>("disable-modern", &Options::disable_modern,
                                         "leave the interface of virtio 1.0 and later out"));
  own.push_back(config::pci_address<Options>("addr", &Options::addr, "PCI slot and function"));
  own.push_back(
      config::boolean<Options>("multifunction", &Options::multifunction, "more functions share this slot"));
  // What scripts and management programs write beside it for QEMU's sake.
  const auto settled = config::settled<Options>;
  own.push_back(settled("romfile", {""}, "no firmware here runs option ROMs; say romfile= or leave it out",
                        "file of the option ROM: none"));
  own.push_back(settled("rombar", {"0", "1", "off", "on"}, "leave it out", "no card has an option ROM"));
  own.push_back(
      settled("ats", {"off", "false"}, "there is no IOMMU; leave it out", "address translation services"));
  own.push_back(settled("aer", {"off", "false"}, "leave it out", "advanced error reporting"));
  own.push_back(settled("page-per-vq", {"off", "false"}, "leave it out: all queues are notified in one page",
                        "a page of notifications for each queue"));
  own.push_back(settled("acpi-index", {"0"},
                        "leave it out, and name the guest's interfaces by their PCI slots",
                        "number of an on-board device"));
  own.push_back(config::number<Options, uint16_t>(
      "vectors", &Options::vectors, 0, 2047, "MSI-X vectors; 0 turns MSI-X off; unset: one for each queue"));
  return own;
}

}  // namespace ostler::virtio
