// The interrupt controllers that KVM keeps in the kernel (Documentation/virt/kvm/api.rst): the local APICs,
// and with Mode::kOn the 8259 pair and the I/O APIC too. Interrupts get in as messages and as levels of pins.
// Any thread, except what is said to be for construction time.
//
// Global system interrupts: with kSplit, 0 to 23 are the pins of our I/O APIC, which the kernel knows so that
// it reports the end of their interrupts (KVM_EXIT_IOAPIC_EOI). With kOn, 0 to 15 are the pins of the 8259
// pair and 16 to 39 those of the I/O APIC; with a PIT in the kernel, 0 is both chips' pin for IRQ 0. From
// IrqRoutes::kFirstFree on they are messages of eventfds.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <memory>

#include "accel/kvm/irq_routes.h"
#include "base/result.h"
#include "bus/irq.h"
#include "bus/kernel_apics.h"

namespace ostler::accel::kvm {

class Irqchip final : public bus::KernelApics {
 public:
  enum class Mode : uint8_t { kSplit, kOn };
  static constexpr unsigned kPins = 24, kPicPins = 16;

  // Of the VM `fd`, before it has vCPUs. Errors: KVM lacks it.
  static Result<std::unique_ptr<Irqchip>> create(int fd, Mode mode);

  Mode mode() const { return mode_; }
  // With kOn: pins of the kernel's chips.
  bus::IrqSink& pic() { return pic_; }
  bus::IrqSink& io_apic() { return io_apic_; }
  // The eventfd's signals raise a pin of the kernel's I/O APIC (kOn): see IrqRoutes::attach_level().
  Result<void> attach_io_apic_pin(unsigned pin, int fd, int resample) {
    return routes_.attach_level(kPicPins + pin, fd, resample);
  }
  void detach_io_apic_pin(unsigned pin, int fd) { routes_.detach_level(kPicPins + pin, fd); }
  bus::MessageFds& message_fds() { return routes_; }

  void deliver_msi(GuestPhys address, uint32_t data) override;
  void pin_sends(unsigned pin, GuestPhys address, uint32_t data) override;

  // With kOn, construction time: the 8254 too, at ports 0x40 to 0x43 and 0x61, which drives pin 0 of the 8259
  // pair and pin 2 of the I/O APIC. What a guest was too slow to take is not made up for, as with ours.
  Result<void> create_pit();
  Result<kvm_pit_state2> pit() const;
  Result<void> set_pit(const kvm_pit_state2& state);  // every count begins anew

  // With kOn, while no vCPU runs. Chip 0 is the first 8259, 1 the second, 2 the I/O APIC. Errors: KVM's.
  Result<kvm_irqchip> chip(unsigned number) const;
  Result<void> set_chip(const kvm_irqchip& chip);

 private:
  class Pins final : public bus::IrqSink {
   public:
    Pins(const Irqchip& owner, unsigned first) : owner_(owner), first_(first) {}
    void set_irq(unsigned pin, bool level) override { owner_.set_line(first_ + pin, level); }

   private:
    const Irqchip& owner_;
    const unsigned first_;
  };

  Irqchip(int fd, Mode mode) : fd_(fd), mode_(mode), routes_(fd), pic_(*this, 0), io_apic_(*this, kPicPins) {}
  void set_line(unsigned gsi, bool level) const;
  Result<void> set_pins();

  const int fd_;
  const Mode mode_;
  IrqRoutes routes_;
  Pins pic_, io_apic_;
  bool has_pit_ = false;
};

}  // namespace ostler::accel::kvm
