// Where things lie in a PC's guest-physical memory. docs/memory_map.md shows the same as a table.
#pragma once

#include <cstdint>

#include "boot/e820.h"
#include "memory/address.h"

namespace ostler::machine {

inline constexpr uint64_t kMebibyte = 1u << 20, kGibibyte = 1u << 30;

inline constexpr GuestPhys kEbda{0x9fc00};          // the end of conventional memory
inline constexpr GuestPhys kFirmwareArea{0xe0000};  // to 1 MiB: reserved for the guest
inline constexpr GuestPhys kRsdp{0xf0000};
inline constexpr GuestPhys kSmbiosEntry{0xf0040};
inline constexpr GuestPhys kSmbiosTable{0xf0100};
inline constexpr uint64_t kMostLowRam = 3 * kGibibyte;  // the PCI hole begins here
inline constexpr GuestPhys kPciHoleEnd{0xfec00000};
inline constexpr GuestPhys kIoApic{0xfec00000};
inline constexpr GuestPhys kHpet{0xfed00000};
inline constexpr GuestPhys kLocalApic{0xfee00000};
inline constexpr GuestPhys kHighRam{uint64_t{4} * kGibibyte};
inline constexpr uint64_t kAcpiArea = 64 * 1024;  // tables, at the end of low RAM

// microvm
inline constexpr GuestPhys kVirtioMmio{0xfeb00000};
inline constexpr uint64_t kVirtioMmioSlot = 0x200;
inline constexpr unsigned kVirtioMmioSlots = 16;
inline constexpr GuestPhys kGed{0xfea00000};

struct MemoryLayout {
  uint64_t low = 0;   // bytes from address 0
  uint64_t high = 0;  // bytes from 4 GiB

  explicit MemoryLayout(uint64_t ram_bytes)
      : low(ram_bytes < kMostLowRam ? ram_bytes : kMostLowRam), high(ram_bytes - low) {}

  GuestPhys acpi_tables() const { return {low - kAcpiArea}; }
  uint64_t end() const { return high == 0 ? low : kHighRam.value + high; }
  // The window for 64-bit BARs, above all RAM and inside 40 address bits where RAM allows.
  GuestPhys pci_window64() const;
  static constexpr uint64_t kPciWindow64Size = 256 * kGibibyte;

  boot::E820Map e820() const;
};

}  // namespace ostler::machine
