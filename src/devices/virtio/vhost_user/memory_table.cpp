#include "devices/virtio/vhost_user/memory_table.h"

namespace ostler::virtio::vhost_user {

MemoryTable::MemoryTable(const memory::FlatView& view, Whose whose) {
  for (const memory::FlatRange& range : view.ranges()) {
    if (!range.is_writable_ram()) continue;
    const memory::HostMemory& memory = range.ram->memory();
    if (whose == Whose::kShared && (memory.fd() < 0 || !memory.shared())) continue;
    if (!entries_.empty()) {
      Entry& last = entries_.back();
      const uint64_t distance = range.first.value - last.region.guest_address;
      if (last.ram == range.ram &&
          last.region.mmap_offset + distance == memory.file_offset() + range.offset) {
        last.region.size = distance + range.size();
        continue;
      }
    }
    entries_.push_back({{.guest_address = range.first.value,
                         .size = range.size(),
                         .user_address = reinterpret_cast<uint64_t>(range.ram->host() + range.offset),
                         .mmap_offset = memory.file_offset() + range.offset},
                        range.ram});
  }
}

bool MemoryTable::covers(GuestPhys address, uint64_t length) const {
  uint64_t at = address.value;
  const uint64_t end = at + length;
  for (const Entry& entry : entries_) {
    if (at < entry.region.guest_address) return false;
    const uint64_t entry_end = entry.region.guest_address + entry.region.size;
    if (at < entry_end) at = entry_end;
    if (at >= end) return true;
  }
  return false;
}

MemoryTable::Place MemoryTable::find(GuestPhys address, uint64_t length) const {
  for (const Entry& entry : entries_) {
    const uint64_t at = address.value - entry.region.guest_address;
    if (address.value >= entry.region.guest_address && at < entry.region.size &&
        length <= entry.region.size - at)
      return {entry.ram, reinterpret_cast<std::byte*>(entry.region.user_address + at)};
  }
  return {};
}

}  // namespace ostler::virtio::vhost_user
