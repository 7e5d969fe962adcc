// A driver's side of one virtqueue, split or packed, that makes mostly good chains of whatever it is told and
// can tell whether the device gives them back by the rules.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <vector>

#include "devices/virtio/queue.h"

namespace ostler::rigs {

class VirtqueueDriver {
 public:
  struct Buffer {
    uint64_t address;
    uint32_t length;
    bool writable;
  };
  // `ram`: guest memory from address 0; the rings take kBytes from `at` on.
  static constexpr uint64_t kBytes = 0x1000;
  // `size`: at most 16.
  VirtqueueDriver(std::span<std::byte> ram, uint64_t at, uint16_t size, uint64_t features);

  const virtio::QueueSetup& setup() const { return setup_; }
  // Makes a chain of them, at most 8, available; false when there are not enough free descriptors.
  // `indirect`: by an indirect table.
  bool offer(std::span<const Buffer> buffers, bool indirect);
  // Takes back what the device has used. Returns what it did against the rules, or "". Nothing is judged
  // after garble().
  std::string collect();
  // Asks for interrupts or not, in one of the ways that the ring knows.
  void suppress(uint32_t random);
  // Writes garbage into the rings.
  void garble(uint32_t random);
  bool honest() const { return honest_; }

 private:
  struct Offered {
    std::vector<uint16_t> ids;  // the first is that of the chain
    uint16_t slots;
    uint64_t writable;  // bytes
  };
  template <class T>
  T get(uint64_t at) const;
  template <class T>
  void put(uint64_t at, T value);
  bool next_used(uint16_t& id, uint32_t& length);

  const std::span<std::byte> ram_;
  const bool packed_, in_order_, event_index_;
  virtio::QueueSetup setup_;
  std::deque<Offered> offered_;
  uint16_t free_;             // entries of a packed ring
  std::deque<uint16_t> ids_;  // free ones; of a split ring: its descriptors
  uint16_t next_ = 0, seen_ = 0;
  bool next_wrap_ = true, seen_wrap_ = true;
  bool honest_ = true;
};

}  // namespace ostler::rigs
