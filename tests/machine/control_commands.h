// The operations of a running machine by name, as lines of JSON ask for them.
#pragma once

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "base/result.h"
#include "machine/machine.h"

namespace ostler::test {

using Command = std::function<Result<nlohmann::json>(const nlohmann::json& arguments)>;
std::map<std::string, Command> commands_of(machine::Machine& machine);

}  // namespace ostler::test
