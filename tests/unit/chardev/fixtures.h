#pragma once

#include <functional>
#include <string>

#include "chardev/char_backend.h"
#include "event/loop.h"

namespace ostler::chardev {

// A device that takes `room` bytes and remembers them.
struct FakeFrontend final : CharFrontend {
  std::string input;
  size_t room = SIZE_MAX;
  int opened = 0, closed = 0, breaks = 0, writables = 0;
  std::function<void()> changed = [] {};

  size_t can_receive() override { return room; }
  void receive(std::span<const std::byte> bytes) override {
    for (const std::byte byte : bytes) input += static_cast<char>(byte);
    if (room != SIZE_MAX) room -= bytes.size();
    changed();
  }
  void event(CharEvent event) override {
    if (event == CharEvent::kOpened) ++opened;
    if (event == CharEvent::kClosed) ++closed;
    if (event == CharEvent::kBreak) ++breaks;
    changed();
  }
  void writable() override {
    ++writables;
    changed();
  }
};

inline std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

// Runs `loop` until `done`, which is looked at after every event; at most 10 s of host time.
inline bool run_until(event::Loop& loop, const std::function<bool()>& done) {
  const int64_t end = event::host_monotonic_ns() + int64_t{10} * 1'000'000'000;
  while (event::host_monotonic_ns() < end) {
    if (done()) return true;
    loop.post([&] { loop.stop(); });
    loop.run();
  }
  return false;
}

}  // namespace ostler::chardev
