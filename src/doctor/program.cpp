#include "doctor/program.h"

#include <cstdio>

#include "doctor/checks.h"
#include "doctor/report.h"

namespace ostler::doctor {
namespace {

constexpr const char kHelp[] =
    "Usage: ostler doctor [--json]\n"
    "\n"
    "Tells what this host can do for guests, and what to do about each thing missing. Nothing is changed.\n"
    "\n"
    "  --json   for programs: one line of JSON\n"
    "  --help   this text\n";

}  // namespace

int run_program(std::span<const std::string> arguments) {
  bool json = false;
  for (const std::string& each : arguments) {
    if (each == "--json") {
      json = true;
    } else if (each == "--help" || each == "-h") {
      std::fputs(kHelp, stdout);
      return 0;
    } else {
      std::fprintf(stderr, "ostler: doctor: there is no option '%s'; 'ostler doctor --help' lists them\n",
                   each.c_str());
      return 1;
    }
  }
  const Host host;
  const Section sections[] = {check_engines(host), check_memory(host), check_storage(host),
                              check_networks(host), check_sandbox(host)};
  std::fputs((json ? as_json(sections) : as_text(sections)).c_str(), stdout);
  return 0;
}

}  // namespace ostler::doctor
