// -global: properties of all devices of a type.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "config/machine.h"
#include "config/property.h"

namespace ostler::machine {

class GlobalProperties {
 public:
  GlobalProperties() = default;
  explicit GlobalProperties(std::vector<config::GlobalProperty> all) : all_(std::move(all)) {}

  // What a device of `type` has before its own properties. Error: it has no such property, or no such value.
  Result<config::Properties> for_device(const config::DeviceType& type) const;
  // A warning for each whose type or property nothing here has; it changes nothing, as with QEMU.
  std::vector<std::string> unknown() const;

 private:
  std::vector<config::GlobalProperty> all_;
};

}  // namespace ostler::machine
