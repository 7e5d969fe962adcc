// The I/O APIC: 24 interrupt inputs to messages for local APICs (Intel 82093AA datasheet, 290566-001; version
// 0x20 with the EOI register of the ICH, 252516 §5.8). Any thread; one mutex.
//
// Inputs carry "asserted" whatever the polarity bit says: a device model has no inverted wires.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>

#include "bus/io_handler.h"
#include "bus/irq.h"
#include "devices/chipset/apic_bus.h"
#include "state/archive.h"

namespace ostler::chipset {

class IoApic final : public bus::IoHandler, public bus::IrqSink, public EoiSink, public state::Savable {
 public:
  static constexpr uint64_t kBase = 0xfec00000;
  static constexpr uint64_t kSize = 0x1000;
  static constexpr unsigned kPins = 24;

  IoApic(ApicBus& bus, uint8_t id);
  void reset();

  void set_irq(unsigned pin, bool level) override;
  void end_of_interrupt(uint8_t vector) override;

  std::string_view name() const override { return "io-apic"; }
  uint64_t io_read(uint64_t offset, unsigned size) override;
  void io_write(uint64_t offset, unsigned size, uint64_t value) override;
  void state(state::Archive& archive) override;

  uint64_t entry(unsigned pin) const;  // a redirection entry, for `info`

  // An I/O APIC that the host's kernel has while vCPUs run takes the wires; this one keeps its state.
  void set_kernel(bus::IrqSink& kernel) { kernel_ = &kernel; }  // construction time
  struct Image {
    uint8_t select = 0, id = 0;
    uint32_t asserted = 0;  // by pin
    std::array<uint64_t, kPins> entries{};
    friend bool operator==(const Image&, const Image&) = default;
  };
  Image image() const;
  void set_image(const Image& image);

 private:
  uint32_t read_indexed_locked() const;
  void write_indexed_locked(uint32_t value);
  void service_locked(unsigned pin);
  void end_of_interrupt_locked(uint8_t vector);
  void tell_route_locked(unsigned pin) const;

  ApicBus& bus_;
  bus::IrqSink* kernel_ = nullptr;
  const uint8_t reset_id_;
  mutable std::mutex mutex_;
  uint8_t select_ = 0, id_ = 0;
  uint32_t asserted_ = 0;  // by pin
  std::array<uint64_t, kPins> entries_{};
};

}  // namespace ostler::chipset
