// Commands that answer one question: `ostler ps`, `ostler doctor`.
#pragma once

#include <functional>
#include <span>
#include <string>

namespace ostler {

// Writes what `answer` gives to standard output: text, or with --json one line for programs; `help` with
// --help. The exit status: 1 after an unknown option, with a sentence that begins with `name`.
int run_report_command(const std::string& name, const char* help, std::span<const std::string> arguments,
                       const std::function<std::string(bool json)>& answer);

}  // namespace ostler
