// Boots a real kernel to the middle, saves the whole guest, resets the machine, restores the guest in the
// same process, and lets it boot on to its shell.
//
//     ostler-midboot KERNEL INITRD CONSOLE     status 0: the restored guest was ready, and told so on CONSOLE

#include <atomic>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "config/qemu_command_line.h"
#include "event/loop.h"
#include "machine/machine.h"

namespace ostler {
namespace {

using namespace std::chrono_literals;

// What the kernel says half-way, with its timers, interrupts and PCI devices found and its drivers to come.
constexpr const char* kMiddle = "PCI: Using ACPI for IRQ routing";
constexpr auto kPatience = 600s;
constexpr const char* kReady = "ostler-guest: ready";

std::string contents(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

// What went wrong, or nothing.
std::string save_reset_restore(machine::Machine& machine, const std::string& console) {
  machine.pause();
  const std::string seen = contents(console);
  if (seen.find("Linux version") == std::string::npos || seen.find(kReady) != std::string::npos)
    return "the guest was not stopped in the middle of its boot";
  const machine::Snapshot snapshot = *machine.save();
  if (auto reset = machine.reset(); !reset) return reset.error().message();
  if (auto restored = machine.restore(snapshot); !restored) return restored.error().message();
  if (machine.save()->devices != snapshot.devices)
    return "the restored devices are not those that were saved";
  machine.resume();
  return {};
}

int boot(const std::string& kernel, const std::string& initrd, const std::string& console) {
  const std::vector<std::string> arguments = {
      "-m",   "512M",    "-smp",          "2",       "-kernel",         kernel,    "-initrd",
      initrd, "-append", "console=ttyS0", "-serial", "file:" + console, "-device", "virtio-rng-pci"};
  const auto command = config::parse_qemu_command_line(arguments);
  if (!command) return std::fprintf(stderr, "%s\n", command.error().message().c_str()), 1;
  auto created = machine::Machine::create(command->machine);
  if (!created) return std::fprintf(stderr, "%s\n", created.error().message().c_str()), 1;
  machine::Machine& machine = **created;

  std::string wrong = "the guest was not ready in time";
  std::thread watcher([&] {
    const auto end = std::chrono::steady_clock::now() + kPatience;
    while (contents(console).find(kMiddle) == std::string::npos && std::chrono::steady_clock::now() < end)
      std::this_thread::sleep_for(1ms);
    std::string failure;
    std::atomic<bool> done{false};
    machine.loop().post([&] {
      failure = save_reset_restore(machine, console);
      done = true;
    });
    while (!done) std::this_thread::sleep_for(10ms);
    while (failure.empty() && contents(console).find(kReady) == std::string::npos &&
           std::chrono::steady_clock::now() < end)
      std::this_thread::sleep_for(100ms);
    if (!failure.empty())
      wrong = failure;
    else if (contents(console).find(kReady) != std::string::npos)
      wrong.clear();
    machine.quit(wrong.empty() ? 0 : 1);
  });
  const int status = machine.run();
  watcher.join();
  if (!wrong.empty()) std::fprintf(stderr, "%s\n", wrong.c_str());
  return status;
}

}  // namespace
}  // namespace ostler

int main(int argc, char** argv) {
  if (argc != 4) return std::fprintf(stderr, "usage: ostler-midboot KERNEL INITRD CONSOLE\n"), 2;
  return ostler::boot(argv[1], argv[2], argv[3]);
}
