// Single ports by which a guest ends, resets or reports: fast A20 and reset (0x92), reset control (0xcf9),
// debug console (0x402, 0xe9), isa-debug-exit, pvpanic. Any thread.
#pragma once

#include <atomic>
#include <cstdint>

#include "bus/io_handler.h"
#include "chardev/char_backend.h"
#include "devices/chipset/system_requests.h"
#include "state/archive.h"

namespace ostler::chipset {

// System control port A, 0x92 (82371AB §4.2.5): bit 0 resets on its rising edge, bit 1 is A20, which is
// always on.
class Port92 final : public bus::IoHandler, public state::Savable {
 public:
  explicit Port92(SystemRequests& requests) : requests_(requests) {}
  void reset() { value_ = kA20; }
  std::string_view name() const override { return "port-92"; }
  uint64_t io_read(uint64_t offset, unsigned size) override;
  void io_write(uint64_t offset, unsigned size, uint64_t value) override;
  void state(state::Archive& archive) override;

 private:
  static constexpr uint8_t kReset = 1, kA20 = 2;
  SystemRequests& requests_;
  std::atomic<uint8_t> value_{kA20};
};

// Reset control, 0xcf9 (82371AB §4.1.6): a rising bit 2 resets, hard or soft by bit 1. One byte; the port
// lies within the PCI configuration address register, which takes wider accesses.
class ResetControl final : public bus::IoHandler, public state::Savable {
 public:
  explicit ResetControl(SystemRequests& requests) : requests_(requests) {}
  void reset() { value_ = 0; }
  std::string_view name() const override { return "reset-control"; }
  uint64_t io_read(uint64_t offset, unsigned size) override;
  void io_write(uint64_t offset, unsigned size, uint64_t value) override;
  void state(state::Archive& archive) override;

 private:
  static constexpr uint8_t kHard = 2, kReset = 4;
  SystemRequests& requests_;
  std::atomic<uint8_t> value_{0};
};

// Text for a character back end. Reads give 0xe9, by which guests recognise it. What the back end has no room
// for is lost: a debug port has no flow control.
class DebugPort final : public bus::IoHandler {
 public:
  explicit DebugPort(chardev::CharBackend& backend) : backend_(backend) {}
  std::string_view name() const override { return "debug-port"; }
  uint64_t io_read(uint64_t offset, unsigned size) override;
  void io_write(uint64_t offset, unsigned size, uint64_t value) override;

 private:
  static constexpr uint8_t kMagic = 0xe9;
  chardev::CharBackend& backend_;
};

// A write of v asks the process to exit with (v << 1) | 1. The machine gives it its base and size.
class DebugExit final : public bus::IoHandler {
 public:
  explicit DebugExit(SystemRequests& requests) : requests_(requests) {}
  std::string_view name() const override { return "isa-debug-exit"; }
  uint64_t io_read(uint64_t offset, unsigned size) override;
  void io_write(uint64_t offset, unsigned size, uint64_t value) override;

 private:
  SystemRequests& requests_;
};

// Port 0x505 as Linux's pvpanic driver knows it: reads give the events that are understood, bit 0 written is
// a panic.
class PvPanic final : public bus::IoHandler {
 public:
  explicit PvPanic(SystemRequests& requests) : requests_(requests) {}
  std::string_view name() const override { return "pvpanic"; }
  uint64_t io_read(uint64_t offset, unsigned size) override;
  void io_write(uint64_t offset, unsigned size, uint64_t value) override;

 private:
  static constexpr uint8_t kPanicked = 1;
  SystemRequests& requests_;
};

}  // namespace ostler::chipset
