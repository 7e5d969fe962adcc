#include "base/report_command.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

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
  const std::string report = answer(json);
  if (std::fputs(report.c_str(), stdout) < 0 || std::fflush(stdout) != 0) {
    std::fprintf(stderr, "ostler: %s: the report cannot be written: %s; write it where there is room\n",
                 name.c_str(), std::strerror(errno));
    return 1;
  }
  return 0;
}

}  // namespace ostler
