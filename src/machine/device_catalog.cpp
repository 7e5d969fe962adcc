#include "machine/device_catalog.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/suggest.h"
#include "devices/ide/options.h"
#include "devices/scsi/options.h"
#include "devices/virtio/device_types.h"
#include "machine/isa_devices.h"

namespace ostler::machine {

std::vector<config::DeviceType> device_types() {
  std::vector<config::DeviceType> all;
  for (const auto& type : virtio::device_types()) all.push_back(type);
  for (const auto& type : ide::device_types()) all.push_back(type);
  for (const auto& type : scsi::device_types()) all.push_back(type);
  for (const auto& type : isa_device_types()) all.push_back(type);
  return all;
}

const config::DeviceType* find_device_type(const std::string& name) {
  static const std::vector<config::DeviceType> all = device_types();
  const auto found = std::find_if(all.begin(), all.end(), [&](const config::DeviceType& type) {
    return type.name == name ||
           std::find(type.aliases.begin(), type.aliases.end(), name) != type.aliases.end();
  });
  return found == all.end() ? nullptr : &*found;
}

namespace {

// Devices of QEMU that are not here and whose names are near to those of others, or whose users need one word
// to have another.
struct Absent {
  std::string_view beginning, cure;
};
constexpr std::string_view kCard = "the network card here is virtio-net-pci (model=virtio)";
constexpr std::string_view kDisk = "there are virtio-blk-pci, scsi-hd on virtio-scsi-pci, and ide-hd";
constexpr std::string_view kNothing = "nothing here does its work";
constexpr Absent kAbsent[] = {
    {"e1000", kCard},
    {"rtl8139", kCard},
    {"ne2k_", kCard},
    {"pcnet", kCard},
    {"vmxnet3", kCard},
    {"i825", kCard},
    {"igb", kCard},
    {"nvme", kDisk},
    {"ahci", kDisk},
    {"ich9-ahci", kDisk},
    {"lsi", kDisk},
    {"megasas", kDisk},
    {"mptsas", kDisk},
    {"pvscsi", kDisk},
    {"usb-storage", kDisk},
    {"vhost-scsi", kDisk},
    {"vhost-user-scsi", kDisk},
    {"virtio-gpu", kNothing},
    {"virtio-vga", kNothing},
    {"virtio-mem", kNothing},
    {"virtio-pmem", kNothing},
    {"virtio-iommu", kNothing},
    {"virtio-crypto", kNothing},
    {"virtio-input", kNothing},
    {"virtio-keyboard", kNothing},
    {"virtio-mouse", kNothing},
    {"virtio-tablet", kNothing},
    {"vhost-vsock", "virtio-vsock-pci,guest-cid=N,uds-path=PATH needs no kernel module"},
    {"vhost-user-vsock", "virtio-vsock-pci,guest-cid=N,uds-path=PATH needs no other process"},
};

}  // namespace

std::string device_type_suggestion(const std::string& name) {
  for (const Absent& each : kAbsent)
    if (name.starts_with(each.beginning)) return fmt::format("; {}", each.cure);
  const auto all = device_types();
  std::vector<std::string_view> names;
  for (const auto& type : all) names.push_back(type.name);
  return suggestion(name, names);
}

Result<std::string> device_help(const std::string& type) {
  if (!type.empty()) {
    const auto* found = find_device_type(type);
    if (found == nullptr)
      return Error(ErrorKind::kNotFound,
                   fmt::format("-device {}: there is no such device{}; -device help lists them all", type,
                               device_type_suggestion(type)));
    return found->properties->help();
  }
  std::string text;
  for (const auto& each : device_types()) {
    text += fmt::format("name \"{}\", bus {}", each.name, each.bus);
    for (const auto& alias : each.aliases) text += fmt::format(", alias \"{}\"", alias);
    text += fmt::format(", desc \"{}\"\n", each.help);
  }
  return text;
}

std::string nic_help() {
  std::string text = "Network cards (-nic KIND,model=NAME):\n";
  for (const auto& each : device_types())
    if (each.name.starts_with("virtio-net-")) text += fmt::format("  {}\n", each.name);
  return text;
}

}  // namespace ostler::machine
