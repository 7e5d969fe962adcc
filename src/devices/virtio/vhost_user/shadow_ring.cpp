#include "devices/virtio/vhost_user/shadow_ring.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/assert.h"

namespace ostler::virtio::vhost_user {
namespace {

// Virtio 1.2 §2.7.5, §2.7.8
constexpr uint16_t VIRTQ_DESC_F_NEXT = 1, VIRTQ_DESC_F_WRITE = 2, VIRTQ_USED_F_NO_NOTIFY = 1;

struct Descriptor {
  uint64_t address;
  uint32_t length;
  uint16_t flags;
  uint16_t next;
};

template <class T>
void store(T* to, T value) {
  __atomic_store_n(to, value, __ATOMIC_RELAXED);
}

}  // namespace

ShadowRing::ShadowRing(std::byte* memory) : memory_(memory), slots_(kSize) {
  static_assert(kAvailable + 6 + 2 * uint64_t{kSize} <= kUsed && kUsed + 6 + 8 * uint64_t{kSize} <= kBytes);
  reset();
}

void ShadowRing::reset() {
  std::memset(memory_, 0, kBytes);
  for (size_t i = 0; i < slots_.size(); ++i)
    slots_[i] = {.chain = {}, .order = 0, .next = static_cast<uint16_t>((i + 1) % kSize)};
  first_free_ = 0;
  free_count_ = kSize;
  outstanding_ = 0;
  available_ = published_ = used_ = 0;
  fault_ = {};
}

uint16_t ShadowRing::put(const Segment& segment, bool writable, bool last) {
  const uint16_t index = first_free_;
  first_free_ = slots_[index].next;
  --free_count_;
  auto* const to = at<Descriptor>(kDescriptors) + index;
  store(&to->address, segment.address.value);
  store(&to->length, segment.length);
  store(&to->flags,
        static_cast<uint16_t>((writable ? VIRTQ_DESC_F_WRITE : 0) | (last ? 0 : VIRTQ_DESC_F_NEXT)));
  store(&to->next, first_free_);
  return index;
}

void ShadowRing::add(Chain chain) {
  size_t left = segments(chain);
  ASSERT(left != 0 && left <= free_count_, "asked with fits()");
  const uint16_t head = first_free_;
  for (const Segment& segment : chain.readable()) put(segment, false, --left == 0);
  for (const Segment& segment : chain.writable()) put(segment, true, --left == 0);
  slots_[head].chain.emplace(std::move(chain));
  slots_[head].order = order_++;
  ++outstanding_;
  store(at<uint16_t>(kAvailable + 4) + available_ % kSize, head);
  ++available_;
}

bool ShadowRing::publish() {
  if (available_ == published_) return false;
  published_ = available_;
  __atomic_store_n(at<uint16_t>(kAvailable + 2), available_, __ATOMIC_RELEASE);
  // The index must be visible before the back end's wish is read (§2.7.13.4.1). A locked instruction, as the
  // thread sanitizer knows no fences.
  return (__atomic_fetch_or(at<uint16_t>(kUsed), uint16_t{0}, __ATOMIC_SEQ_CST) & VIRTQ_USED_F_NO_NOTIFY) ==
         0;
}

std::optional<ShadowRing::Completed> ShadowRing::take() {
  if (!fault_.empty()) return std::nullopt;
  const uint16_t index = __atomic_load_n(at<uint16_t>(kUsed + 2), __ATOMIC_ACQUIRE);
  const auto waiting = static_cast<uint16_t>(index - used_);
  if (waiting == 0) return std::nullopt;
  if (waiting > outstanding_) {
    fault_ = "it has used more buffers than it was given";
    return std::nullopt;
  }
  struct Element {
    uint32_t id, length;
  };
  auto* const element = at<Element>(kUsed + 4) + used_ % kSize;
  const uint32_t head = __atomic_load_n(&element->id, __ATOMIC_RELAXED);
  const uint32_t length = __atomic_load_n(&element->length, __ATOMIC_RELAXED);
  if (head >= kSize || !slots_[head].chain) {
    fault_ = "it has used a buffer that it was not given";
    return std::nullopt;
  }
  ++used_;
  --outstanding_;
  Chain chain = *std::move(slots_[head].chain);
  slots_[head].chain.reset();
  auto last = static_cast<uint16_t>(head);
  for (size_t more = segments(chain); more > 1; --more) last = slots_[last].next;
  free_count_ += segments(chain);
  slots_[last].next = first_free_;
  first_free_ = static_cast<uint16_t>(head);
  const auto written = static_cast<uint32_t>(std::min<uint64_t>(length, chain.writable_bytes()));
  return Completed{std::move(chain), written};
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
