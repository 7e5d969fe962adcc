// The command line for people: ostler run [disk] [--kernel …].
#pragma once

#include <span>
#include <string>

#include "base/result.h"
#include "config/qemu_command_line.h"

namespace ostler::config {

// `arguments` without the program's name. kHelp: CommandLine::subject holds the whole text.
Result<CommandLine> parse_ostler_command_line(std::span<const std::string> arguments);

}  // namespace ostler::config
