#include "machine/memory_layout.h"

#include <algorithm>

#include "base/bytes.h"

namespace ostler::machine {

GuestPhys MemoryLayout::pci_window64() const {
  constexpr uint64_t kUsual = 512 * kGibibyte;
  return {std::max(kUsual, align_up(end(), kPciWindow64Size))};
}

boot::E820Map MemoryLayout::e820() const {
  using boot::E820Type;
  constexpr GuestPhys kOneMebibyte{kMebibyte};
  boot::E820Map map;
  map.push_back({{0}, kEbda.value, E820Type::kRam});
  map.push_back({kEbda, 0xa0000 - kEbda.value, E820Type::kReserved});
  map.push_back({kFirmwareArea, kOneMebibyte - kFirmwareArea, E820Type::kReserved});
  map.push_back({kOneMebibyte, acpi_tables() - kOneMebibyte, E820Type::kRam});
  map.push_back({acpi_tables(), kAcpiArea, E820Type::kAcpi});
  map.push_back({kIoApic, kPageSize, E820Type::kReserved});
  map.push_back({kHpet, kPageSize, E820Type::kReserved});
  map.push_back({kLocalApic, kPageSize, E820Type::kReserved});
  if (high != 0) map.push_back({kHighRam, high, E820Type::kRam});
  return map;
}

}  // namespace ostler::machine
