#include "rigs/virtqueue_driver.h"

#include <algorithm>
#include <cstring>

#include "devices/virtio/features.h"

namespace ostler::rigs {
namespace {

constexpr uint16_t kNext = 1, kWrite = 2, kIndirect = 4, kAvail = 1u << 7, kUsed = 1u << 15;

struct Descriptor {
  uint64_t address;
  uint32_t length;
  uint16_t flags_or_id;
  uint16_t next_or_flags;
};

}  // namespace

template <class T>
T VirtqueueDriver::get(uint64_t at) const {
  T value;
  std::memcpy(&value, ram_.data() + at, sizeof value);
  return value;
}

template <class T>
void VirtqueueDriver::put(uint64_t at, T value) {
  std::memcpy(ram_.data() + at, &value, sizeof value);
}

VirtqueueDriver::VirtqueueDriver(std::span<std::byte> ram, uint64_t at, uint16_t size, uint64_t features)
    : ram_(ram),
      packed_((features & virtio::feature(virtio::VIRTIO_F_RING_PACKED)) != 0),
      in_order_((features & virtio::feature(virtio::VIRTIO_F_IN_ORDER)) != 0),
      event_index_((features & virtio::feature(virtio::VIRTIO_F_EVENT_IDX)) != 0),
      setup_{.enabled = true, .size = size, .descriptors = at, .driver = at + 0x400, .device = at + 0x600},
      free_(size) {
  std::memset(ram.data() + at, 0, kBytes);
  for (uint16_t i = 0; i < size; ++i) ids_.push_back(i);
}

bool VirtqueueDriver::offer(std::span<const Buffer> buffers, bool indirect) {
  const auto slots = static_cast<uint16_t>(indirect ? 1 : buffers.size());
  const size_t ids = packed_ ? 1 : slots;
  if (buffers.empty() || slots > free_ || ids > ids_.size()) return false;
  Offered offered{
      .ids = {ids_.begin(), ids_.begin() + static_cast<ptrdiff_t>(ids)}, .slots = slots, .writable = 0};
  ids_.erase(ids_.begin(), ids_.begin() + static_cast<ptrdiff_t>(ids));
  free_ = static_cast<uint16_t>(free_ - slots);
  const uint16_t id = offered.ids.front();
  for (const Buffer& buffer : buffers) offered.writable += buffer.writable ? buffer.length : 0;
  std::vector<Descriptor> chain;
  for (size_t i = 0; i < buffers.size(); ++i) {
    const auto flags =
        static_cast<uint16_t>((buffers[i].writable ? kWrite : 0) | (i + 1 < buffers.size() ? kNext : 0));
    if (packed_)
      chain.push_back({buffers[i].address, buffers[i].length, id, flags});
    else
      chain.push_back({buffers[i].address, buffers[i].length, flags, static_cast<uint16_t>(i + 1)});
  }
  if (indirect) {
    const uint64_t table = setup_.descriptors + 0x800 + 0x80u * id;  // unused until the chain is back
    for (size_t i = 0; i < chain.size(); ++i) put(table + 16 * i, chain[i]);
    const auto length = static_cast<uint32_t>(16 * chain.size());
    chain = {packed_ ? Descriptor{table, length, id, kIndirect} : Descriptor{table, length, kIndirect, 0}};
  }
  if (packed_) {
    const uint16_t first = next_;
    uint16_t first_flags = 0;
    for (size_t i = 0; i < chain.size(); ++i) {
      const auto flags = static_cast<uint16_t>(chain[i].next_or_flags | (next_wrap_ ? kAvail : kUsed));
      const uint64_t entry = setup_.descriptors + 16u * next_;
      chain[i].next_or_flags = i == 0 ? get<uint16_t>(entry + 14) : flags;
      if (i == 0) first_flags = flags;
      put(entry, chain[i]);
      if (++next_ == setup_.size) {
        next_ = 0;
        next_wrap_ = !next_wrap_;
      }
    }
    put(setup_.descriptors + 16u * first + 14, first_flags);
  } else {
    for (size_t i = 0; i < chain.size(); ++i) {
      if (i + 1 < chain.size()) chain[i].next_or_flags = offered.ids[i + 1];
      put(setup_.descriptors + 16u * offered.ids[i], chain[i]);
    }
    put(setup_.driver + 4 + 2u * (next_ % setup_.size), id);
    put(setup_.driver + 2, ++next_);
  }
  offered_.push_back(std::move(offered));
  return true;
}

bool VirtqueueDriver::next_used(uint16_t& id, uint32_t& length) {
  if (!packed_) {
    if (get<uint16_t>(setup_.device + 2) == seen_) return false;
    const uint64_t entry = setup_.device + 4 + 8u * (seen_ % setup_.size);
    id = static_cast<uint16_t>(get<uint32_t>(entry));
    length = get<uint32_t>(entry + 4);
    ++seen_;
    return true;
  }
  const auto entry = get<Descriptor>(setup_.descriptors + 16u * seen_);
  const bool avail = (entry.next_or_flags & kAvail) != 0, used = (entry.next_or_flags & kUsed) != 0;
  if (avail != used || used != seen_wrap_) return false;
  id = entry.flags_or_id;
  length = entry.length;
  return true;
}

std::string VirtqueueDriver::collect() {
  if (!honest_) return "";
  uint16_t id = 0;
  uint32_t length = 0;
  while (next_used(id, length)) {
    const auto found = std::find_if(offered_.begin(), offered_.end(),
                                    [&](const Offered& each) { return each.ids.front() == id; });
    if (found == offered_.end()) return "the device used a chain that it was not given";
    if (in_order_ && found != offered_.begin()) return "the device used chains out of order";
    if (length > found->writable) return "the device tells of more bytes than there is room for";
    free_ = static_cast<uint16_t>(free_ + found->slots);
    ids_.insert(ids_.end(), found->ids.begin(), found->ids.end());
    if (packed_) {
      seen_ = static_cast<uint16_t>(seen_ + found->slots);
      if (seen_ >= setup_.size) {
        seen_ = static_cast<uint16_t>(seen_ - setup_.size);
        seen_wrap_ = !seen_wrap_;
      }
    }
    offered_.erase(found);
  }
  return "";
}

void VirtqueueDriver::suppress(uint32_t random) {
  if (!packed_) {
    put(setup_.driver, static_cast<uint16_t>(random & 1));
    put(setup_.driver + 4 + 2u * setup_.size, static_cast<uint16_t>(seen_ + (random >> 1) % 4));
    return;
  }
  put(setup_.driver, static_cast<uint16_t>(((random >> 2) % setup_.size) | (random & 0x8000)));
  put(setup_.driver + 2, static_cast<uint16_t>(random % (event_index_ ? 3 : 2)));
}

void VirtqueueDriver::garble(uint32_t random) {
  honest_ = false;
  const uint64_t garbage = random * 0x9e3779b97f4a7c15u;
  const uint64_t part = random % 3 == 0   ? setup_.descriptors
                        : random % 3 == 1 ? setup_.driver
                                          : setup_.device;
  const uint64_t at = part + (random >> 4) % (random % 3 == 0 ? 0x200 : 0x60);
  const size_t size = size_t{1} << (random >> 2) % 4;
  std::memcpy(ram_.data() + at, &garbage, size);
}

}  // namespace ostler::rigs
