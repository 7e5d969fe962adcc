// The command line for people: ostler run [disk] [--kernel …].
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "config/qemu_command_line.h"

namespace ostler::config {

// `arguments` without the program's name. kHelp: CommandLine::subject holds the whole text.
Result<CommandLine> parse_ostler_command_line(std::span<const std::string> arguments);

// A sentence that names options of ostler-system-x86_64 ("-m 0: …"), with the names that `ostler run` has for
// them ("--memory 0: …").
std::string in_ostler_options(std::string_view sentence);

}  // namespace ostler::config
