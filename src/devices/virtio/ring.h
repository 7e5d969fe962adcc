// What split (Virtio 1.2 §2.7) and packed rings (§2.8) have in common, for Queue alone: operations on one
// ring, and the checks of what a driver wrote into its descriptors.
//
// The memory is hostile. An operation that finds a rule broken records why and does nothing; nothing loops
// more often than the ring or an indirect table is long.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "devices/virtio/chain.h"
#include "devices/virtio/features.h"
#include "memory/dma.h"
#include "state/archive.h"

namespace ostler::virtio {

// What the driver wrote for one queue.
struct QueueSetup {
  bool enabled = false;
  uint16_t size = 0;         // descriptors; a power of two for a split ring
  uint64_t descriptors = 0;  // guest-physical addresses of the three parts
  uint64_t driver = 0;       // available ring, or the driver's event suppression structure
  uint64_t device = 0;       // used ring, or the device's event suppression structure
};

// A used ring that somebody else fills: `bytes` of flags, index and elements, but not avail_event.
struct UsedRing {
  GuestPhys address;
  uint64_t bytes = 0;
  uint16_t index = 0;  // free-running, of the next element
};

class Ring {
 public:
  Ring(memory::AddressSpace& memory, const QueueSetup& setup, uint64_t features)
      : dma_(memory),
        setup_(setup),
        event_index_((features & feature(VIRTIO_F_EVENT_IDX)) != 0),
        notify_on_empty_((features & feature(VIRTIO_F_NOTIFY_ON_EMPTY)) != 0),
        indirect_((features & feature(VIRTIO_F_INDIRECT_DESC)) != 0) {}
  virtual ~Ring() = default;

  // Why the ring cannot be used any more; empty: it can.
  std::string_view fault() const { return fault_; }
  void fail(std::string_view why) {
    if (fault_.empty()) fault_ = why;
  }
  memory::Dma& dma() { return dma_; }
  const QueueSetup& setup() const { return setup_; }

  virtual bool empty() = 0;
  virtual std::optional<Chain> pop() = 0;
  virtual void unpop(const Chain& chain) = 0;
  // Fills used entries that the driver sees at publish(). `slots` as the chain has them.
  virtual void stage(uint16_t head, uint16_t slots, uint32_t written) = 0;
  virtual void publish() = 0;
  virtual bool should_interrupt() = 0;
  virtual void set_notifications(bool on) = 0;
  // For Queue's functions of these names.
  virtual std::optional<UsedRing> lend_used() { return std::nullopt; }
  virtual void used_elsewhere(uint16_t /*count*/) {}
  virtual void state(state::Archive& archive) = 0;

  // Every buffer of `chain` is still in RAM.
  bool accessible(const Chain& chain);

 protected:
  // §2.7.5, §2.8.1
  static constexpr uint16_t VIRTQ_DESC_F_NEXT = 1;
  static constexpr uint16_t VIRTQ_DESC_F_WRITE = 2;
  static constexpr uint16_t VIRTQ_DESC_F_INDIRECT = 4;
  static constexpr uint64_t kDescriptorSize = 16;

  struct Parsed {
    std::vector<Segment> segments;
    size_t readable = 0;
    uint64_t bytes = 0;
  };
  bool broken(std::string_view why) {
    fail(why);
    return false;
  }
  bool add_segment(uint64_t address, uint32_t length, bool writable, Parsed& parsed);
  // Orders our stores before our later loads, as the driver's own full barrier does on its side
  // (§2.7.13.3.1).
  static void full_fence();

  memory::Dma dma_;
  const QueueSetup setup_;
  const bool event_index_;
  const bool notify_on_empty_;
  const bool indirect_;

 private:
  std::string_view fault_;
};

}  // namespace ostler::virtio
