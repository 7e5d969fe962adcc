#include "devices/chipset/apic_bus.h"

#include <algorithm>

#include "base/assert.h"
#include "base/bytes.h"
#include "base/log.h"
#include "devices/chipset/local_apic.h"

namespace ostler::chipset {
namespace {

thread_local LocalApic* current_apic = nullptr;

}  // namespace

void ApicBus::add(LocalApic& apic) {
  ASSERT(apic.id() < 255 && by_id_[apic.id()] == nullptr, "the machine numbers its APICs");
  apics_.push_back(&apic);
  by_id_[apic.id()] = &apic;
}

void ApicBus::remove(LocalApic& apic) {
  std::erase(apics_, &apic);
  by_id_[apic.id()] = nullptr;
}

void ApicBus::add_eoi_sink(EoiSink& sink) {
  if (std::find(eoi_sinks_.begin(), eoi_sinks_.end(), &sink) == eoi_sinks_.end()) eoi_sinks_.push_back(&sink);
}

template <class Visit>
void ApicBus::for_each_match(const ApicMessage& message, Visit&& visit) const {
  const bool broadcast = message.destination == (message.wide ? 0xffffffffu : 0xffu);
  if (broadcast) {
    for (LocalApic* apic : apics_) visit(*apic);
  } else if (!message.logical) {
    // An xAPIC looks at 8 bits only; our ids have no more.
    if (message.destination < by_id_.size() && by_id_[message.destination] != nullptr)
      visit(*by_id_[message.destination]);
  } else {
    for (LocalApic* apic : apics_)
      if (apic->matches_logical(message.destination)) visit(*apic);
  }
}

void ApicBus::pin_sends(unsigned pin, const ApicMessage& message) {
  if (kernel_ != nullptr) kernel_->pin_sends(pin, {msi_address_of(message)}, msi_data_of(message));
}

void ApicBus::send(const ApicMessage& message) {
  if (kernel_ != nullptr) {
    kernel_->deliver_msi({msi_address_of(message)}, msi_data_of(message));
    return;
  }
  if (message.mode != DeliveryMode::kLowestPriority) {
    for_each_match(message, [&](LocalApic& apic) { apic.receive(message); });
    return;
  }
  // The APIC at the lowest processor priority; among equals, each in turn (SDM 3A §11.6.2.4).
  LocalApic* best = nullptr;
  unsigned best_priority = 0, best_turn = 0;
  const unsigned start = arbitration_.fetch_add(1, std::memory_order_relaxed);
  const unsigned count = static_cast<unsigned>(apics_.size());
  for_each_match(message, [&](LocalApic& apic) {
    if (!apic.accepts_fixed()) return;
    const unsigned priority = apic.processor_priority() >> 4;
    const unsigned turn = (apic.id() + count - start % count) % count;
    if (best == nullptr || priority < best_priority || (priority == best_priority && turn < best_turn)) {
      best = &apic;
      best_priority = priority;
      best_turn = turn;
    }
  });
  if (best != nullptr) best->receive(message);
}

void ApicBus::unhalt(uint64_t id) {
  if (id < by_id_.size() && by_id_[id] != nullptr) by_id_[id]->unhalt();
}

void ApicBus::send_to_all(const ApicMessage& message, const LocalApic* except) {
  for (LocalApic* apic : apics_)
    if (apic != except) apic->receive(message);
}

void ApicBus::send_msi(GuestPhys address, uint32_t data) {
  if ((address.value & ~uint64_t{0xfffff}) != ApicPage::kBase) {
    log::guest_error("apic: MSI to {:#x}, which is no APIC address", address.value);
    return;
  }
  if (kernel_ != nullptr)
    kernel_->deliver_msi(address, data);
  else
    send(message_of_msi(address.value, data));
}

void ApicBus::set_irq(unsigned pin, bool level) {
  for (LocalApic* apic : apics_) {
    if (pin == kIntrPin)
      apic->set_lint0(level);
    else
      apic->set_lint1(level);
  }
}

void ApicBus::broadcast_eoi(uint8_t vector) {
  for (EoiSink* sink : eoi_sinks_) sink->end_of_interrupt(vector);
}

uint8_t ApicBus::acknowledge_ext_int() {
  return ext_int_ == nullptr ? 0xff : ext_int_->acknowledge();
}

unsigned ApicBus::matching(const ApicMessage& message) const {
  unsigned count = 0;
  for_each_match(message, [&](LocalApic&) { ++count; });
  return count;
}

void ApicPage::bind_to_this_thread(LocalApic* apic) {
  current_apic = apic;
}

uint64_t ApicPage::io_read(uint64_t offset, unsigned size) {
  if (current_apic == nullptr || offset + size > kPageSize) return size_mask(size);
  return current_apic->io_read(offset, size);
}

void ApicPage::io_write(uint64_t offset, unsigned size, uint64_t value) {
  if (current_apic != nullptr && offset + size <= kPageSize) {
    current_apic->io_write(offset, size, value);
  } else if (size == 4) {
    bus_.send_msi({kBase + offset}, static_cast<uint32_t>(value));
  } else {
    log::guest_error("apic: {}-byte write to the interrupt message area", size);
  }
}

}  // namespace ostler::chipset
