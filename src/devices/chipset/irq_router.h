// The interrupt wiring of a PC: which pins of the 8259 pair and of the I/O APIC a line reaches, and lines
// that several devices share.
#pragma once

#include <cstdint>
#include <mutex>

#include "bus/irq.h"
#include "state/archive.h"

namespace ostler::chipset {

// Sink pins are global system interrupts: 0..15 the ISA IRQs, which reach both controllers (IRQ 0 is pin 2 of
// the I/O APIC, as the MADT's override says), 16..23 the I/O APIC alone. One source for each pin: see
// WiredOr. Any thread.
class IrqRouter final : public bus::IrqSink {
 public:
  // `pic` may be null: a machine without 8259.
  IrqRouter(bus::IrqSink* pic, bus::IrqSink& io_apic) : pic_(pic), io_apic_(io_apic) {}

  void set_irq(unsigned pin, bool level) override {
    if (pin < 16 && pic_ != nullptr) pic_->set_irq(pin, level);
    if (pin != 2) io_apic_.set_irq(pin == 0 ? 2 : pin, level);
  }
  bus::IrqLine line(unsigned pin) { return bus::IrqLine(*this, pin); }

 private:
  bus::IrqSink* const pic_;
  bus::IrqSink& io_apic_;
};

// Up to 64 sources on one line, by pin: asserted while any of them is. Any thread.
class WiredOr final : public bus::IrqSink, public state::Savable {
 public:
  explicit WiredOr(bus::IrqLine output) : output_(output) {}

  void set_irq(unsigned pin, bool level) override {
    const uint64_t mask = uint64_t{1} << (pin & 63);
    const std::lock_guard lock(mutex_);
    const uint64_t before = inputs_;
    inputs_ = level ? inputs_ | mask : inputs_ & ~mask;
    if ((before != 0) != (inputs_ != 0)) output_.set(inputs_ != 0);
  }
  bus::IrqLine line(unsigned source) { return bus::IrqLine(*this, source); }

  // The controller's own saved level agrees, so nothing is driven on load.
  void state(state::Archive& archive) override {
    const std::lock_guard lock(mutex_);
    archive.section("wired-or", 1);
    archive.field("inputs", inputs_);
  }

 private:
  const bus::IrqLine output_;
  std::mutex mutex_;
  uint64_t inputs_ = 0;
};

}  // namespace ostler::chipset
