#include "devices/virtio/split_ring.h"

namespace ostler::virtio {
namespace {

constexpr uint16_t VIRTQ_AVAIL_F_NO_INTERRUPT = 1;
constexpr uint16_t VIRTQ_USED_F_NO_NOTIFY = 1;

}  // namespace

std::optional<uint16_t> SplitRing::available_index() {
  const auto index = dma_.load_acquire<uint16_t>(available(kIndex));
  if (!index) {
    fail("the available ring is not in RAM");
    return std::nullopt;
  }
  // The driver cannot have more chains available than the queue has descriptors (§2.7.13.3).
  if (static_cast<uint16_t>(*index - next_available_) > setup_.size) {
    fail("the available index ran ahead of the queue");
    return std::nullopt;
  }
  return index;
}

bool SplitRing::empty() {
  const auto index = available_index();
  return !index || *index == next_available_;
}

std::optional<Chain> SplitRing::pop() {
  const auto index = available_index();
  if (!index || *index == next_available_) return std::nullopt;
  const uint16_t slot = next_available_ & (setup_.size - 1);
  const auto head = dma_.read_le<uint16_t>(available(kRing + 2 * uint64_t{slot}));
  if (!head) {
    fail("the available ring is not in RAM");
    return std::nullopt;
  }
  if (*head >= setup_.size) {
    fail("an available entry names no descriptor");
    return std::nullopt;
  }
  Parsed parsed;
  if (!walk_table(GuestPhys{setup_.descriptors}, setup_.size, *head, false, parsed)) return std::nullopt;
  ++next_available_;
  if (event_index_ && notifications_) set_notifications(true);  // moves avail_event along
  return Chain(*head, std::move(parsed.segments), parsed.readable);
}

void SplitRing::unpop(const Chain&) {
  --next_available_;  // avail_event stays: the driver is to tell of more than was seen
}

bool SplitRing::walk_table(GuestPhys table, uint32_t entries, uint16_t first, bool indirect, Parsed& parsed) {
  uint32_t at = first;
  for (uint32_t seen = 0;; ++seen) {
    if (at >= entries) return broken("a descriptor's next is outside its table");
    // A chain visits each descriptor at most once, so one more visit is a loop (§2.7.5.1).
    if (seen == entries) return broken("a descriptor chain loops");
    // One copy: the driver may change its memory while we look.
    const auto descriptor = dma_.read_le<Descriptor>(table + at * kDescriptorSize);
    if (!descriptor) return broken("a descriptor table is not in RAM");

    if ((descriptor->flags & VIRTQ_DESC_F_INDIRECT) != 0) {
      if (!indirect_) return broken("an indirect descriptor that was not negotiated");
      if (indirect) return broken("an indirect descriptor within an indirect table");
      if ((descriptor->flags & VIRTQ_DESC_F_NEXT) != 0) return broken("an indirect descriptor with a next");
      if (descriptor->length == 0 || descriptor->length % kDescriptorSize != 0)
        return broken("an indirect table of a wrong length");
      const uint32_t inner = descriptor->length / uint32_t{kDescriptorSize};
      // §2.7.5.3.1 allows no chain longer than the queue; drivers exceed that with indirect tables, so only
      // what a table of 16-bit links can address is enforced here and kMaxSegments in add_segment().
      if (inner > 0x10000) return broken("an indirect table of a wrong length");
      return walk_table(GuestPhys{descriptor->address}, inner, 0, true, parsed);
    }
    const bool writable = (descriptor->flags & VIRTQ_DESC_F_WRITE) != 0;
    if (!add_segment(descriptor->address, descriptor->length, writable, parsed)) return false;
    if ((descriptor->flags & VIRTQ_DESC_F_NEXT) == 0) return true;
    at = descriptor->next;
  }
}

void SplitRing::stage(uint16_t head, uint16_t, uint32_t written) {
  const uint16_t slot = static_cast<uint16_t>(next_used_ + staged_) & (setup_.size - 1);
  struct Element {
    uint32_t id, length;
  };
  if (!dma_.write_le(used(kRing + 8 * uint64_t{slot}), Element{head, written}))
    fail("the used ring is not in RAM");
  ++staged_;
}

void SplitRing::publish() {
  if (staged_ == 0) return;
  next_used_ = static_cast<uint16_t>(next_used_ + staged_);
  staged_ = 0;
  // Release: the driver must see the buffers and elements before the index (§2.7.8.2).
  if (!dma_.store_release(used(kIndex), next_used_)) fail("the used ring is not in RAM");
}

bool SplitRing::should_interrupt() {
  const uint16_t before = signalled_used_, now = next_used_;
  const bool valid = signalled_valid_;
  // Nothing was pushed since the last question: nothing to tell.
  if (valid && before == now) return false;
  if (!valid && now == 0) return false;
  signalled_used_ = now;
  signalled_valid_ = true;
  // The used index must be visible before the driver's wish is read, or both sides could wait for ever.
  full_fence();
  // §6.3: whatever the driver wishes, when the device has nothing left to do.
  if (notify_on_empty_ && empty()) return fault().empty();
  if (!event_index_) {
    const auto flags = dma_.read_le<uint16_t>(available(kFlags));
    return flags && (*flags & VIRTQ_AVAIL_F_NO_INTERRUPT) == 0;
  }
  const auto event = dma_.read_le<uint16_t>(available(kRing + 2 * uint64_t{setup_.size}));
  if (!event) return broken("the available ring is not in RAM");
  if (!valid) return true;  // restored or new: one interrupt too many does no harm
  return static_cast<uint16_t>(now - *event - 1) < static_cast<uint16_t>(now - before);
}

void SplitRing::set_notifications(bool on) {
  notifications_ = on;
  bool stored = true;
  if (event_index_) {
    // Off: leave avail_event behind; the driver's index has passed it and will not cross it again soon.
    if (on) stored = dma_.store_release(used(kRing + 8 * uint64_t{setup_.size}), next_available_);
  } else {
    stored = dma_.store_release(used(kFlags), on ? uint16_t{0} : VIRTQ_USED_F_NO_NOTIFY);
  }
  if (!stored) fail("the used ring is not in RAM");
  // The wish must be visible before the ring is looked at again.
  if (on) full_fence();
}

// Without EVENT_IDX the driver would take flags that others write there for wishes of ours.
std::optional<UsedRing> SplitRing::lend_used() {
  if (!event_index_) return std::nullopt;
  // Flags that an earlier one left are no wish of the next.
  if (!dma_.store_release(used(kFlags), uint16_t{0}) || !dma_.store_release(used(kIndex), next_used_)) {
    fail("the used ring is not in RAM");
    return std::nullopt;
  }
  return UsedRing{.address = used(0), .bytes = kRing + 8 * uint64_t{setup_.size}, .index = next_used_};
}

void SplitRing::used_elsewhere(uint16_t count) {
  if (count == 0) return;
  next_used_ = static_cast<uint16_t>(next_used_ + count);
  memory::Mapping mapping;
  if (!dma_.map(used(0), used_bytes(setup_.size), memory::Direction::kToGuest, mapping))
    return fail("the used ring is not in RAM");
  dma_.written(mapping, mapping.bytes);
}

void SplitRing::state(state::Archive& archive) {
  archive.field("next_available", next_available_);
  archive.field("next_used", next_used_);
  archive.field("signalled_used", signalled_used_);
  archive.field("signalled_valid", signalled_valid_);
  archive.field("notifications", notifications_);
}

}  // namespace ostler::virtio
