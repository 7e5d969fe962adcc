// The inputs of the 8259 pair where two kinds of source meet: ISA interrupts, and PCI wires that the guest
// routes to the same inputs. An input is asserted while either is.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>

#include "bus/irq.h"
#include "state/archive.h"

namespace ostler::machine {

class PicInputs final : public state::Savable {
 public:
  explicit PicInputs(bus::IrqSink& pic) : pic_(pic), isa_(*this, 0), pci_(*this, 1) {}

  bus::IrqSink& isa() { return isa_; }  // pins: ISA IRQs 0..15
  bus::IrqSink& pci() { return pci_; }

  // The 8259's own saved levels agree, so nothing is driven on load.
  void state(state::Archive& archive) override {
    const std::lock_guard lock(mutex_);
    archive.section("pic inputs", 1);
    archive.field("levels", levels_);
  }

 private:
  class Side final : public bus::IrqSink {
   public:
    Side(PicInputs& owner, unsigned index) : owner_(owner), index_(index) {}
    void set_irq(unsigned pin, bool level) override { owner_.set(index_, pin, level); }

   private:
    PicInputs& owner_;
    const unsigned index_;
  };

  void set(unsigned side, unsigned pin, bool level) {
    const auto mask = static_cast<uint16_t>(1u << (pin & 15));
    const std::lock_guard lock(mutex_);
    levels_[side] = static_cast<uint16_t>(level ? levels_[side] | mask : levels_[side] & ~mask);
    pic_.set_irq(pin, ((levels_[0] | levels_[1]) & mask) != 0);
  }

  bus::IrqSink& pic_;
  std::mutex mutex_;
  std::array<uint16_t, 2> levels_{};
  Side isa_, pci_;
};

}  // namespace ostler::machine
