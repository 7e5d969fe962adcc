#include "devices/virtio/queue.h"

#include <atomic>
#include <bit>

#include "base/log.h"
#include "devices/virtio/features.h"

namespace ostler::virtio {
namespace {

// §2.7.5
constexpr uint16_t VIRTQ_DESC_F_NEXT = 1;
constexpr uint16_t VIRTQ_DESC_F_WRITE = 2;
constexpr uint16_t VIRTQ_DESC_F_INDIRECT = 4;
constexpr uint64_t kDescriptorSize = 16;
// §2.7.6, §2.7.8: byte offsets within the rings.
constexpr uint64_t kFlags = 0;
constexpr uint64_t kIndex = 2;
constexpr uint64_t kRing = 4;
constexpr uint16_t VIRTQ_AVAIL_F_NO_INTERRUPT = 1;
constexpr uint16_t VIRTQ_USED_F_NO_NOTIFY = 1;

// Orders our stores before our later loads, as the driver's own full barrier does on its side (§2.7.13.3.1).
void full_fence() {
#ifdef __SANITIZE_THREAD__
  // GCC's thread sanitizer knows no fences; a locked instruction orders as much.
  static std::atomic<int> locked{0};
  locked.fetch_add(1, std::memory_order_seq_cst);
#else
  std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
}

uint64_t descriptors_bytes(const QueueSetup& setup) {
  return kDescriptorSize * setup.size;
}
uint64_t available_bytes(const QueueSetup& setup) {
  return kRing + 2 * uint64_t{setup.size} + 2;
}
uint64_t used_bytes(const QueueSetup& setup) {
  return kRing + 8 * uint64_t{setup.size} + 2;
}

}  // namespace

struct Queue::Parsed {
  std::vector<Segment> segments;
  size_t readable = 0;
  uint64_t bytes = 0;
};

std::string_view Queue::misshapen(const QueueSetup& setup, uint16_t most) {
  if (!std::has_single_bit(setup.size) || setup.size > most) return "size";
  if (setup.descriptors % 16 != 0 || setup.driver % 2 != 0 || setup.device % 4 != 0) return "alignment";
  return {};
}

std::string_view Queue::fault(memory::AddressSpace& memory, const QueueSetup& setup, uint16_t most) {
  using memory::Direction;
  if (const auto why = misshapen(setup, most); !why.empty()) return why;
  memory::Dma dma(memory);
  if (!dma.accessible(GuestPhys{setup.descriptors}, descriptors_bytes(setup), Direction::kFromGuest))
    return "descriptor table outside RAM";
  if (!dma.accessible(GuestPhys{setup.driver}, available_bytes(setup), Direction::kFromGuest))
    return "available ring outside RAM";
  if (!dma.accessible(GuestPhys{setup.device}, used_bytes(setup), Direction::kToGuest))
    return "used ring outside RAM";
  return {};
}

Queue::Queue(memory::AddressSpace& memory, unsigned index, const QueueSetup& setup, uint64_t features)
    : dma_(memory),
      index_(index),
      setup_(setup),
      event_index_((features & feature(VIRTIO_F_EVENT_IDX)) != 0),
      indirect_((features & feature(VIRTIO_F_INDIRECT_DESC)) != 0) {}

void Queue::break_queue(std::string_view why) {
  if (broken_) return;
  broken_ = true;
  log::guest_error("virtqueue {}: {}", index_, why);
}

std::optional<uint16_t> Queue::available_index() {
  if (broken_) return std::nullopt;
  const auto index = dma_.load_acquire<uint16_t>(available(kIndex));
  if (!index) {
    break_queue("the available ring is not in RAM");
    return std::nullopt;
  }
  // The driver cannot have more chains available than the queue has descriptors (§2.7.13.3).
  if (static_cast<uint16_t>(*index - next_available_) > setup_.size) {
    break_queue("the available index ran ahead of the queue");
    return std::nullopt;
  }
  return index;
}

bool Queue::empty() {
  const auto index = available_index();
  return !index || *index == next_available_;
}

std::optional<Chain> Queue::pop() {
  const auto index = available_index();
  if (!index || *index == next_available_) return std::nullopt;
  const uint16_t slot = next_available_ & (setup_.size - 1);
  const auto head = dma_.read_le<uint16_t>(available(kRing + 2 * uint64_t{slot}));
  if (!head) {
    break_queue("the available ring is not in RAM");
    return std::nullopt;
  }
  if (*head >= setup_.size) {
    break_queue("an available entry names no descriptor");
    return std::nullopt;
  }
  Parsed parsed;
  if (!walk(*head, parsed)) return std::nullopt;
  ++next_available_;
  if (event_index_ && notifications_) set_notifications(true);  // moves avail_event along
  return Chain(*head, std::move(parsed.segments), parsed.readable);
}

std::optional<Chain> Queue::take_again(uint16_t head) {
  if (broken_) return std::nullopt;
  if (head >= setup_.size) return break_queue("a kept request names no descriptor"), std::nullopt;
  Parsed parsed;
  if (!walk(head, parsed)) return std::nullopt;
  return Chain(head, std::move(parsed.segments), parsed.readable);
}

void Queue::unpop(Chain) {
  --next_available_;
  if (event_index_ && notifications_) set_notifications(true);
}

bool Queue::walk(uint16_t head, Parsed& parsed) {
  return walk_table(GuestPhys{setup_.descriptors}, setup_.size, head, false, parsed);
}

bool Queue::walk_table(GuestPhys table, uint32_t entries, uint16_t first, bool indirect, Parsed& parsed) {
  uint32_t at = first;
  for (uint32_t seen = 0;; ++seen) {
    if (at >= entries) return break_queue("a descriptor's next is outside its table"), false;
    // A chain visits each descriptor at most once, so one more visit is a loop (§2.7.5.1).
    if (seen == entries) return break_queue("a descriptor chain loops"), false;
    // One copy: the driver may change its memory while we look.
    const auto descriptor = dma_.read_le<Descriptor>(table + at * kDescriptorSize);
    if (!descriptor) return break_queue("a descriptor table is not in RAM"), false;

    if ((descriptor->flags & VIRTQ_DESC_F_INDIRECT) != 0) {
      if (!indirect_) return break_queue("an indirect descriptor that was not negotiated"), false;
      if (indirect) return break_queue("an indirect descriptor within an indirect table"), false;
      if ((descriptor->flags & VIRTQ_DESC_F_NEXT) != 0)
        return break_queue("an indirect descriptor with a next"), false;
      if (descriptor->length == 0 || descriptor->length % kDescriptorSize != 0)
        return break_queue("an indirect table of a wrong length"), false;
      const uint32_t inner = descriptor->length / kDescriptorSize;
      // §2.7.5.3.1 allows no chain longer than the queue; drivers exceed that with indirect tables, so only
      // what a table of 16-bit links can address is enforced here and kMaxSegments below.
      if (inner > 0x10000) return break_queue("an indirect table of a wrong length"), false;
      return walk_table(GuestPhys{descriptor->address}, inner, 0, true, parsed);
    }
    if (!add_segment(*descriptor, parsed)) return false;
    if ((descriptor->flags & VIRTQ_DESC_F_NEXT) == 0) return true;
    at = descriptor->next;
  }
}

bool Queue::add_segment(const Descriptor& descriptor, Parsed& parsed) {
  const bool writable = (descriptor.flags & VIRTQ_DESC_F_WRITE) != 0;
  if (descriptor.length == 0) return break_queue("a descriptor of length 0"), false;
  if (!writable && parsed.readable != parsed.segments.size())
    return break_queue("a readable descriptor after a writable one"), false;
  if (parsed.segments.size() == Chain::kMaxSegments)
    return break_queue("a chain of too many descriptors"), false;
  // §2.7.5.2: at most 2^32 bytes in total; the used length could not tell more either.
  parsed.bytes += descriptor.length;
  if (parsed.bytes > UINT32_MAX) return break_queue("a chain of more than 4 GiB"), false;
  const auto direction = writable ? memory::Direction::kToGuest : memory::Direction::kFromGuest;
  if (!dma_.accessible(GuestPhys{descriptor.address}, descriptor.length, direction))
    return break_queue("a buffer outside RAM"), false;
  if (parsed.segments.empty()) parsed.segments.reserve(4);
  parsed.segments.push_back({GuestPhys{descriptor.address}, descriptor.length});
  if (!writable) ++parsed.readable;
  return true;
}

void Queue::stage(Chain chain, uint32_t written, uint16_t ahead) {
  if (broken_) return;
  const uint16_t slot = static_cast<uint16_t>(next_used_ + ahead) & (setup_.size - 1);
  struct Element {
    uint32_t id, length;
  };
  if (!dma_.write_le(used(kRing + 8 * uint64_t{slot}), Element{chain.head(), written}))
    break_queue("the used ring is not in RAM");
}

void Queue::publish(uint16_t count) {
  if (broken_ || count == 0) return;
  next_used_ = static_cast<uint16_t>(next_used_ + count);
  // Release: the driver must see the buffers and elements before the index (§2.7.8.2).
  if (!dma_.store_release(used(kIndex), next_used_)) break_queue("the used ring is not in RAM");
}

void Queue::push(Chain chain, uint32_t written) {
  stage(std::move(chain), written, 0);
  publish(1);
}

bool Queue::should_interrupt() {
  if (broken_) return false;
  const uint16_t before = signalled_used_, now = next_used_;
  const bool valid = signalled_valid_;
  // Nothing was pushed since the last question: nothing to tell.
  if (valid && before == now) return false;
  if (!valid && now == 0) return false;
  signalled_used_ = now;
  signalled_valid_ = true;
  // The used index must be visible before the driver's wish is read, or both sides could wait for ever.
  full_fence();
  if (!event_index_) {
    const auto flags = dma_.read_le<uint16_t>(available(kFlags));
    return flags && (*flags & VIRTQ_AVAIL_F_NO_INTERRUPT) == 0;
  }
  const auto event = dma_.read_le<uint16_t>(available(kRing + 2 * uint64_t{setup_.size}));
  if (!event) return break_queue("the available ring is not in RAM"), false;
  if (!valid) return true;  // restored or new: one interrupt too many does no harm
  return static_cast<uint16_t>(now - *event - 1) < static_cast<uint16_t>(now - before);
}

void Queue::set_notifications(bool on) {
  if (broken_) return;
  notifications_ = on;
  bool stored = true;
  if (event_index_) {
    // Off: leave avail_event behind; the driver's index has passed it and will not cross it again soon.
    if (on) stored = dma_.store_release(used(kRing + 8 * uint64_t{setup_.size}), next_available_);
  } else {
    stored = dma_.store_release(used(kFlags), on ? uint16_t{0} : VIRTQ_USED_F_NO_NOTIFY);
  }
  if (!stored) break_queue("the used ring is not in RAM");
  // The wish must be visible before the ring is looked at again.
  if (on) full_fence();
}

void Queue::state(state::Archive& archive) {
  archive.section("virtqueue", 1);
  archive.field("next_available", next_available_);
  archive.field("next_used", next_used_);
  archive.field("signalled_used", signalled_used_);
  archive.field("signalled_valid", signalled_valid_);
  archive.field("notifications", notifications_);
  archive.field("broken", broken_);
}

}  // namespace ostler::virtio
