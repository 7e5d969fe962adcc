#include "devices/virtio/chain.h"

#include <algorithm>

namespace ostler::virtio {
namespace {

// Calls part(address, length, offset in transfer) for each piece of [offset, offset + length); false when the
// segments end before or `part` fails.
template <class Part>
bool for_each_piece(std::span<const Segment> segments, uint64_t offset, uint64_t length, Part&& part) {
  uint64_t done = 0;
  for (const Segment& segment : segments) {
    if (done == length) return true;
    if (offset >= segment.length) {
      offset -= segment.length;
      continue;
    }
    const uint64_t size = std::min<uint64_t>(segment.length - offset, length - done);
    if (!part(segment.address + offset, size, done)) return false;
    done += size;
    offset = 0;
  }
  return done == length;
}

}  // namespace

Chain::Chain(uint16_t head, std::vector<Segment> segments, size_t readable, uint16_t slots)
    : head_(head), slots_(slots), segments_(std::move(segments)), readable_count_(readable) {
  for (const Segment& segment : this->readable()) readable_bytes_ += segment.length;
  for (const Segment& segment : this->writable()) writable_bytes_ += segment.length;
}

bool Chain::read(memory::Dma& dma, uint64_t offset, std::span<std::byte> to) const {
  return for_each_piece(readable(), offset, to.size(), [&](GuestPhys address, uint64_t size, uint64_t at) {
    return dma.read(address, to.subspan(at, size));
  });
}

bool Chain::write(memory::Dma& dma, uint64_t offset, std::span<const std::byte> from) const {
  return for_each_piece(writable(), offset, from.size(), [&](GuestPhys address, uint64_t size, uint64_t at) {
    return dma.write(address, from.subspan(at, size));
  });
}

bool Chain::map_readable(memory::Dma& dma, uint64_t offset, uint64_t length, memory::Mapping& mapping) const {
  return for_each_piece(readable(), offset, length, [&](GuestPhys address, uint64_t size, uint64_t) {
    return dma.map(address, size, memory::Direction::kFromGuest, mapping);
  });
}

bool Chain::map_writable(memory::Dma& dma, uint64_t offset, uint64_t length, memory::Mapping& mapping) const {
  return for_each_piece(writable(), offset, length, [&](GuestPhys address, uint64_t size, uint64_t) {
    return dma.map(address, size, memory::Direction::kToGuest, mapping);
  });
}

ChainRecord Chain::record() const {
  ChainRecord record;
  record.head = head_;
  record.slots = slots_;
  record.sequence = sequence_;
  record.readable = static_cast<uint16_t>(readable_count_);
  for (const Segment& segment : segments_) {
    record.addresses.push_back(segment.address.value);
    record.lengths.push_back(segment.length);
  }
  return record;
}

Chain ChainRecord::chain() const {
  std::vector<Segment> segments;
  for (size_t i = 0; i < lengths.size(); ++i) segments.push_back({GuestPhys{addresses[i]}, lengths[i]});
  Chain chain(head, std::move(segments), readable, slots);
  chain.set_sequence(sequence);
  return chain;
}

void ChainRecord::state(state::Archive& archive) {
  archive.field("head", head);
  archive.field("slots", slots);
  archive.check(slots != 0, "slots");
  archive.field("sequence", sequence);
  archive.field("readable", readable);
  archive.field("addresses", addresses, Chain::kMaxSegments);
  archive.field("lengths", lengths, Chain::kMaxSegments);
  archive.check(addresses.size() == lengths.size() && readable <= lengths.size(), "segments");
  uint64_t bytes = 0;
  for (const uint32_t length : lengths) {
    archive.check(length != 0, "length");
    bytes += length;
  }
  archive.check(bytes <= UINT32_MAX, "lengths");
}

}  // namespace ostler::virtio
