#include "base/report_command.h"

#include <cstdio>

namespace ostler {

int run_report_command(const std::string& name, const char* help, std::span<const std::string> arguments,
                       const std::function<std::string(bool json)>& answer) {
  bool json = false;
  for (const std::string& each : arguments) {
    if (each == "--json") {
      json = true;
    } else if (each == "--help" || each == "-h") {
      std::fputs(help, stdout);
      return 0;
    } else {
      std::fprintf(stderr, "ostler: %s: there is no option '%s'; 'ostler %s --help' lists them\n",
                   name.c_str(), each.c_str(), name.c_str());
      return 1;
    }
  }
  std::fputs(answer(json).c_str(), stdout);
  return 0;
}

}  // namespace ostler
