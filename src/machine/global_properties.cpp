#include "machine/global_properties.h"

#include <fmt/format.h>

#include <algorithm>

#include "machine/device_catalog.h"

namespace ostler::machine {
namespace {

// QEMU's devices have parents, whose properties are theirs too: virtio-pci that of all cards, and a card
// virtio-net-pci has a virtio-net-device in it.
bool names(const std::string& driver, const config::DeviceType& type) {
  constexpr std::string_view kPci = "-pci", kDevice = "-device";
  if (driver == "virtio-pci") return type.bus == "PCI";
  if (find_device_type(driver) == &type) return true;
  if (!driver.ends_with(kDevice) || !type.name.ends_with(kPci)) return false;
  return driver.substr(0, driver.size() - kDevice.size()) ==
         type.name.substr(0, type.name.size() - kPci.size());
}

bool has(const config::DeviceType& type, const std::string& property) {
  const auto all = type.properties->list();
  return std::ranges::any_of(all, [&](const auto& each) { return each.name == property; });
}

}  // namespace

Result<config::Properties> GlobalProperties::for_device(const config::DeviceType& type) const {
  config::Properties properties;
  for (const config::GlobalProperty& each : all_) {
    if (!names(each.driver, type)) continue;
    // Alone, so that the error names the option.
    if (auto parsed = type.properties->parse_any({&each.property, 1}); !parsed)
      return std::move(parsed).error().with_context(each.origin);
    properties.push_back(each.property);
  }
  return properties;
}

std::vector<std::string> GlobalProperties::unknown() const {
  const auto types = device_types();
  std::vector<std::string> warnings;
  for (const config::GlobalProperty& each : all_) {
    bool driver = false, property = false;
    for (const config::DeviceType& listed : types) {
      const config::DeviceType* const type = find_device_type(listed.name);
      if (!names(each.driver, *type)) continue;
      driver = true;
      property = property || has(*type, each.property.key);
    }
    if (!driver)
      warnings.push_back(fmt::format("{}: there is no device '{}'{}; it changes nothing, leave it out",
                                     each.origin, each.driver, device_type_suggestion(each.driver)));
    else if (!property)
      warnings.push_back(fmt::format("{}: {} has no property '{}'; it changes nothing, leave it out",
                                     each.origin, each.driver, each.property.key));
  }
  return warnings;
}

}  // namespace ostler::machine
