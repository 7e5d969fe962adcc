#include "devices/virtio/vhost_user/shadow_ring.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/assert.h"

namespace ostler::virtio::vhost_user {
namespace {

// Virtio 1.2 §2.7.5, §2.7.8
constexpr uint16_t VIRTQ_DESC_F_NEXT = 1, VIRTQ_DESC_F_WRITE = 2, VIRTQ_DESC_F_INDIRECT = 4,
                   VIRTQ_USED_F_NO_NOTIFY = 1;

template <class T>
void store(T* to, T value) {
  __atomic_store_n(to, value, __ATOMIC_RELAXED);
}

}  // namespace

ShadowRing::ShadowRing(std::byte* memory, uint64_t address)
    : memory_(memory), address_(address), slots_(kSize) {
  static_assert(kAvailable + 6 + 2 * uint64_t{kSize} <= kUsed && kUsed + 6 + 8 * uint64_t{kSize} <= kTables);
  reset();
}

void ShadowRing::reset(Lent lent) {
  lent_ = std::move(lent);
  size_ = lent_.used != nullptr ? lent_.size : kSize;
  used_at_ = lent_.used != nullptr ? lent_.used : memory_ + kUsed;
  std::memset(memory_, 0, kTables);
  for (size_t i = 0; i < slots_.size(); ++i)
    slots_[i] = {.chain = {}, .order = 0, .next = static_cast<uint16_t>((i + 1) % kSize), .table = 0};
  tables_ = TableSpace(kTablePlaces);
  first_free_ = 0;
  free_count_ = kSize;
  outstanding_ = 0;
  available_ = published_ = used_ = lent_.index;
  store(at<uint16_t>(kAvailable + 2), available_);
  fault_ = {};
}

void ShadowRing::put(Descriptor& to, const Segment& segment, bool writable, std::optional<uint16_t> next) {
  store(&to.address, segment.address.value);
  store(&to.length, segment.length);
  store(&to.flags,
        static_cast<uint16_t>((writable ? VIRTQ_DESC_F_WRITE : 0) | (next ? VIRTQ_DESC_F_NEXT : 0)));
  store(&to.next, next.value_or(0));
}

uint16_t ShadowRing::put_chain(const Chain& chain) {
  size_t left = segments(chain);
  ASSERT(left != 0 && left <= free_count_, "asked with fits()");
  const uint16_t head = first_free_;
  for (const bool writable : {false, true})
    for (const Segment& segment : writable ? chain.writable() : chain.readable()) {
      const uint16_t index = first_free_;
      first_free_ = slots_[index].next;
      --free_count_;
      put(at<Descriptor>(kDescriptors)[index], segment, writable,
          --left != 0 ? std::optional(first_free_) : std::nullopt);
    }
  return head;
}

uint16_t ShadowRing::put_table(const Chain& chain) {
  const auto count = static_cast<uint32_t>(segments(chain));
  const auto first = count != 0 && takes(chain.head()) ? tables_.take(count) : std::nullopt;
  ASSERT(first.has_value(), "asked with takes() and fits()");
  auto* const table = at<Descriptor>(kTables) + *first;
  uint16_t index = 0;
  for (const bool writable : {false, true})
    for (const Segment& segment : writable ? chain.writable() : chain.readable()) {
      const auto next = static_cast<uint16_t>(index + 1);
      put(table[index], segment, writable, next < count ? std::optional(next) : std::nullopt);
      index = next;
    }
  Descriptor& head = at<Descriptor>(kDescriptors)[chain.head()];
  store(&head.address, address_ + kTables + sizeof(Descriptor) * *first);
  store(&head.length, static_cast<uint32_t>(sizeof(Descriptor) * count));
  store(&head.flags, VIRTQ_DESC_F_INDIRECT);
  slots_[chain.head()].table = *first;
  return chain.head();
}

void ShadowRing::add(Chain chain) {
  const uint16_t head = lent() ? put_table(chain) : put_chain(chain);
  slots_[head].chain.emplace(std::move(chain));
  slots_[head].order = order_++;
  ++outstanding_;
  store(at<uint16_t>(kAvailable + 4) + available_ % size_, head);
  ++available_;
}

bool ShadowRing::publish() {
  if (available_ == published_) return false;
  published_ = available_;
  __atomic_store_n(at<uint16_t>(kAvailable + 2), available_, __ATOMIC_RELEASE);
  // The index must be visible before the back end's wish is read (§2.7.13.4.1). A locked instruction, as the
  // thread sanitizer knows no fences.
  return (__atomic_fetch_or(reinterpret_cast<uint16_t*>(used_at_), uint16_t{0}, __ATOMIC_SEQ_CST) &
          VIRTQ_USED_F_NO_NOTIFY) == 0;
}

std::optional<ShadowRing::Completed> ShadowRing::take() {
  if (!fault_.empty()) return std::nullopt;
  const uint16_t index = __atomic_load_n(reinterpret_cast<uint16_t*>(used_at_ + 2), __ATOMIC_ACQUIRE);
  const auto waiting = static_cast<uint16_t>(index - used_);
  if (waiting == 0) return std::nullopt;
  if (waiting > outstanding_) {
    fault_ = "it has used more buffers than it was given";
    return std::nullopt;
  }
  struct Element {
    uint32_t id, length;
  };
  auto* const element = reinterpret_cast<Element*>(used_at_ + 4) + used_ % size_;
  const uint32_t head = __atomic_load_n(&element->id, __ATOMIC_RELAXED);
  const uint32_t length = __atomic_load_n(&element->length, __ATOMIC_RELAXED);
  if (head >= size_ || !slots_[head].chain) {
    fault_ = "it has used a buffer that it was not given";
    return std::nullopt;
  }
  ++used_;
  --outstanding_;
  Chain chain = *std::move(slots_[head].chain);
  slots_[head].chain.reset();
  if (lent())
    tables_.give(slots_[head].table, static_cast<uint32_t>(segments(chain)));
  else
    free_descriptors(static_cast<uint16_t>(head), segments(chain));
  const auto written = static_cast<uint32_t>(std::min<uint64_t>(length, chain.writable_bytes()));
  return Completed{std::move(chain), written};
}

void ShadowRing::free_descriptors(uint16_t head, size_t count) {
  uint16_t last = head;
  for (size_t more = count; more > 1; --more) last = slots_[last].next;
  free_count_ += count;
  slots_[last].next = first_free_;
  first_free_ = head;
}

std::vector<Chain> ShadowRing::give_back() {
  std::vector<std::pair<uint64_t, Chain>> kept;
  for (Slot& slot : slots_)
    if (slot.chain) kept.emplace_back(slot.order, *std::move(slot.chain));
  std::ranges::sort(kept, {}, [](const auto& each) { return each.first; });
  std::vector<Chain> chains;
  chains.reserve(kept.size());
  for (auto& [order, chain] : kept) chains.push_back(std::move(chain));
  reset();
  return chains;
}

}  // namespace ostler::virtio::vhost_user
