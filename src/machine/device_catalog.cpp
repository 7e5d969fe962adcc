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

std::string device_type_suggestion(const std::string& name) {
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
