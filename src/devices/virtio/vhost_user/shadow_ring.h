// The ring that a back end serves: ours, not the guest's. The guest's descriptors are checked and copied into
// it, so that the back end needs to understand no ring format but the plain split one, sees no address
// outside RAM, and what it has done is known buffer by buffer: translated code and the dirty log hear of its
// writes, and requests that it takes with it when it dies are still here.
//
// The back end can write the ring's memory, so nothing read from there is trusted; links of free descriptors
// and the chains lie in our own.
//
// The used part may be the guest's own (reset(Lent)): then the driver sees what the back end has used before
// we do, and an interrupt need not pass through us. Elements name the guest's heads there, so each chain is
// one descriptor of its guest's number, which points to an indirect table (§2.7.5.3). We follow when it suits
// us: no head comes back to us before its element is there. The guest, too, can write what is read then.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "devices/virtio/chain.h"
#include "devices/virtio/split_ring.h"
#include "devices/virtio/vhost_user/table_space.h"

namespace ostler::virtio::vhost_user {

// One thread at a time.
class ShadowRing {
 public:
  // A chain of any length fits.
  static constexpr uint16_t kSize = Chain::kMaxSegments;
  // Offsets within its memory, which is aligned to 4096.
  static constexpr uint64_t kDescriptors = 0;
  static constexpr uint64_t kAvailable = 16 * kSize;
  static constexpr uint64_t kUsed = kAvailable + 4096;
  static constexpr uint64_t kTables = kUsed + 3 * 4096;
  static constexpr uint32_t kTablePlaces = 4 * kSize;
  static constexpr uint64_t kBytes = kTables + 16 * uint64_t{kTablePlaces};

  // The used part of a ring of `size` descriptors, a power of two, in the guest's memory `ram`.
  struct Lent {
    std::shared_ptr<memory::RamBlock> ram;
    std::byte* used = nullptr;  // aligned to 4
    uint16_t size = 0;
    uint16_t index = 0;  // of the next element, free-running
  };

  // `address`: where the memory lies for the back end, among the guest's addresses.
  explicit ShadowRing(std::byte* memory, uint64_t address = 0);

  // Forgets all chains and begins anew. The back end must not serve the ring now.
  void reset() { reset(Lent{}); }
  // The same, with a used part of the guest's until the next reset().
  void reset(Lent lent);
  bool lent() const { return lent_.used != nullptr; }
  uint16_t size() const { return size_; }   // descriptors
  uint16_t index() const { return used_; }  // of the next used element
  const std::byte* used() const { return used_at_; }

  // A lent ring takes no second chain with the head of one that is not used yet.
  bool takes(uint16_t head) const { return !lent() || (head < size_ && !slots_[head].chain); }
  bool fits(const Chain& chain) const {
    return lent() ? tables_.fits(static_cast<uint32_t>(segments(chain))) : segments(chain) <= free_count_;
  }
  // The back end sees it at publish().
  void add(Chain chain);
  // True when the back end wants to be told.
  bool publish();

  struct Completed {
    Chain chain;
    uint32_t written;  // bytes, at most what the chain has room for
  };
  // The next one that the back end has used; none when there is none, or the ring has a fault.
  std::optional<Completed> take();
  // What the back end did against the rules; empty: nothing. Until reset().
  std::string_view fault() const { return fault_; }

  size_t outstanding() const { return outstanding_; }
  // All that the back end has not used, in the order in which they were added. The ring is as after reset().
  std::vector<Chain> give_back();

 private:
  struct Descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
  };
  static size_t segments(const Chain& chain) { return chain.readable().size() + chain.writable().size(); }
  template <class T>
  T* at(uint64_t offset) const {
    return reinterpret_cast<T*>(memory_ + offset);
  }
  static void put(Descriptor& to, const Segment& segment, bool writable, std::optional<uint16_t> next);
  uint16_t put_chain(const Chain& chain);
  uint16_t put_table(const Chain& chain);
  void free_descriptors(uint16_t head, size_t count);

  struct Slot {
    std::optional<Chain> chain;  // of a head
    uint64_t order = 0;
    uint16_t next = 0;   // free: the next free one; else the next of the chain
    uint32_t table = 0;  // of a lent ring: its first place
  };
  std::byte* const memory_;
  const uint64_t address_;
  Lent lent_;
  uint16_t size_ = kSize;
  std::byte* used_at_ = nullptr;
  TableSpace tables_{kTablePlaces};
  std::vector<Slot> slots_;
  uint16_t first_free_ = 0;
  size_t free_count_ = 0, outstanding_ = 0;
  uint16_t available_ = 0, published_ = 0, used_ = 0;  // free-running
  uint64_t order_ = 0;
  std::string_view fault_;
};

}  // namespace ostler::virtio::vhost_user
