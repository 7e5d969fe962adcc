#include "accel/kvm/irqchip.h"

#include <cerrno>
#include <utility>
#include <vector>

#include "accel/kvm/refusal.h"
#include "accel/kvm/request.h"
#include "base/log.h"

namespace ostler::accel::kvm {
namespace {

constexpr uint32_t kTimerPin = 2;  // of the I/O APIC: IRQ 0

kvm_irq_routing_entry pin_of_chip(uint32_t gsi, uint32_t chip, uint32_t pin) {
  kvm_irq_routing_entry entry{};
  entry.gsi = gsi;
  entry.type = KVM_IRQ_ROUTING_IRQCHIP;
  entry.u.irqchip = {.irqchip = chip, .pin = pin};
  return entry;
}

}  // namespace

Result<std::unique_ptr<Irqchip>> Irqchip::create(int fd, Mode mode) {
  const auto refused = [&](std::string_view what, int error) {
    return refusal(what, error)
        .with_context(mode == Mode::kOn ? "kernel-irqchip=on" : "kernel-irqchip=split");
  };
  std::unique_ptr<Irqchip> chips(new Irqchip(fd, mode));
  if (mode == Mode::kOn) {
    if (const int done = call(fd, kCreateIrqchip); done < 0) return refused(kCreateIrqchip.name, done);
  } else {
    kvm_enable_cap enable{};
    enable.cap = KVM_CAP_SPLIT_IRQCHIP;
    enable.args[0] = kPins;
    if (const int done = call(fd, kEnableCap, &enable); done < 0)
      return refused("KVM_CAP_SPLIT_IRQCHIP", done);
  }
  TRY(chips->set_pins());
  return chips;
}

Result<void> Irqchip::set_pins() {
  std::vector<kvm_irq_routing_entry> entries;
  if (mode_ == Mode::kOn) {
    for (uint32_t pin = 0; pin < kPicPins; ++pin)
      entries.push_back(pin_of_chip(pin, pin < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, pin % 8));
    for (uint32_t pin = 0; pin < kPins; ++pin)
      entries.push_back(pin_of_chip(kPicPins + pin, KVM_IRQCHIP_IOAPIC, pin));
    if (has_pit_) entries.push_back(pin_of_chip(0, KVM_IRQCHIP_IOAPIC, kTimerPin));
  }
  return routes_.set_pins(std::move(entries));
}

void Irqchip::pin_sends(unsigned pin, GuestPhys address, uint32_t data) {
  if (pin >= kPins) return;
  if (const auto done = routes_.set_message(pin, address, data); !done) log::warning(done.error().message());
}

void Irqchip::deliver_msi(GuestPhys address, uint32_t data) {
  kvm_msi message{};
  message.address_lo = static_cast<uint32_t>(address.value);
  message.address_hi = static_cast<uint32_t>(address.value >> 32);
  message.data = data;
  // It tells how many took it, and fails when none did: a guest's affair.
  call(fd_, kSignalMsi, &message);
}

void Irqchip::set_line(unsigned gsi, bool level) const {
  kvm_irq_level line{};
  line.irq = gsi;
  line.level = level ? 1 : 0;
  call(fd_, kIrqLine, &line);
}

Result<kvm_irqchip> Irqchip::chip(unsigned number) const {
  kvm_irqchip out{};
  out.chip_id = number;
  if (const int done = call(fd_, kGetIrqchip, &out); done < 0) return refusal("KVM_GET_IRQCHIP", done);
  return out;
}

Result<void> Irqchip::set_chip(const kvm_irqchip& chip) {
  kvm_irqchip in = chip;
  if (const int done = call(fd_, kSetIrqchip, &in); done < 0) return refusal("KVM_SET_IRQCHIP", done);
  return {};
}

Result<void> Irqchip::create_pit() {
  const auto refused = [](const Request& request, int error) {
    return refusal(request.name, error).with_context("kernel-irqchip=on");
  };
  kvm_pit_config config{};
  config.flags = KVM_PIT_SPEAKER_DUMMY;
  if (const int done = call(fd_, kCreatePit2, &config); done < 0) return refused(kCreatePit2, done);
  kvm_reinject_control late{};
  if (const int done = call(fd_, kReinjectControl, &late); done < 0) return refused(kReinjectControl, done);
  has_pit_ = true;
  return set_pins();
}

Result<kvm_pit_state2> Irqchip::pit() const {
  kvm_pit_state2 out{};
  if (const int done = call(fd_, kGetPit2, &out); done < 0) return refusal(kGetPit2.name, done);
  return out;
}

Result<void> Irqchip::set_pit(const kvm_pit_state2& state) {
  kvm_pit_state2 in = state;
  if (const int done = call(fd_, kSetPit2, &in); done < 0) return refusal(kSetPit2.name, done);
  return {};
}

}  // namespace ostler::accel::kvm
