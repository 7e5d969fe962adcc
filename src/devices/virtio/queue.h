// The device's side of a virtqueue (Virtio 1.2 §2.6), split or packed, with indirect descriptors, event
// suppression and in-order use, as the driver negotiated them.
//
//        driver ──> available descriptors ──pop()──>  Chain  ──push()──> used descriptors ──> driver
//
// The rings are hostile memory. Whatever breaks the rules (an index that ran ahead, a loop, a bad flag, an
// address outside RAM) breaks the queue: pop() then returns nothing for ever and the reason is logged; the
// owner reports DEVICE_NEEDS_RESET. Nothing here loops more often than the queue is long or keeps memory
// after a chain is gone.
//
// One thread at a time: the lock of the queue in its device.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string_view>

#include "devices/virtio/chain.h"
#include "devices/virtio/ring.h"
#include "memory/dma.h"
#include "state/archive.h"

namespace ostler::virtio {

class Queue {
 public:
  // `features`: RING_PACKED, EVENT_IDX, INDIRECT_DESC and IN_ORDER count.
  Queue(memory::AddressSpace& memory, unsigned index, const QueueSetup& setup, uint64_t features);

  // Why `setup` can never be used, or empty: the size is not in 1..most or, of a split ring, no power of two,
  // or parts are misaligned (§2.7: 16, 2, 4; §2.8.10: 16, 4, 4).
  static std::string_view misshapen(const QueueSetup& setup, uint16_t most, uint64_t features);
  // The same, or that parts are not in RAM now.
  static std::string_view fault(memory::AddressSpace& memory, const QueueSetup& setup, uint16_t most,
                                uint64_t features);

  unsigned index() const { return index_; }
  uint16_t size() const { return ring_->setup().size; }
  bool broken() const { return broken_; }
  // Why; empty unless broken().
  std::string_view fault() const { return ring_->fault(); }
  memory::Dma& dma() { return ring_->dma(); }

  // The next available chain; none when the driver has made no more available or the queue is broken or
  // closed.
  std::optional<Chain> pop();
  // Undoes the last pop(), before a later one: the chain will be taken again.
  void unpop(Chain chain);
  // A chain that was popped before the state was saved; none, and the queue breaks, when it cannot be. Each
  // once.
  std::optional<Chain> take_again(const ChainRecord& record);
  bool empty();  // nothing available, or broken, or closed
  // Returns a chain as used, its first `written` writable bytes filled. The driver sees it at once (when
  // buffers are used in order: as soon as those before it are used); it is told when should_interrupt() says
  // so, which may be after several pushes.
  void push(Chain chain, uint32_t written);
  // For buffers that belong together (virtio-net's mergeable buffers): the driver sees those staged, in this
  // order, at publish().
  void stage(Chain chain, uint32_t written);
  void publish();
  // True when the driver wants to hear of the chains pushed since the last call (§2.7.7.2, §2.7.10, §2.8.10).
  bool should_interrupt();

  // Asks the driver for notifications, or tells it to save them. After turning them on, look at the ring once
  // more.
  void set_notifications(bool on);

  // Lets somebody else write the used ring: until all that it did was told by used_elsewhere(), nothing is
  // pushed here. Chains are popped as ever. None: not of this queue (split, with EVENT_IDX, not in order).
  std::optional<UsedRing> lend_used();
  // So many more elements were written there, which the driver may have seen; should_interrupt() counts them.
  void used_elsewhere(uint16_t count);

  // The owner found the content of a chain against the rules of its device (§2.1.2).
  void break_queue(std::string_view why);
  // No chain is taken any more: the queue is being reset.
  void close() { closed_ = true; }

  void state(state::Archive& archive);

 private:
  // A chain that was taken and is not yet used, when use is in order.
  struct Taken {
    uint16_t head = 0;
    uint16_t slots = 1;
    bool done = false;
    bool again = false;  // given out by take_again()
    uint32_t written = 0;
  };
  bool look();  // after each operation on the ring: whether it is still good

  const unsigned index_;
  const bool packed_;
  const bool in_order_;
  std::unique_ptr<Ring> ring_;
  bool broken_ = false;
  bool closed_ = false;
  std::deque<Taken> taken_;   // in order of their sequence numbers
  uint16_t first_taken_ = 0;  // sequence number of the first
};

}  // namespace ostler::virtio
