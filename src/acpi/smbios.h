// SMBIOS 3.0 tables (DMTF DSP0134): BIOS, system, chassis, processor, memory and boot information.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "memory/address.h"

namespace ostler::acpi {

struct SmbiosDescription {
  std::string product;  // "Standard PC (i440FX + PIIX, 1996)", "microvm"
  std::string version;  // "pc", "microvm"
  std::string vm_name;
  std::array<uint8_t, 16> uuid{};  // all zero: not set
  unsigned cpus = 1;
  std::string cpu_brand;
  uint64_t memory_bytes = 0;
};

struct Smbios {
  std::vector<uint8_t> entry_point;  // 24 bytes "_SM3_", placed on a 16-byte boundary in 0xf0000..0xfffff
  std::vector<uint8_t> table;        // at the address given
};

Smbios build_smbios(const SmbiosDescription& machine, GuestPhys table_address);

}  // namespace ostler::acpi
