// The guest's memory as a back end reaches it: pieces of files or memory objects that it maps, or of ours,
// and where the guest sees them.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "devices/virtio/vhost_user/messages.h"
#include "memory/address.h"
#include "memory/flat_view.h"

namespace ostler::virtio::vhost_user {

class MemoryTable {
 public:
  struct Entry {
    MemoryRegion region;
    std::shared_ptr<memory::RamBlock> ram;  // keeps the descriptor

    friend bool operator==(const Entry& a, const Entry& b) {
      return a.ram == b.ram && a.region.guest_address == b.region.guest_address &&
             a.region.size == b.region.size && a.region.mmap_offset == b.region.mmap_offset;
    }
  };

  // What is in it: all, or what other processes can map.
  enum class Whose : uint8_t { kAll, kShared };

  MemoryTable() = default;
  // Writable RAM. Pieces of one block between which something else lies (video memory below 1 MiB) are one
  // entry.
  MemoryTable(const memory::FlatView& view, Whose whose);

  const std::vector<Entry>& entries() const { return entries_; }
  // True when the back end can reach each of `length` > 0 bytes.
  bool covers(GuestPhys address, uint64_t length) const;
  // The same bytes here, in one piece; null: they are not.
  struct Place {
    std::shared_ptr<memory::RamBlock> ram;
    std::byte* host = nullptr;
  };
  Place find(GuestPhys address, uint64_t length) const;
  friend bool operator==(const MemoryTable&, const MemoryTable&) = default;

 private:
  std::vector<Entry> entries_;  // in the order of their guest addresses
};

}  // namespace ostler::virtio::vhost_user
