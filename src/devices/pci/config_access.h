// The two ways to configuration space: mechanism 1 (ports 0xcf8-0xcff, PCI 3.0 §3.2.2.3.2) and ECAM (a memory
// range, PCI Express 4.0 §7.2.2). Both serve bus 0.
#pragma once

#include <cstdint>
#include <mutex>

#include "bus/io_handler.h"
#include "devices/pci/bus.h"
#include "state/archive.h"

namespace ostler::pci {

// Eight ports: a dword write to offset 0 latches an address, offsets 4..7 access the dword it names. Byte
// accesses to offset 1 (port 0xcf9) belong to the reset control register, which lives inside this range.
class ConfigPorts final : public bus::IoHandler, public state::Savable {
 public:
  static constexpr uint64_t kFirstPort = 0xcf8;
  static constexpr uint64_t kPorts = 8;

  // `reset_control` may be null; it gets offset 0.
  explicit ConfigPorts(Bus& bus, bus::IoHandler* reset_control = nullptr)
      : bus_(bus), reset_control_(reset_control) {}

  void reset();
  std::string_view name() const override { return "pci-config-ports"; }
  uint64_t io_read(uint64_t offset, unsigned size) override;
  void io_write(uint64_t offset, unsigned size, uint64_t value) override;
  void state(state::Archive& archive) override;

 private:
  // The function and register that the latched address names; false: none on this bus.
  bool target(uint64_t offset, uint8_t& devfn, uint16_t& at);

  Bus& bus_;
  bus::IoHandler* const reset_control_;
  std::mutex mutex_;
  uint32_t address_ = 0;
};

// Offset = bus << 20 | devfn << 12 | register.
class Ecam final : public bus::IoHandler {
 public:
  static constexpr uint64_t kBytesPerBus = uint64_t{1} << 20;

  explicit Ecam(Bus& bus) : bus_(bus) {}
  std::string_view name() const override { return "pci-ecam"; }
  uint64_t io_read(uint64_t offset, unsigned size) override;
  void io_write(uint64_t offset, unsigned size, uint64_t value) override;

 private:
  Bus& bus_;
};

}  // namespace ostler::pci
