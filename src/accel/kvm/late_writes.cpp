#include "accel/kvm/late_writes.h"

#include "accel/kvm/request.h"
#include "bus/late_writes.h"

namespace ostler::accel::kvm {

void LateZones::add(const memory::FlatRange& range) {
  const auto* device = dynamic_cast<const bus::LateWrites*>(range.handler);
  if (device == nullptr) return;
  for (const bus::LateRange& late : device->late_writes()) {
    if (late.offset < range.offset || late.offset - range.offset + late.size > range.size()) continue;
    kvm_coalesced_mmio_zone zone{};
    zone.addr = range.first.value + (late.offset - range.offset);
    zone.size = late.size;
    zone.pio = ports_ ? 1 : 0;
    if (call(vm_, kRegisterLate, &zone) >= 0) zones_.emplace(zone.addr, zone);
  }
}

void LateZones::remove(const memory::FlatRange& range) {
  const auto first = zones_.lower_bound(range.first.value), end = zones_.upper_bound(range.last.value);
  for (auto it = first; it != end; ++it) call(vm_, kUnregisterLate, &it->second);
  zones_.erase(first, end);
}

}  // namespace ostler::accel::kvm
