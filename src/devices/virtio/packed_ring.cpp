#include "devices/virtio/packed_ring.h"

#include <algorithm>

namespace ostler::virtio {
namespace {

// §2.8.1
constexpr uint16_t VIRTQ_DESC_F_AVAIL = 1u << 7;
constexpr uint16_t VIRTQ_DESC_F_USED = 1u << 15;
// §2.8.10, flags of an event suppression structure: the second half of its 32 bits.
constexpr uint32_t RING_EVENT_FLAGS_ENABLE = 0;
constexpr uint32_t RING_EVENT_FLAGS_DISABLE = 1;
constexpr uint32_t RING_EVENT_FLAGS_DESC = 2;

}  // namespace

void PackedRing::Position::move(int slots, uint16_t size) {
  int next = slot + slots;
  if (next >= size || next < 0) {
    next += next < 0 ? size : -int{size};
    wrap = !wrap;
  }
  slot = static_cast<uint16_t>(next);
}

bool PackedRing::is_available(uint16_t flags) const {
  return ((flags & VIRTQ_DESC_F_AVAIL) != 0) == available_.wrap &&
         ((flags & VIRTQ_DESC_F_USED) != 0) != available_.wrap;
}

bool PackedRing::empty() {
  const auto flags = dma_.load_acquire<uint16_t>(descriptor(available_.slot) + kFlagsOffset);
  if (!flags) fail("the descriptor ring is not in RAM");
  return !flags || !is_available(*flags);
}

std::optional<Chain> PackedRing::pop() {
  if (empty()) return std::nullopt;
  // The first entry's flags are written last (§2.8.6), so all of the chain is there.
  Parsed parsed;
  Position at = available_;
  for (uint16_t slots = 1;; ++slots) {
    // Entries that we hold cannot be available again before they were used.
    if (outstanding_ + slots > setup_.size) {
      fail("more descriptors are available than the ring has");
      return std::nullopt;
    }
    const auto entry = dma_.read_le<Descriptor>(descriptor(at.slot));
    if (!entry) {
      fail("the descriptor ring is not in RAM");
      return std::nullopt;
    }
    at.move(1, setup_.size);
    const bool next = (entry->flags & VIRTQ_DESC_F_NEXT) != 0;
    bool good = true;
    if ((entry->flags & VIRTQ_DESC_F_INDIRECT) == 0)
      good = add_segment(entry->address, entry->length, (entry->flags & VIRTQ_DESC_F_WRITE) != 0, parsed);
    else
      good = next ? broken("an indirect descriptor with a next") : walk_indirect(*entry, parsed);
    if (!good) return std::nullopt;
    if (next) continue;
    outstanding_ = static_cast<uint16_t>(outstanding_ + slots);
    available_ = at;
    if (event_index_ && notifications_) set_notifications(true);  // moves the event's offset along
    // §2.8.6: the last descriptor has the buffer's ID.
    return Chain(entry->id, std::move(parsed.segments), parsed.readable, slots);
  }
}

// §2.8.7: entries one after the other; of their flags only WRITE counts.
bool PackedRing::walk_indirect(const Descriptor& descriptor, Parsed& parsed) {
  if (!indirect_) return broken("an indirect descriptor that was not negotiated");
  if (descriptor.length == 0 || descriptor.length % kDescriptorSize != 0)
    return broken("an indirect table of a wrong length");
  const uint32_t entries = descriptor.length / uint32_t{kDescriptorSize};
  if (entries > Chain::kMaxSegments) return broken("a chain of too many descriptors");
  for (uint32_t i = 0; i < entries; ++i) {
    const auto entry = dma_.read_le<Descriptor>(GuestPhys{descriptor.address} + i * kDescriptorSize);
    if (!entry) return broken("a descriptor table is not in RAM");
    if (!add_segment(entry->address, entry->length, (entry->flags & VIRTQ_DESC_F_WRITE) != 0, parsed))
      return false;
  }
  return true;
}

void PackedRing::unpop(const Chain& chain) {
  available_.move(-int{chain.slots()}, setup_.size);
  outstanding_ = static_cast<uint16_t>(outstanding_ - chain.slots());
  // The event's offset stays: the driver is to tell of more than was seen.
}

void PackedRing::stage(uint16_t head, uint16_t slots, uint32_t written) {
  Position at = used_;
  at.move(staged_slots_, setup_.size);
  // §2.8.5: both bits are the wrap counter; WRITE says that the length tells what was written.
  uint16_t flags = at.wrap ? VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED : 0;
  if (written != 0) flags |= VIRTQ_DESC_F_WRITE;
  const GuestPhys entry = descriptor(at.slot);
  bool stored = dma_.write_le(entry + 8, written) && dma_.write_le(entry + 12, head);
  if (staged_slots_ == 0)
    first_flags_ = flags;
  else
    stored = stored && dma_.store_release(entry + kFlagsOffset, flags);
  if (!stored) fail("the descriptor ring is not in RAM");
  staged_slots_ = static_cast<uint16_t>(staged_slots_ + slots);
}

void PackedRing::publish() {
  if (staged_slots_ == 0) return;
  // Release: the driver must see the buffers and the further entries before this one.
  if (!dma_.store_release(descriptor(used_.slot) + kFlagsOffset, first_flags_))
    fail("the descriptor ring is not in RAM");
  used_.move(staged_slots_, setup_.size);
  outstanding_ = static_cast<uint16_t>(outstanding_ - staged_slots_);
  unsignalled_ = static_cast<uint16_t>(std::min(unsignalled_ + staged_slots_, int{setup_.size}));
  staged_slots_ = 0;
}

bool PackedRing::should_interrupt() {
  const uint16_t since = unsignalled_;
  if (since == 0) return false;
  unsignalled_ = 0;
  // The used entries must be visible before the driver's wish is read.
  full_fence();
  const auto event = dma_.load_acquire<uint32_t>(GuestPhys{setup_.driver});
  if (!event) return broken("the driver's event structure is not in RAM");
  const uint32_t flags = *event >> 16 & 3;
  if (flags == RING_EVENT_FLAGS_DISABLE) return false;
  if (flags != RING_EVENT_FLAGS_DESC || !event_index_) return true;
  if (since == setup_.size) return true;
  // Distances back from the next entry to be used; an offset of the other round lies a ring's size before it.
  const int wanted =
      static_cast<int>(*event & 0x7fff) - (((*event & 0x8000) != 0) == used_.wrap ? 0 : int{setup_.size});
  return wanted < used_.slot && wanted >= used_.slot - since;
}

void PackedRing::set_notifications(bool on) {
  notifications_ = on;
  uint32_t event = RING_EVENT_FLAGS_DISABLE << 16;
  if (on && event_index_)
    event = RING_EVENT_FLAGS_DESC << 16 | (available_.wrap ? 0x8000u : 0u) | available_.slot;
  else if (on)
    event = RING_EVENT_FLAGS_ENABLE << 16;
  if (!dma_.store_release(GuestPhys{setup_.device}, event))
    fail("the device's event structure is not in RAM");
  // The wish must be visible before the ring is looked at again.
  if (on) full_fence();
}

void PackedRing::state(state::Archive& archive) {
  for (Position* position : {&available_, &used_}) {
    archive.field("slot", position->slot);
    archive.field("wrap", position->wrap);
    archive.check(position->slot < setup_.size, "slot");
  }
  archive.field("outstanding", outstanding_);
  archive.check(outstanding_ <= setup_.size, "outstanding");
  archive.field("notifications", notifications_);
  archive.field("unsignalled", unsignalled_);
  archive.check(unsignalled_ <= setup_.size, "unsignalled");
  // What follows relies on the bounds, even when the load has failed.
  if (!archive.failed()) return;
  available_ = used_ = {};
  outstanding_ = unsignalled_ = 0;
}

}  // namespace ostler::virtio
