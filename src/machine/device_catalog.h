// Every type that -device knows: its properties (declared by the device itself) and how it is made.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "config/property.h"

namespace ostler::machine {

std::vector<config::DeviceType> device_types();

// By name or alias; null when there is none.
const config::DeviceType* find_device_type(const std::string& name);

// "; did you mean 'x'?" or "".
std::string device_type_suggestion(const std::string& name);

// -device help; -device TYPE,help. kNotFound names the nearest type.
Result<std::string> device_help(const std::string& type);

// -nic user,model=help: the network cards among them.
std::string nic_help();

}  // namespace ostler::machine
