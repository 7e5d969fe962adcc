// An interrupt message on its way to local APICs (SDM 3A §11.6, §11.11).
#pragma once

#include <cstdint>

namespace ostler::chipset {

enum class DeliveryMode : uint8_t {  // as encoded in ICR, redirection entries, LVTs and MSI data
  kFixed = 0,
  kLowestPriority = 1,
  kSmi = 2,
  kNmi = 4,
  kInit = 5,
  kSipi = 6,
  kExtInt = 7,
};

struct ApicMessage {
  uint32_t destination = 0;  // APIC id or logical set; 0xff (0xffffffff when `wide`): all
  bool logical = false;
  bool wide = false;  // a 32-bit destination, from an x2APIC's ICR
  bool level = false;
  DeliveryMode mode = DeliveryMode::kFixed;
  uint8_t vector = 0;
};

// From the fields of an MSI (SDM 3A §11.11). Remappable format is not for us: no interrupt remapping is
// offered.
constexpr ApicMessage message_of_msi(uint64_t address, uint32_t data) {
  ApicMessage message;
  message.destination = static_cast<uint32_t>(address >> 12) & 0xff;
  message.logical = (address & 4) != 0;
  message.vector = static_cast<uint8_t>(data);
  message.mode = static_cast<DeliveryMode>((data >> 8) & 7);
  message.level = (data & 0x8000) != 0;
  return message;
}

constexpr uint64_t msi_address_of(const ApicMessage& message) {
  return 0xfee00000 | uint64_t{message.destination & 0xff} << 12 | (message.logical ? 4u : 0u);
}
constexpr uint32_t msi_data_of(const ApicMessage& message) {
  constexpr uint32_t kAssert = 1u << 14, kLevel = 1u << 15;
  return message.vector | static_cast<uint32_t>(message.mode) << 8 | (message.level ? kAssert | kLevel : 0u);
}

}  // namespace ostler::chipset
