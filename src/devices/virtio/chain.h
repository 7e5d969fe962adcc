// One descriptor chain that the driver made available: what the device may read, then what it may write.
// Virtio 1.2 §2.7.4.2: all device-readable descriptors come before the device-writable ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "memory/address.h"
#include "memory/dma.h"
#include "state/archive.h"

namespace ostler::virtio {

// A piece of guest memory, `length` > 0 bytes, known to be RAM when the chain was taken.
struct Segment {
  GuestPhys address;
  uint32_t length;
};

class Chain;

// What a chain is, to be part of the saved state of a request that keeps it.
struct ChainRecord {
  uint16_t head = 0;
  uint16_t slots = 1;
  uint16_t sequence = 0;
  uint16_t readable = 0;  // segments
  std::vector<uint64_t> addresses;
  std::vector<uint32_t> lengths;

  void state(state::Archive& archive);
  Chain chain() const;
};

// Move-only: it belongs to the request that serves it and goes back to its queue once, by Queue::push().
// Dropping it without that is for devices that are being reset or are broken.
class Chain {
 public:
  // The most segments that a chain may have, however large the queue: bounds a request's memory, and is what
  // preadv takes at once.
  static constexpr size_t kMaxSegments = 1024;

  Chain(uint16_t head, std::vector<Segment> segments, size_t readable, uint16_t slots = 1);
  Chain(Chain&&) noexcept = default;
  Chain& operator=(Chain&&) noexcept = default;

  // The first descriptor's index, or the buffer's ID in a packed ring.
  uint16_t head() const { return head_; }
  // Entries of a packed ring that it takes; 1 in a split ring.
  uint16_t slots() const { return slots_; }
  // Counts the chains of a queue whose buffers are used in order.
  uint16_t sequence() const { return sequence_; }
  void set_sequence(uint16_t sequence) { sequence_ = sequence; }
  ChainRecord record() const;
  std::span<const Segment> readable() const { return std::span(segments_).first(readable_count_); }
  std::span<const Segment> writable() const { return std::span(segments_).subspan(readable_count_); }
  // Sums of lengths, at most 2^32 - 1 each.
  uint64_t readable_bytes() const { return readable_bytes_; }
  uint64_t writable_bytes() const { return writable_bytes_; }

  // Copies `to.size()` bytes from `offset` of the readable part. False when the part is shorter or memory
  // vanished.
  bool read(memory::Dma& dma, uint64_t offset, std::span<std::byte> to) const;
  // Copies into the writable part.
  bool write(memory::Dma& dma, uint64_t offset, std::span<const std::byte> from) const;
  template <class T>
  bool read_object(memory::Dma& dma, uint64_t offset, T& object) const {
    return read(dma, offset, std::as_writable_bytes(std::span(&object, 1)));
  }
  template <class T>
  bool write_object(memory::Dma& dma, uint64_t offset, const T& object) const {
    return write(dma, offset, std::as_bytes(std::span(&object, 1)));
  }
  // Appends host addresses of [offset, offset + length) of one part to `mapping`.
  bool map_readable(memory::Dma& dma, uint64_t offset, uint64_t length, memory::Mapping& mapping) const;
  bool map_writable(memory::Dma& dma, uint64_t offset, uint64_t length, memory::Mapping& mapping) const;

 private:
  uint16_t head_;
  uint16_t slots_;
  uint16_t sequence_ = 0;
  std::vector<Segment> segments_;
  size_t readable_count_;
  uint64_t readable_bytes_ = 0;
  uint64_t writable_bytes_ = 0;
};

}  // namespace ostler::virtio
