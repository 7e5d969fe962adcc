// Registers of the local APIC (SDM 3A Table 11-1, figures 11-5 to 11-23). Indices are MMIO offset / 16, MSR -
// 0x800.
#pragma once

#include <cstdint>

#include "devices/chipset/apic_message.h"

namespace ostler::chipset::apic {

inline constexpr uint32_t kMsrApicBase = 0x1b, kMsrTscDeadline = 0x6e0, kMsrX2First = 0x800,
                          kMsrX2Last = 0x8ff;

inline constexpr uint64_t kDefaultBase = 0xfee00000;
inline constexpr uint64_t kBaseBootstrap = 1u << 8, kBaseExtended = 1u << 10, kBaseEnable = 1u << 11;
inline constexpr uint64_t kBaseReserved = 0xff | (1u << 9) | ~((uint64_t{1} << 52) - 1);

enum Register : unsigned {
  kId = 0x02,
  kVersion = 0x03,
  kTpr = 0x08,
  kApr = 0x09,
  kPpr = 0x0a,
  kEoi = 0x0b,
  kRemoteRead = 0x0c,
  kLdr = 0x0d,
  kDfr = 0x0e,
  kSpurious = 0x0f,
  kIsr = 0x10,  // eight each
  kTmr = 0x18,
  kIrr = 0x20,
  kEsr = 0x28,
  kIcrLow = 0x30,
  kIcrHigh = 0x31,
  kLvtFirst = 0x32,  // timer, thermal, performance, LINT0, LINT1, error
  kLvtLast = 0x37,
  kInitialCount = 0x38,
  kCurrentCount = 0x39,
  kDivide = 0x3e,
  kSelfIpi = 0x3f,  // x2APIC only
};

// An integrated APIC with six LVT entries, without EOI-broadcast suppression.
inline constexpr uint32_t kVersionValue = 0x14 | 5u << 16;

inline constexpr uint32_t kSpuriousEnable = 1u << 8;
inline constexpr uint32_t kSpuriousNoEoiBroadcast = 1u << 12;
inline constexpr uint32_t kSpuriousWritable = 0x1ff | 1u << 9;

inline constexpr uint32_t kLvtMasked = 1u << 16;
inline constexpr uint32_t kLvtRemoteIrr = 1u << 14, kLvtPending = 1u << 12;
constexpr DeliveryMode lvt_mode(uint32_t entry) {
  return static_cast<DeliveryMode>((entry >> 8) & 7);
}

inline constexpr uint32_t kErrorSendIllegal = 1u << 5, kErrorReceiveIllegal = 1u << 6,
                          kErrorRegister = 1u << 7;

// SDM 3A §11.12.10.2: 16 APICs to a cluster.
constexpr uint32_t x2_logical_id(uint32_t id) {
  return (id >> 4) << 16 | 1u << (id & 15);
}

}  // namespace ostler::chipset::apic
