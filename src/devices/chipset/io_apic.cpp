#include "devices/chipset/io_apic.h"

#include "base/bytes.h"
#include "base/log.h"

namespace ostler::chipset {
namespace {

constexpr uint64_t kSelect = 0x00, kWindow = 0x10, kEoi = 0x40;
constexpr uint8_t kIndexId = 0, kIndexVersion = 1, kIndexArbitration = 2, kIndexFirstEntry = 0x10;
constexpr uint32_t kVersion = 0x20 | (IoApic::kPins - 1) << 16;

// A redirection entry (82093AA §3.2.4).
constexpr uint64_t kVector = 0xff, kLogical = 1u << 11, kDeliveryStatus = 1u << 12, kRemoteIrr = 1u << 14,
                   kLevel = 1u << 15, kMasked = 1u << 16;
constexpr uint64_t kReadOnly = kDeliveryStatus | kRemoteIrr;
constexpr uint64_t kDefined = 0xff000000'0001ffff;

// What an entry sends. SMI, NMI, INIT and ExtINT are edge-triggered whatever it says.
ApicMessage message_of(uint64_t entry) {
  ApicMessage message;
  message.vector = static_cast<uint8_t>(entry & kVector);
  message.mode = static_cast<DeliveryMode>((entry >> 8) & 7);
  message.logical = (entry & kLogical) != 0;
  message.destination = static_cast<uint32_t>(entry >> 56);
  const bool fixed = message.mode == DeliveryMode::kFixed || message.mode == DeliveryMode::kLowestPriority;
  message.level = fixed && (entry & kLevel) != 0;
  return message;
}

}  // namespace

IoApic::IoApic(ApicBus& bus, uint8_t id) : bus_(bus), reset_id_(id & 15) {
  bus_.add_eoi_sink(*this);
  reset();
}

void IoApic::reset() {
  const std::lock_guard lock(mutex_);
  select_ = 0;
  id_ = reset_id_;
  entries_.fill(kMasked);  // the wires keep their levels: the devices drive them
  if (kernel_ != nullptr) asserted_ = 0;
}

void IoApic::set_irq(unsigned pin, bool level) {
  if (pin >= kPins) return;
  if (kernel_ != nullptr) return kernel_->set_irq(pin, level);
  const std::lock_guard lock(mutex_);
  const uint32_t mask = 1u << pin;
  const bool before = (asserted_ & mask) != 0;
  if (before == level) return;
  asserted_ ^= mask;
  if (level) service_locked(pin);  // edge: the rising edge of a masked pin is lost (§3.2.4, bit 16)
}

// Sends the message of an asserted pin if its entry allows it now.
void IoApic::service_locked(unsigned pin) {
  uint64_t& entry = entries_[pin];
  if ((entry & kMasked) != 0) return;
  const ApicMessage message = message_of(entry);
  if (message.level) {
    if ((entry & kRemoteIrr) != 0) return;  // waits for the EOI
    entry |= kRemoteIrr;
  }
  bus_.send(message);
}

void IoApic::end_of_interrupt(uint8_t vector) {
  const std::lock_guard lock(mutex_);
  end_of_interrupt_locked(vector);
}

void IoApic::end_of_interrupt_locked(uint8_t vector) {
  for (unsigned pin = 0; pin < kPins; ++pin) {
    uint64_t& entry = entries_[pin];
    if ((entry & kVector) != vector || (entry & kLevel) == 0 || (entry & kRemoteIrr) == 0) continue;
    entry &= ~kRemoteIrr;
    if ((asserted_ >> pin & 1) != 0) service_locked(pin);
  }
}

uint64_t IoApic::io_read(uint64_t offset, unsigned size) {
  const std::lock_guard lock(mutex_);
  uint64_t value = 0;
  const uint64_t start = offset & ~uint64_t{3};
  if (start == kSelect)
    value = select_;
  else if (start == kWindow)
    value = read_indexed_locked();
  return value >> ((offset & 3) * 8) & size_mask(size);
}

void IoApic::io_write(uint64_t offset, unsigned size, uint64_t value) {
  const std::lock_guard lock(mutex_);
  if (offset == kSelect) {
    select_ = static_cast<uint8_t>(value);
  } else if (offset == kWindow && size >= 4) {
    write_indexed_locked(static_cast<uint32_t>(value));
  } else if (offset == kEoi) {
    end_of_interrupt_locked(static_cast<uint8_t>(value));
  } else {
    log::guest_error("io-apic: {}-byte write at {:#x}", size, offset);
  }
}

uint32_t IoApic::read_indexed_locked() const {
  switch (select_) {
    case kIndexId:
    case kIndexArbitration:
      return static_cast<uint32_t>(id_) << 24;
    case kIndexVersion:
      return kVersion;
    default:
      break;
  }
  const unsigned pin = (select_ - kIndexFirstEntry) / 2u;
  if (select_ < kIndexFirstEntry || pin >= kPins) return 0xffffffff;
  return static_cast<uint32_t>(entries_[pin] >> ((select_ & 1) * 32));
}

void IoApic::write_indexed_locked(uint32_t value) {
  if (select_ == kIndexId) {
    id_ = value >> 24 & 15;
    return;
  }
  const unsigned pin = (select_ - kIndexFirstEntry) / 2u;
  if (select_ < kIndexFirstEntry || pin >= kPins) {
    if (select_ != kIndexVersion && select_ != kIndexArbitration)
      log::guest_error("io-apic: write to absent register {:#x}", select_);
    return;
  }
  uint64_t& entry = entries_[pin];
  const uint64_t keep = entry & kReadOnly;
  if ((select_ & 1) != 0)
    entry = (entry & 0xffffffff) | static_cast<uint64_t>(value) << 32;
  else
    entry = (entry & ~uint64_t{0xffffffff}) | value;
  entry = (entry & kDefined & ~kReadOnly) | keep;
  // Linux clears a stuck remote IRR by switching the pin to edge and back; chipsets with version 0x20 do the
  // same.
  if ((entry & kLevel) == 0) entry &= ~kRemoteIrr;
  tell_route_locked(pin);
  if ((entry & kLevel) != 0 && (asserted_ >> pin & 1) != 0) service_locked(pin);
}

uint64_t IoApic::entry(unsigned pin) const {
  const std::lock_guard lock(mutex_);
  return pin < kPins ? entries_[pin] : 0;
}

void IoApic::tell_route_locked(unsigned pin) const {
  if (bus_.in_kernel() && kernel_ == nullptr) bus_.pin_sends(pin, message_of(entries_[pin]));
}

IoApic::Image IoApic::image() const {
  const std::lock_guard lock(mutex_);
  return {select_, id_, asserted_, entries_};
}

void IoApic::set_image(const Image& image) {
  const std::lock_guard lock(mutex_);
  select_ = image.select;
  id_ = image.id & 15;
  asserted_ = image.asserted & ((1u << kPins) - 1);
  for (unsigned pin = 0; pin < kPins; ++pin) entries_[pin] = image.entries[pin] & kDefined;
}

void IoApic::state(state::Archive& archive) {
  const std::lock_guard lock(mutex_);
  archive.section("io-apic", 1);
  archive.field("select", select_);
  archive.field("id", id_);
  archive.field("asserted", asserted_);
  archive.field("entries", entries_);
  archive.check(asserted_ < 1u << kPins, "asserted");
  for (const uint64_t entry : entries_) archive.check((entry & ~kDefined) == 0, "entries");
  if (archive.loading() && !archive.failed())
    for (unsigned pin = 0; pin < kPins; ++pin) tell_route_locked(pin);
}

}  // namespace ostler::chipset
