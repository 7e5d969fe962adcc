// One program under several names: ostler (for people), ostler-system-x86_64 and ostler-img (QEMU's command
// lines).

#include <fmt/format.h>
#include <malloc.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <system_error>
#include <vector>

#include "base/fd.h"
#include "base/log.h"
#include "config/ostler_command_line.h"
#include "config/qemu_command_line.h"
#include "doctor/program.h"
#include "event/loop.h"
#include "img/program.h"
#include "machine/accelerator.h"
#include "machine/device_catalog.h"
#include "machine/machine.h"
#include "machine/object_help.h"
#include "machine/properties.h"
#include "memory/missing_page.h"
#include "ps/program.h"
#include "x86/cpu_model.h"

namespace {

using ostler::Result;
using ostler::config::CommandLine;

constexpr const char kVersion[] = OSTLER_VERSION;

int fail(const std::string& program, const std::string& message) {
  std::fprintf(stderr, "%s: %s\n", program.c_str(), message.c_str());
  return 1;
}

void print(const std::string& text) {
  std::fputs(text.c_str(), stdout);
}

// SIGINT, SIGTERM and SIGHUP end the guest in order: terminals are restored, files closed. Before any thread
// starts.
ostler::Fd block_ending_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return ostler::Fd(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
}

// A thread that cannot be started is the one thing that the standard library throws where nobody below looks.
Result<std::unique_ptr<ostler::machine::Machine>> create(const ostler::config::Machine& config) {
  try {
    return ostler::machine::Machine::create(config);
  } catch (const std::system_error& error) {
    return ostler::Error(
        ostler::ErrorKind::kNoResource,
        fmt::format(
            "-smp {}: this host does not let the guest's threads start ({}); raise the limit (ulimit -u; "
            "of a container: pids.max), or give the guest fewer vCPUs and disks",
            config.cpus, error.code().message()),
        error.code().value());
  }
}

Result<int> run(const ostler::config::Machine& config) {
  if (!config.log_file.empty()) TRY(ostler::log::open_file(config.log_file));
  if (!config.log_subjects.empty()) TRY(ostler::log::enable(config.log_subjects));
  std::signal(SIGPIPE, SIG_IGN);
  ostler::memory::explain_missing_pages();
  const ostler::Fd signals = block_ending_signals();
  TRY_ASSIGN(const auto machine, create(config));
  machine->loop().watch(signals.get(), EPOLLIN, [&](uint32_t) {
    signalfd_siginfo info;
    if (::read(signals.get(), &info, sizeof info) == sizeof info) machine->quit(0);
  });
  const int status = machine->run();
  machine->loop().unwatch(signals.get());
  return status;
}

Result<int> act(const CommandLine& command, bool qemu_names) {
  using Action = CommandLine::Action;
  switch (command.action) {
    case Action::kRun:
      return run(command.machine);
    case Action::kHelp:
      print(qemu_names ? ostler::config::qemu_help() : command.subject);
      return 0;
    case Action::kVersion:
      print(fmt::format("Ostler version {}\n", kVersion));
      return 0;
    case Action::kCpuHelp:
      print(ostler::x86::CpuModel::help());
      return 0;
    case Action::kMachineHelp:
      print(ostler::machine::machine_help(command.subject));
      return 0;
    case Action::kAccelHelp:
      print(ostler::machine::accelerator_help(command.subject));
      return 0;
    case Action::kDeviceHelp: {
      TRY_ASSIGN(const std::string text, ostler::machine::device_help(command.subject));
      print(text);
      return 0;
    }
    case Action::kObjectHelp:
      print(ostler::machine::object_help(command.subject));
      return 0;
    case Action::kNicHelp:
      print(ostler::machine::nic_help());
      return 0;
    case Action::kText:
      print(command.subject);
      return 0;
    case Action::kLogHelp:
      print(ostler::log::help());
      return 0;
  }
  return 0;
}

// Large buffers (a kernel on its way into guest memory) go back to the host when they are freed, and threads
// share two heaps: a guest costs little more than its own memory.
void keep_heap_small() {
  constexpr int kMapAbove = 256 * 1024, kArenas = 2;
  mallopt(M_MMAP_THRESHOLD, kMapAbove);
  mallopt(M_TRIM_THRESHOLD, kMapAbove);
  mallopt(M_ARENA_MAX, kArenas);
}

}  // namespace

int main(int argc, char** argv) {
  keep_heap_small();
  std::signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is EFBIG to us, not our end
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  std::string program = argc > 0 ? argv[0] : "ostler";
  program = program.substr(program.rfind('/') + 1);
  if (program.starts_with("ostler-img") || program == "qemu-img")
    return ostler::img::run_program({.program = program}, arguments, kVersion);
  if (program == "ostler" && !arguments.empty() && arguments[0] == "image")
    return ostler::img::run_program({.program = "ostler image", .for_people = true},
                                    std::span(arguments).subspan(1), kVersion);
  if (program == "ostler" && !arguments.empty() && arguments[0] == "doctor")
    return ostler::doctor::run_program(std::span(arguments).subspan(1));
  if (program == "ostler" && !arguments.empty() && arguments[0] == "ps")
    return ostler::ps::run_program(std::span(arguments).subspan(1));
  const bool qemu_names = program.starts_with("ostler-system") || program.starts_with("qemu-system");
  const auto command = qemu_names ? ostler::config::parse_qemu_command_line(arguments)
                                  : ostler::config::parse_ostler_command_line(arguments);
  const auto failed = [&](const ostler::Error& error) {
    return fail(program, qemu_names ? error.message() : ostler::config::in_ostler_options(error.message()));
  };
  if (!command) return failed(command.error());
  const auto status = act(*command, qemu_names);
  if (!status) return failed(status.error());
  return *status;
}
