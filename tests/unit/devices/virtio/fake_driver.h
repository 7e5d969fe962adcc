// The guest's side of a virtqueue for tests: RAM, rings in it, and a builder of descriptor chains, good and
// bad.
//
//     FakeQueue driver(memory, 8);
//     driver.chain().readable("abc").writable(16).offer();
//     ... the device runs ...
//     driver.used()  ->  {head, length}
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "devices/virtio/queue.h"
#include "memory/address_space.h"
#include "memory/dma.h"
#include "memory/guest_access.h"
#include "memory/ram_block.h"

namespace ostler::virtio::test {

// 1 MiB of RAM at 0; nothing above.
class GuestMemory {
 public:
  static constexpr uint64_t kBytes = 1 << 20;

  explicit GuestMemory(memory::Backing backing = memory::Backing::kAnonymous) {
    const bool share = backing != memory::Backing::kAnonymous;
    ram_ = *memory::RamBlock::create({.name = "ram", .size = kBytes, .backing = backing, .share = share});
    region_.emplace("ram", ram_);
    memory::Transaction change(space);
    change.add(space.root(), 0, *region_);
  }
  template <class T>
  T get(uint64_t at) const {
    return memory::guest_load<T>(ram_->host() + at);  // a guest's accesses race with the device's by right
  }
  template <class T>
  void put(uint64_t at, T value) {
    memory::guest_store<T>(ram_->host() + at, value);
  }
  void put_bytes(uint64_t at, std::string_view bytes) {
    memory::guest_copy(ram_->host() + at, bytes.data(), bytes.size());
  }
  std::string bytes(uint64_t at, size_t size) const {
    std::string found(size, '\0');
    memory::guest_copy(found.data(), ram_->host() + at, size);
    return found;
  }
  // Room that nothing else uses.
  uint64_t allocate(uint64_t size, uint64_t alignment = 16) {
    next_ = (next_ + alignment - 1) & ~(alignment - 1);
    const uint64_t at = next_;
    next_ += size;
    return at;
  }

  // Room from `mark` on, which allocate() gave, is free again.
  void release(uint64_t mark) { next_ = mark; }
  memory::RamBlock& ram() { return *ram_; }

  memory::AddressSpace space{"test", memory::AddressSpace::kMemorySize};

 private:
  std::shared_ptr<memory::RamBlock> ram_;
  std::optional<memory::RamRegion> region_;
  uint64_t next_ = 0x1000;
};

struct Descriptor {
  uint64_t address = 0;
  uint32_t length = 0;
  uint16_t flags = 0;
  uint16_t next = 0;
};
inline constexpr uint16_t kNext = 1, kWrite = 2, kIndirect = 4;

struct Used {
  uint32_t id;
  uint32_t length;
};

class FakeQueue {
 public:
  FakeQueue(GuestMemory& memory, uint16_t size) : memory_(memory) {
    setup.enabled = true;
    setup.size = size;
    setup.descriptors = memory.allocate(16u * size);
    setup.driver = memory.allocate(6u + 2u * size);
    setup.device = memory.allocate(6u + 8u * size);
  }

  class Builder {
   public:
    explicit Builder(FakeQueue& queue) : queue_(queue) {}
    Builder& readable(std::string_view bytes) {
      const uint64_t at = queue_.memory_.allocate(bytes.size() + 1);
      queue_.memory_.put_bytes(at, bytes);
      return raw({at, static_cast<uint32_t>(bytes.size()), 0, 0});
    }
    template <class T>
    Builder& readable_object(const T& object) {
      return readable(std::string_view(reinterpret_cast<const char*>(&object), sizeof object));
    }
    Builder& writable(uint32_t size) { return raw({queue_.memory_.allocate(size + 1), size, kWrite, 0}); }
    // As given, but for the link to the following descriptor.
    Builder& raw(Descriptor descriptor) {
      descriptors_.push_back(descriptor);
      return *this;
    }
    // Puts the chain into the table and makes it available. Returns its head.
    uint16_t offer() {
      const uint16_t head = place();
      queue_.make_available(head);
      return head;
    }
    // The same through an indirect table.
    uint16_t offer_indirect() {
      const uint64_t table = queue_.memory_.allocate(16 * descriptors_.size());
      for (size_t i = 0; i < descriptors_.size(); ++i) {
        Descriptor descriptor = descriptors_[i];
        if (i + 1 < descriptors_.size()) {
          descriptor.flags |= kNext;
          descriptor.next = static_cast<uint16_t>(i + 1);
        }
        queue_.memory_.put(table + 16 * i, descriptor);
      }
      const auto size = static_cast<uint32_t>(16 * descriptors_.size());
      descriptors_ = {{table, size, kIndirect, 0}};
      return offer();
    }
    // Where the i-th buffer of the chain lies.
    uint64_t address(size_t i) const { return descriptors_[i].address; }

   private:
    uint16_t place() {
      const uint16_t head = queue_.next_free_;
      for (size_t i = 0; i < descriptors_.size(); ++i) {
        const uint16_t at = queue_.next_free_;
        queue_.next_free_ = static_cast<uint16_t>((queue_.next_free_ + 1) % queue_.setup.size);
        Descriptor descriptor = descriptors_[i];
        if (i + 1 < descriptors_.size()) {
          descriptor.flags |= kNext;
          descriptor.next = queue_.next_free_;
        }
        queue_.set_descriptor(at, descriptor);
      }
      return head;
    }
    FakeQueue& queue_;
    std::vector<Descriptor> descriptors_;
  };

  Builder chain() { return Builder(*this); }
  void set_descriptor(uint16_t index, const Descriptor& descriptor) {
    memory_.put(setup.descriptors + 16u * index, descriptor);
  }
  void make_available(uint16_t head) {
    const uint16_t slot = available_ % setup.size;
    memory_.put(setup.driver + 4 + 2u * slot, head);
    set_available_index(++available_);
  }
  void set_available_index(uint16_t index) { memory_.put(setup.driver + 2, index); }
  void set_available_flags(uint16_t flags) { memory_.put(setup.driver, flags); }
  void set_used_event(uint16_t index) { memory_.put(setup.driver + 4 + 2u * setup.size, index); }
  uint16_t available_event() const { return memory_.get<uint16_t>(setup.device + 4 + 8u * setup.size); }
  uint16_t used_flags() const { return memory_.get<uint16_t>(setup.device); }
  uint16_t used_index() const { return memory_.get<uint16_t>(setup.device + 2); }
  // The next used element that was not looked at yet.
  std::optional<Used> used() {
    if (seen_ == used_index()) return std::nullopt;
    return memory_.get<Used>(setup.device + 4 + 8u * (seen_++ % setup.size));
  }

  // The rings as they were at first, after a reset of the device.
  void restart() {
    for (uint64_t at = setup.driver; at < setup.driver + 6 + 2u * setup.size; ++at)
      memory_.put<uint8_t>(at, 0);
    for (uint64_t at = setup.device; at < setup.device + 6 + 8u * setup.size; ++at)
      memory_.put<uint8_t>(at, 0);
    next_free_ = available_ = seen_ = 0;
  }

  QueueSetup setup;

 private:
  friend class Builder;
  GuestMemory& memory_;
  uint16_t next_free_ = 0;
  uint16_t available_ = 0;
  uint16_t seen_ = 0;
};

}  // namespace ostler::virtio::test
