// Interrupt wires and messages between devices and interrupt controllers.
#pragma once

#include <cstdint>

#include "memory/address.h"

namespace ostler::bus {

// An interrupt controller's, or a router's, input pins. set_irq may be called from any thread, with the
// caller's device lock held; it never calls back into a device other than on the way to the CPU.
class IrqSink {
 public:
  virtual ~IrqSink() = default;
  virtual void set_irq(unsigned pin, bool level) = 0;
};

// A device's end of a wire. Default-constructed: connected to nothing.
class IrqLine {
 public:
  IrqLine() = default;
  IrqLine(IrqSink& sink, unsigned pin) : sink_(&sink), pin_(pin) {}

  void set(bool level) const {
    if (sink_ != nullptr) sink_->set_irq(pin_, level);
  }
  void raise() const { set(true); }
  void lower() const { set(false); }
  void pulse() const {
    set(true);
    set(false);
  }

 private:
  IrqSink* sink_ = nullptr;
  unsigned pin_ = 0;
};

// Where message-signalled interrupts go: the local APICs (SDM 3A §11.11). Any thread.
class MsiSink {
 public:
  virtual ~MsiSink() = default;
  virtual void send_msi(GuestPhys address, uint32_t data) = 0;
};

}  // namespace ostler::bus
