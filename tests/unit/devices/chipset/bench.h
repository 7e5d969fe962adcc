// A workbench for chips: time moved by hand, wires that remember, a fake vCPU, TSC and back end.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "bus/cpu_events.h"
#include "bus/irq.h"
#include "chardev/char_backend.h"
#include "devices/chipset/system_requests.h"
#include "devices/chipset/tsc_clock.h"
#include "event/loop.h"

namespace ostler::chipset {

struct Bench {
  event::VirtualClock clock;  // paused: moved by advance() alone
  event::Loop loop{clock};

  int64_t now() const { return clock.now(); }
  // Runs every timer on the way, each at its own time.
  void advance(int64_t ns) {
    const int64_t end = clock.now() + ns;
    loop.run_due();
    while (loop.next_deadline() && *loop.next_deadline() <= end) {
      if (*loop.next_deadline() > clock.now()) clock.advance(*loop.next_deadline() - clock.now());
      loop.run_due();
    }
    clock.advance(end - clock.now());
  }
};

struct FakeIrqs final : bus::IrqSink {
  uint64_t levels = 0;
  std::vector<unsigned> edges = std::vector<unsigned>(64);  // rising edges seen, by pin
  void set_irq(unsigned pin, bool level) override {
    const bool before = (levels >> pin & 1) != 0;
    if (level && !before) ++edges[pin];
    levels = level ? levels | uint64_t{1} << pin : levels & ~(uint64_t{1} << pin);
  }
  bool level(unsigned pin) const { return (levels >> pin & 1) != 0; }
};

struct FakeCpu final : bus::CpuEvents {
  std::atomic<int> interrupts = 0;  // counted by several threads in some tests
  int nmis = 0, smis = 0, inits = 0, unhalts = 0;
  std::vector<uint8_t> sipis;
  void interrupt_changed() override { ++interrupts; }
  void nmi() override { ++nmis; }
  void smi() override { ++smis; }
  void init() override { ++inits; }
  void sipi(uint8_t vector) override { sipis.push_back(vector); }
  void unhalt() override { ++unhalts; }
};

// 2 GHz, in step with the virtual clock.
struct FakeTsc final : TscClock {
  static constexpr uint64_t kHertz = 2'000'000'000;
  explicit FakeTsc(const event::VirtualClock& clock) : clock_(clock) {}
  uint64_t guest_tsc() const override { return static_cast<uint64_t>(clock_.now()) * 2 + offset; }
  uint64_t frequency() const override { return kHertz; }
  uint64_t offset = 1000;

 private:
  const event::VirtualClock& clock_;
};

struct FakeRequests final : SystemRequests {
  int resets = 0, shutdowns = 0, panics = 0;
  std::vector<int> exits;
  void request_reset(std::string_view) override { ++resets; }
  void request_shutdown(std::string_view) override { ++shutdowns; }
  void guest_panicked(std::string_view) override { ++panics; }
  void debug_exit(int code) override { exits.push_back(code); }
};

struct FakeBackend final : chardev::CharBackend {
  chardev::CharFrontend* frontend = nullptr;
  std::string output;
  size_t room = SIZE_MAX;  // bytes that write() still takes
  int accepted = 0;
  void attach(chardev::CharFrontend* to) override { frontend = to; }
  size_t write(std::span<const std::byte> bytes) override {
    const size_t taken = bytes.size() < room ? bytes.size() : room;
    for (size_t i = 0; i < taken; ++i) output += static_cast<char>(bytes[i]);
    if (room != SIZE_MAX) room -= taken;
    return taken;
  }
  void accept_input() override { ++accepted; }
  // As a back end does: no more than there is room for.
  size_t type(std::string_view text) {
    const size_t taken = text.size() < frontend->can_receive() ? text.size() : frontend->can_receive();
    frontend->receive(std::as_bytes(std::span(text.substr(0, taken))));
    return taken;
  }
};

}  // namespace ostler::chipset
