// A bus with its address spaces and recording interrupt sinks.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "devices/pci/bus.h"
#include "devices/pci/config_access.h"

namespace ostler::pci::test {

struct RecordingMsi final : bus::MsiSink {
  void send_msi(GuestPhys address, uint32_t data) override { messages.push_back({address.value, data}); }
  std::vector<std::pair<uint64_t, uint32_t>> messages;
};

struct RecordingIrq final : bus::IrqSink {
  void set_irq(unsigned pin, bool level) override {
    if (pin >= levels.size()) levels.resize(pin + 1);
    levels[pin] = level;
    ++changes;
  }
  bool level(unsigned pin) const { return pin < levels.size() && levels[pin]; }
  std::vector<bool> levels;
  int changes = 0;
};

// Answers reads with a constant and remembers the last write.
struct Probe final : bus::IoHandler {
  explicit Probe(uint64_t value) : answer(value) {}
  std::string_view name() const override { return "probe"; }
  uint64_t io_read(uint64_t offset, unsigned) override { return answer + offset; }
  void io_write(uint64_t offset, unsigned, uint64_t value) override { last_write = {offset, value}; }
  uint64_t answer;
  std::pair<uint64_t, uint64_t> last_write{~0u, 0};
};

class BusTest : public testing::Test {
 protected:
  uint64_t read(uint64_t address, unsigned size = 4) {
    return memory::AddressSpace::Reader(memory).read(GuestPhys{address}, size);
  }
  uint64_t in(uint64_t port, unsigned size = 4) {
    return memory::AddressSpace::Reader(ports).read(GuestPhys{port}, size);
  }
  memory::AddressSpace memory{"memory", memory::AddressSpace::kMemorySize};
  memory::AddressSpace ports{"ports", memory::AddressSpace::kPortSize};
  RecordingIrq pirq;
  RecordingMsi msi;
  Bus bus{{memory, memory.root()}, {ports, ports.root()}, pirq, msi};
};

}  // namespace ostler::pci::test
