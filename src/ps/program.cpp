#include "ps/program.h"

#include "base/report_command.h"
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
  return run_report_command("ps", kHelp, arguments, [](bool json) {
    const auto guests = list_guests("/proc");
    return json ? as_json(guests) : as_text(guests);
  });
}

}  // namespace ostler::ps
