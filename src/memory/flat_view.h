// An address space as its readers see it: sorted ranges that do not overlap. Immutable once published, so
// that any thread may read it without locks. Addresses that no range covers are unassigned.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "bus/io_handler.h"
#include "memory/address.h"
#include "memory/ram_block.h"

namespace ostler::memory {

struct FlatRange {
  GuestPhys first;
  GuestPhys last;  // inclusive
  // RAM and ROM: the memory behind it; null for I/O.
  std::shared_ptr<RamBlock> ram;
  // I/O: answers reads and writes. ROM: takes writes if not null (flash), else they are dropped.
  bus::IoHandler* handler = nullptr;
  uint64_t offset = 0;  // of `first` within `ram` or within the handler's range
  bool read_only = false;
  uint8_t max_access = 8;  // bytes; larger accesses reach the handler in pieces

  bool is_ram() const { return ram != nullptr; }
  bool is_writable_ram() const { return ram != nullptr && !read_only; }
  uint64_t size() const { return last - first + 1; }
  uint64_t offset_of(GuestPhys address) const { return offset + (address - first); }
  friend bool operator==(const FlatRange&, const FlatRange&) = default;
};

// An access of 1 to 8 bytes within one I/O range (or the write handler of a ROM), in pieces that its handler
// accepts.
uint64_t read_handler(const FlatRange& range, GuestPhys address, unsigned size);
void write_handler(const FlatRange& range, GuestPhys address, unsigned size, uint64_t value);

class FlatView {
 public:
  FlatView() = default;
  explicit FlatView(std::vector<FlatRange> sorted) : ranges_(std::move(sorted)) {}

  // The range that covers `address`; null: unassigned.
  const FlatRange* find(GuestPhys address) const;
  // The first range that ends at or after `address`; null when there is none.
  const FlatRange* at_or_after(GuestPhys address) const;
  std::span<const FlatRange> ranges() const { return ranges_; }

 private:
  std::vector<FlatRange> ranges_;
};

}  // namespace ostler::memory
