#include "devices/virtio/queue.h"

#include <bit>
#include <utility>

#include "base/log.h"
#include "devices/virtio/packed_ring.h"
#include "devices/virtio/split_ring.h"

namespace ostler::virtio {
namespace {

bool is_packed(uint64_t features) {
  return (features & feature(VIRTIO_F_RING_PACKED)) != 0;
}

}  // namespace

std::string_view Queue::misshapen(const QueueSetup& setup, uint16_t most, uint64_t features) {
  const bool packed = is_packed(features);
  if (setup.size == 0 || setup.size > most || (!packed && !std::has_single_bit(setup.size))) return "size";
  if (setup.descriptors % 16 != 0 || setup.driver % (packed ? 4 : 2) != 0 || setup.device % 4 != 0)
    return "alignment";
  return {};
}

std::string_view Queue::fault(memory::AddressSpace& memory, const QueueSetup& setup, uint16_t most,
                              uint64_t features) {
  using memory::Direction;
  if (const auto why = misshapen(setup, most, features); !why.empty()) return why;
  memory::Dma dma(memory);
  const auto outside = [&](uint64_t address, uint64_t bytes, Direction direction) {
    return !dma.accessible(GuestPhys{address}, bytes, direction);
  };
  if (is_packed(features)) {
    if (outside(setup.descriptors, PackedRing::descriptors_bytes(setup.size), Direction::kToGuest))
      return "descriptor ring outside RAM";
    if (outside(setup.driver, PackedRing::kEventBytes, Direction::kFromGuest) ||
        outside(setup.device, PackedRing::kEventBytes, Direction::kToGuest))
      return "event structure outside RAM";
    return {};
  }
  if (outside(setup.descriptors, SplitRing::descriptors_bytes(setup.size), Direction::kFromGuest))
    return "descriptor table outside RAM";
  if (outside(setup.driver, SplitRing::available_bytes(setup.size), Direction::kFromGuest))
    return "available ring outside RAM";
  if (outside(setup.device, SplitRing::used_bytes(setup.size), Direction::kToGuest))
    return "used ring outside RAM";
  return {};
}

Queue::Queue(memory::AddressSpace& memory, unsigned index, const QueueSetup& setup, uint64_t features)
    : index_(index), packed_(is_packed(features)), in_order_((features & feature(VIRTIO_F_IN_ORDER)) != 0) {
  if (packed_)
    ring_ = std::make_unique<PackedRing>(memory, setup, features);
  else
    ring_ = std::make_unique<SplitRing>(memory, setup, features);
}

void Queue::break_queue(std::string_view why) {
  ring_->fail(why);
  look();
}

bool Queue::look() {
  if (broken_) return false;
  if (ring_->fault().empty()) return true;
  broken_ = true;
  log::guest_error("virtqueue {}: {}", index_, ring_->fault());
  return false;
}

bool Queue::empty() {
  if (broken_ || closed_) return true;
  const bool nothing = ring_->empty();
  return !look() || nothing;
}

std::optional<Chain> Queue::pop() {
  if (broken_ || closed_) return std::nullopt;
  auto chain = ring_->pop();
  if (!look() || !chain) return std::nullopt;
  if (!in_order_) return chain;
  if (taken_.size() == size()) {
    break_queue("more chains are available than the queue has descriptors");
    return std::nullopt;
  }
  chain->set_sequence(static_cast<uint16_t>(first_taken_ + taken_.size()));
  taken_.push_back({.head = chain->head(), .slots = chain->slots()});
  return chain;
}

void Queue::unpop(Chain chain) {
  if (broken_) return;
  if (in_order_) taken_.pop_back();
  ring_->unpop(chain);
  look();
}

std::optional<Chain> Queue::take_again(const ChainRecord& record) {
  if (broken_) return std::nullopt;
  std::optional<Chain> chain;
  if (!record.lengths.empty() && record.slots <= size()) chain = record.chain();
  if (chain && in_order_) {
    const auto at = static_cast<uint16_t>(chain->sequence() - first_taken_);
    // A second chain of one place would be given back when the place is gone.
    if (at >= taken_.size() || taken_[at].done || std::exchange(taken_[at].again, true)) chain.reset();
  }
  if (!chain || !ring_->accessible(*chain)) ring_->fail("a kept request that cannot be");
  if (!look()) return std::nullopt;
  return chain;
}

void Queue::stage(Chain chain, uint32_t written) {
  if (broken_) return;
  if (!in_order_) {
    ring_->stage(chain.head(), chain.slots(), written);
    look();
    return;
  }
  Taken& taken = taken_[static_cast<uint16_t>(chain.sequence() - first_taken_)];
  taken.done = true;
  taken.written = written;
}

void Queue::publish() {
  if (broken_) return;
  // §2.7.9, §2.8.9: used in the order in which they were made available.
  while (!taken_.empty() && taken_.front().done) {
    ring_->stage(taken_.front().head, taken_.front().slots, taken_.front().written);
    taken_.pop_front();
    ++first_taken_;
  }
  if (look()) ring_->publish();
  look();
}

void Queue::push(Chain chain, uint32_t written) {
  stage(std::move(chain), written);
  publish();
}

bool Queue::should_interrupt() {
  if (broken_) return false;
  const bool wanted = ring_->should_interrupt();
  return look() && wanted;
}

void Queue::set_notifications(bool on) {
  if (broken_) return;
  ring_->set_notifications(on);
  look();
}

std::optional<UsedRing> Queue::lend_used() {
  if (broken_ || closed_ || in_order_) return std::nullopt;
  auto lent = ring_->lend_used();
  if (!look()) return std::nullopt;
  return lent;
}

void Queue::used_elsewhere(uint16_t count) {
  if (broken_) return;
  ring_->used_elsewhere(count);
  look();
}

void Queue::state(state::Archive& archive) {
  archive.section("virtqueue", 2);
  ring_->state(archive);
  archive.field("broken", broken_);
  if (archive.loading() && broken_) ring_->fail("broken when the state was saved");
  if (!in_order_ || archive.version() < 2) return;
  std::vector<uint16_t> heads, slots;
  std::vector<uint8_t> done;
  std::vector<uint32_t> written;
  for (const Taken& taken : taken_) {
    heads.push_back(taken.head);
    slots.push_back(taken.slots);
    done.push_back(taken.done ? 1 : 0);
    written.push_back(taken.written);
  }
  archive.field("first_taken", first_taken_);
  archive.field("heads", heads, size());
  archive.field("slots", slots, size());
  archive.field("done", done, size());
  archive.field("written", written, size());
  archive.check(slots.size() == heads.size() && done.size() == heads.size() && written.size() == heads.size(),
                "taken chains");
  uint32_t sum = 0;
  for (const uint16_t each : slots) {
    archive.check(each != 0, "slots");
    sum += each;
  }
  archive.check(sum <= size(), "slots");
  if (!archive.loading() || archive.failed()) return;
  taken_.clear();
  for (size_t i = 0; i < heads.size(); ++i)
    taken_.push_back({.head = heads[i], .slots = slots[i], .done = done[i] != 0, .written = written[i]});
}

}  // namespace ostler::virtio
