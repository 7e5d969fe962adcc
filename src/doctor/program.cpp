#include "doctor/program.h"

#include "base/report_command.h"
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
  return run_report_command("doctor", kHelp, arguments, [](bool json) {
    const Host host;
    const Section sections[] = {
        check_engines(host), check_memory(host),   check_limits(host, ProcessLimits::current(host)),
        check_storage(host), check_networks(host), check_sandbox(host)};
    return json ? as_json(sections) : as_text(sections);
  });
}

}  // namespace ostler::doctor
