#include "devices/chipset/memory_eoi.h"

namespace ostler::chipset {
namespace {

constexpr uint64_t kEnabled = 1, kReserved = 2;
constexpr uint8_t kOffered = 1;

}  // namespace

bool MemoryEoi::set_msr(uint64_t value) {
  if ((value & kReserved) != 0) return false;
  msr_ = value;
  return true;
}

bool MemoryEoi::offer() {
  return (msr_ & kEnabled) != 0 && dma_.exchange<uint8_t>(place(), kOffered).has_value();
}

bool MemoryEoi::withdraw() {
  const auto before = dma_.exchange<uint8_t>(place(), 0);
  return before && (*before & kOffered) == 0;
}

void MemoryEoi::state(state::Archive& archive) {
  archive.section("memory-eoi", 1);
  archive.field("msr", msr_);
  archive.check((msr_ & kReserved) == 0, "msr");
}

}  // namespace ostler::chipset
