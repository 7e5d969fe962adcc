// QEMU's command line, for what exists so far. Every option is declared once in a table that also makes
// -help.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "config/machine.h"

namespace ostler::config {

struct CommandLine {
  // What the program is to do; everything but kRun prints and ends with status 0.
  enum class Action {
    kRun,
    kHelp,
    kVersion,
    kCpuHelp,
    kMachineHelp,
    kAccelHelp,
    kDeviceHelp,
    kObjectHelp,
    kNicHelp,
    kLogHelp,
    kText
  } action = Action::kRun;
  // kDeviceHelp, kObjectHelp, kMachineHelp, kAccelHelp: of which; empty for the list. kText: what is printed.
  std::string subject;
  Machine machine;
};

// `arguments` without the program's name. Errors name the option, what was understood, and the nearest valid
// one.
Result<CommandLine> parse_qemu_command_line(std::span<const std::string> arguments);

std::string qemu_help();

}  // namespace ostler::config
