// The guest's memory map in the BIOS's types, as Linux, PVH and multiboot loaders pass it on (ACPI 6.5 §15).
#pragma once

#include <cstdint>
#include <vector>

#include "memory/address.h"

namespace ostler::boot {

enum class E820Type : uint32_t { kRam = 1, kReserved = 2, kAcpi = 3, kNvs = 4 };

struct E820Entry {
  GuestPhys start;
  uint64_t size = 0;  // bytes
  E820Type type = E820Type::kRam;
};

using E820Map = std::vector<E820Entry>;  // ascending, not overlapping

}  // namespace ostler::boot
