#include "devices/pci/config_space.h"

#include "base/assert.h"
#include "base/bytes.h"

namespace ostler::pci {

uint32_t ConfigSpace::read(uint16_t offset, unsigned size) const {
  uint32_t value = 0;
  for (unsigned i = 0; i < size && offset + i < kSize; ++i) value |= uint32_t{values_[offset + i]} << (8 * i);
  return value;
}

void ConfigSpace::write(uint16_t offset, unsigned size, uint32_t value) {
  for (unsigned i = 0; i < size && offset + i < kSize; ++i) {
    const auto byte = static_cast<uint8_t>(value >> (8 * i));
    uint8_t& at = values_[offset + i];
    const uint8_t writable = writable_[offset + i];
    at = static_cast<uint8_t>((at & ~writable) | (byte & writable));
    at = static_cast<uint8_t>(at & ~(byte & clear_[offset + i]));
  }
}

void ConfigSpace::set16(uint16_t offset, uint16_t value) {
  store_le(&values_[offset], value);
}
void ConfigSpace::set32(uint16_t offset, uint32_t value) {
  store_le(&values_[offset], value);
}

void ConfigSpace::allow(uint16_t offset, unsigned size, uint32_t mask) {
  for (unsigned i = 0; i < size; ++i) writable_[offset + i] = static_cast<uint8_t>(mask >> (8 * i));
}

void ConfigSpace::clear_on_write(uint16_t offset, unsigned size, uint32_t mask) {
  for (unsigned i = 0; i < size; ++i) clear_[offset + i] = static_cast<uint8_t>(mask >> (8 * i));
}

uint16_t ConfigSpace::add_capability(uint8_t id, std::span<const uint8_t> body) {
  const uint16_t at = next_capability_;
  ASSERT(at + 2 + body.size() <= kConventional, "a function declares only as many capabilities as fit");
  values_[at] = id;
  values_[at + 1] = 0;
  for (size_t i = 0; i < body.size(); ++i) values_[at + 2 + i] = body[i];
  if (last_capability_ == 0) {
    values_[reg::kCapabilities] = static_cast<uint8_t>(at);
    set16(reg::kStatus, static_cast<uint16_t>(get16(reg::kStatus) | kStatusCapabilities));
  } else {
    values_[last_capability_ + 1] = static_cast<uint8_t>(at);
  }
  last_capability_ = at;
  next_capability_ = static_cast<uint16_t>(align_up(at + 2 + body.size(), 4));
  return at;
}

void ConfigSpace::state(state::Archive& archive) {
  archive.section("pci-config", 1);
  std::array<uint8_t, kConventional> saved;
  for (size_t i = 0; i < saved.size(); ++i) saved[i] = values_[i];
  archive.bytes("values", std::as_writable_bytes(std::span(saved)));
  if (!archive.loading() || archive.failed()) return;
  archive.check(load_le<uint32_t>(saved.data()) == get32(reg::kVendorId), "vendor and device id");
  // Identity, sizes and capabilities are this program's; only what the guest can change, or an interrupt
  // status bit, comes from the stream.
  for (size_t i = 0; i < saved.size(); ++i) {
    const auto changeable = static_cast<uint8_t>(writable_[i] | clear_[i]);
    values_[i] = static_cast<uint8_t>((values_[i] & ~changeable) | (saved[i] & changeable));
  }
}

}  // namespace ostler::pci
