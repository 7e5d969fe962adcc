// The ring that a back end serves: ours, not the guest's. The guest's descriptors are checked and copied into
// it, so that the back end needs to understand no ring format but the plain split one, sees no address
// outside RAM, and what it has done is known buffer by buffer: translated code and the dirty log hear of its
// writes, and requests that it takes with it when it dies are still here.
//
// The back end can write the ring's memory, so nothing read from there is trusted; links of free descriptors
// and the chains lie in our own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "devices/virtio/chain.h"
#include "devices/virtio/split_ring.h"

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
  static constexpr uint64_t kBytes = kUsed + 3 * 4096;

  explicit ShadowRing(std::byte* memory);

  // Forgets all chains and begins anew. The back end must not serve the ring now.
  void reset();

  bool fits(const Chain& chain) const { return segments(chain) <= free_count_; }
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
  static size_t segments(const Chain& chain) { return chain.readable().size() + chain.writable().size(); }
  template <class T>
  T* at(uint64_t offset) const {
    return reinterpret_cast<T*>(memory_ + offset);
  }
  uint16_t put(const Segment& segment, bool writable, bool last);

  struct Slot {
    std::optional<Chain> chain;  // of a head
    uint64_t order = 0;
    uint16_t next = 0;  // free: the next free one; else the next of the chain
  };
  std::byte* const memory_;
  std::vector<Slot> slots_;
  uint16_t first_free_ = 0;
  size_t free_count_ = 0, outstanding_ = 0;
  uint16_t available_ = 0, published_ = 0, used_ = 0;  // free-running
  uint64_t order_ = 0;
  std::string_view fault_;
};

}  // namespace ostler::virtio::vhost_user
