#include "ps/program.h"

#include <cstdio>

#include "ps/guests.h"

namespace ostler::ps {
namespace {

constexpr const char kHelp[] =
    "Usage: ostler ps [--json]\n"
    "\n"
    "Lists the guests that run on this host: their memory, what of it is taken from the host, what the "
    "program\n"
    "itself needs, and what the host has merged with equal pages (KSM).\n"
    "\n"
    "  --json   for programs: one line of JSON, sizes in bytes\n"
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
      std::fprintf(stderr, "ostler: ps: there is no option '%s'; 'ostler ps --help' lists them\n",
                   each.c_str());
      return 1;
    }
  }
  const auto guests = list_guests("/proc");
  std::fputs((json ? as_json(guests) : as_text(guests)).c_str(), stdout);
  return 0;
}

}  // namespace ostler::ps
