// The guest's side of a packed virtqueue for tests, as FakeQueue is that of a split one.
#pragma once

#include <map>

#include "fake_driver.h"

namespace ostler::virtio::test {

struct PackedDescriptor {
  uint64_t address = 0;
  uint32_t length = 0;
  uint16_t id = 0;
  uint16_t flags = 0;
};
inline constexpr uint16_t kAvail = 1u << 7, kUsedFlag = 1u << 15;

class FakePackedQueue {
 public:
  FakePackedQueue(GuestMemory& memory, uint16_t size) : memory_(memory) {
    setup.enabled = true;
    setup.size = size;
    setup.descriptors = memory.allocate(16u * size);
    setup.driver = memory.allocate(4);
    setup.device = memory.allocate(4);
  }

  class Builder {
   public:
    explicit Builder(FakePackedQueue& queue) : queue_(queue) {}
    Builder& readable(std::string_view bytes) {
      const uint64_t at = queue_.memory_.allocate(bytes.size() + 1);
      queue_.memory_.put_bytes(at, bytes);
      return raw({at, static_cast<uint32_t>(bytes.size()), 0, 0});
    }
    Builder& writable(uint32_t size) { return raw({queue_.memory_.allocate(size + 1), size, 0, kWrite}); }
    Builder& raw(PackedDescriptor descriptor) {
      descriptors_.push_back(descriptor);
      return *this;
    }
    // Writes the chain into the next entries, the first entry's flags last.
    void offer(uint16_t id) {
      uint16_t first_slot = queue_.next_, first_flags = 0;
      for (size_t i = 0; i < descriptors_.size(); ++i) {
        PackedDescriptor descriptor = descriptors_[i];
        descriptor.id = id;
        if (i + 1 < descriptors_.size()) descriptor.flags |= kNext;
        descriptor.flags |= queue_.wrap_ ? kAvail : kUsedFlag;
        const uint16_t flags = descriptor.flags;
        if (i == 0) {
          first_flags = flags;
          descriptor.flags = queue_.entry(first_slot).flags;
        }
        queue_.put(queue_.next_, descriptor);
        if (++queue_.next_ == queue_.setup.size) {
          queue_.next_ = 0;
          queue_.wrap_ = !queue_.wrap_;
        }
      }
      queue_.memory_.put<uint16_t>(queue_.setup.descriptors + 16u * first_slot + 14, first_flags);
      queue_.slots_[id] = static_cast<uint16_t>(descriptors_.size());
    }
    void offer_indirect(uint16_t id) {
      const uint64_t table = queue_.memory_.allocate(16 * descriptors_.size());
      for (size_t i = 0; i < descriptors_.size(); ++i) queue_.memory_.put(table + 16 * i, descriptors_[i]);
      const auto size = static_cast<uint32_t>(16 * descriptors_.size());
      descriptors_ = {{table, size, 0, kIndirect}};
      offer(id);
    }
    uint64_t address(size_t i) const { return descriptors_[i].address; }

   private:
    FakePackedQueue& queue_;
    std::vector<PackedDescriptor> descriptors_;
  };

  Builder chain() { return Builder(*this); }
  PackedDescriptor entry(uint16_t slot) const {
    return memory_.get<PackedDescriptor>(setup.descriptors + 16u * slot);
  }
  void put(uint16_t slot, const PackedDescriptor& descriptor) {
    memory_.put(setup.descriptors + 16u * slot, descriptor);
  }
  void set_event(uint16_t offset_wrap, uint16_t flags) {
    memory_.put<uint16_t>(setup.driver, offset_wrap);
    memory_.put<uint16_t>(setup.driver + 2, flags);
  }
  uint16_t device_offset_wrap() const { return memory_.get<uint16_t>(setup.device); }
  uint16_t device_flags() const { return memory_.get<uint16_t>(setup.device + 2); }
  // The next used entry.
  std::optional<Used> used() {
    const PackedDescriptor descriptor = entry(seen_);
    const bool avail = (descriptor.flags & kAvail) != 0, used = (descriptor.flags & kUsedFlag) != 0;
    if (avail != used || used != seen_wrap_) return std::nullopt;
    seen_ = static_cast<uint16_t>(seen_ + slots_[descriptor.id]);
    if (seen_ >= setup.size) {
      seen_ = static_cast<uint16_t>(seen_ - setup.size);
      seen_wrap_ = !seen_wrap_;
    }
    return Used{descriptor.id, descriptor.length};
  }

  QueueSetup setup;

 private:
  friend class Builder;
  GuestMemory& memory_;
  uint16_t next_ = 0;
  bool wrap_ = true;
  uint16_t seen_ = 0;
  bool seen_wrap_ = true;
  std::map<uint16_t, uint16_t> slots_;  // of each id
};

}  // namespace ostler::virtio::test
