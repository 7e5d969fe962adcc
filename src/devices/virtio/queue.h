// The device's side of a split virtqueue (Virtio 1.2 §2.7), with indirect descriptors and event index.
//
//        driver ──> descriptor table + available ring ──pop()──>  Chain  ──push()──> used ring ──> driver
//
// The rings are hostile memory. Whatever breaks the rules (an index that ran ahead, a loop, a bad flag, an
// address outside RAM) breaks the queue: pop() then returns nothing for ever and the reason is logged; the
// owner reports DEVICE_NEEDS_RESET. Nothing here loops more often than the queue is long or keeps memory
// after a chain is gone.
//
// One thread at a time: the owning device's lock. A packed ring (§2.8) would offer the same operations.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "devices/virtio/chain.h"
#include "memory/dma.h"
#include "state/archive.h"

namespace ostler::virtio {

// What the driver wrote for one queue.
struct QueueSetup {
  bool enabled = false;
  uint16_t size = 0;         // descriptors; a power of two
  uint64_t descriptors = 0;  // guest-physical addresses of the three parts
  uint64_t driver = 0;       // available ring
  uint64_t device = 0;       // used ring
};

class Queue {
 public:
  Queue(memory::AddressSpace& memory, unsigned index, const QueueSetup& setup, uint64_t features);

  // Why `setup` can never be used, or empty: the size is not a power of two in 1..most, or parts are
  // misaligned (§2.7: 16, 2, 4).
  static std::string_view misshapen(const QueueSetup& setup, uint16_t most);
  // The same, or that parts are not in RAM now.
  static std::string_view fault(memory::AddressSpace& memory, const QueueSetup& setup, uint16_t most);

  unsigned index() const { return index_; }
  uint16_t size() const { return setup_.size; }
  bool broken() const { return broken_; }
  memory::Dma& dma() { return dma_; }

  // The next available chain; none when the driver has made no more available or the queue is broken.
  std::optional<Chain> pop();
  // Undoes the last pop(), before anything was pushed: the chain will be taken again.
  void unpop(Chain chain);
  // A chain that was popped before the state was saved, by its head; none, and the queue breaks, when there
  // is no such chain.
  std::optional<Chain> take_again(uint16_t head);
  bool empty();  // nothing available, or broken
  // Returns a chain as used, its first `written` writable bytes filled. The driver sees it at once; it is
  // told when should_interrupt() says so, which may be after several pushes.
  void push(Chain chain, uint32_t written);
  // For buffers that belong together (virtio-net's mergeable buffers): fills used entries that the driver
  // sees only at publish(). `ahead` counts from 0.
  void stage(Chain chain, uint32_t written, uint16_t ahead);
  void publish(uint16_t count);
  // True when the driver wants to hear of the chains pushed since the last call (§2.7.7.2, §2.7.10).
  bool should_interrupt();

  // Asks the driver for notifications, or tells it to save them. After turning them on, look at the ring once
  // more.
  void set_notifications(bool on);

  // The owner found the content of a chain against the rules of its device (§2.1.2).
  void break_queue(std::string_view why);

  void state(state::Archive& archive);

 private:
  struct Descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
  };
  struct Parsed;
  std::optional<uint16_t> available_index();
  bool walk(uint16_t head, Parsed& parsed);
  bool walk_table(GuestPhys table, uint32_t entries, uint16_t first, bool indirect, Parsed& parsed);
  bool add_segment(const Descriptor& descriptor, Parsed& parsed);

  GuestPhys available(uint64_t offset) const { return GuestPhys{setup_.driver + offset}; }
  GuestPhys used(uint64_t offset) const { return GuestPhys{setup_.device + offset}; }

  memory::Dma dma_;
  const unsigned index_;
  const QueueSetup setup_;
  const bool event_index_;
  const bool indirect_;
  uint16_t next_available_ = 0;  // of the free-running indices
  uint16_t next_used_ = 0;
  uint16_t signalled_used_ = 0;  // next_used_ when should_interrupt() was last asked
  bool signalled_valid_ = false;
  bool notifications_ = true;
  bool broken_ = false;
};

}  // namespace ostler::virtio
