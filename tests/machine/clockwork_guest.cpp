#include "machine/clockwork_guest.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <fstream>
#include <future>
#include <iterator>

#include "event/loop.h"
#include "machine/core.h"
#include "support/engine.h"

namespace ostler::machine {
namespace {

constexpr uint64_t kShared = 0x70000;

}  // namespace

ClockworkGuest::ClockworkGuest(const Clockwork& options) {
  config::Machine config;
  config.type = options.machine;
  config.accelerators = {{.name = test::engine_choice().translate ? "bt" : "interp", .properties = {}}};
  if (!options.kernel_irqchip.empty()) {
    config.accelerators = {{.name = "kvm", .properties = {}}};
    config.machine_properties.push_back({"kernel-irqchip", options.kernel_irqchip});
  }
  config.cpus = config.max_cpus = config.cores = options.cpus;
  config.memory_bytes = 16u << 20;
  config.kernel = OSTLER_CLOCKWORK;
  config.append =
      fmt::format("{}{}{}", options.cpus, options.machine == "pc" ? 'p' : 'm', options.at_step_50);
  config.chardevs = {
      {.id = "out", .backend = "file", .properties = {{"path", path_}}, .mux = false, .origin = "-serial"}};
  config.serials = {"out"};
  if (!options.gdb_socket.empty()) {
    config.chardevs.push_back(
        {.id = "gdb",
         .backend = "socket",
         .properties = {{"path", options.gdb_socket}, {"server", "on"}, {"wait", "off"}},
         .mux = false,
         .origin = "-gdb"});
    config.gdb_chardev = "gdb";
  }
  config.start_paused = options.paused;
  config.devices = options.devices;
  config.reboot = options.reboot;
  config.shutdown = false;
  auto made = Machine::create(config);
  EXPECT_TRUE(made) << (made ? "" : made.error().message());
  if (made) machine_ = *std::move(made);
}

ClockworkGuest::~ClockworkGuest() {
  if (thread_.joinable()) {
    machine_->quit(0);
    thread_.join();
  }
  machine_.reset();
}

void ClockworkGuest::start() {
  thread_ = std::thread([this] { status_ = machine_->run(); });
}

void ClockworkGuest::on_loop(const std::function<void()>& action) {
  std::promise<void> done;
  machine_->loop().post([&] {
    action();
    done.set_value();
  });
  done.get_future().wait();
}

void ClockworkGuest::pause() {
  on_loop([&] { machine_->pause(); });
  on_loop([] {});  // the character back end writes in tasks of the loop
}

void ClockworkGuest::wait_for_steps(uint32_t steps) {
  const uint32_t begin = word(kSteps);
  while (word(kSteps) - begin < steps) std::this_thread::sleep_for(std::chrono::microseconds(200));
}

int ClockworkGuest::wait_for_end() {
  thread_.join();
  return status_;
}

uint32_t ClockworkGuest::word(uint64_t offset) const {
  const auto* at =
      reinterpret_cast<const uint32_t*>(machine_->core().ram().blocks()[0]->host() + kShared + offset);
  return __atomic_load_n(at, __ATOMIC_ACQUIRE);
}

std::vector<uint8_t> ClockworkGuest::output() const {
  std::ifstream file(path_, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::vector<uint8_t> expected_output(size_t count) {
  std::vector<uint8_t> bytes;
  for (uint32_t value = 0; bytes.size() < count;) {
    value = value * 1664525 + 1013904223;
    bytes.push_back(static_cast<uint8_t>(value >> 24));
  }
  return bytes;
}

}  // namespace ostler::machine
