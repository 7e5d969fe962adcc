#include "devices/virtio/ring.h"

#include <atomic>

namespace ostler::virtio {

void Ring::full_fence() {
#ifdef __SANITIZE_THREAD__
  // GCC's thread sanitizer knows no fences; a locked instruction orders as much.
  static std::atomic<int> locked{0};
  locked.fetch_add(1, std::memory_order_seq_cst);
#else
  std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
}

bool Ring::add_segment(uint64_t address, uint32_t length, bool writable, Parsed& parsed) {
  if (length == 0) return broken("a descriptor of length 0");
  if (!writable && parsed.readable != parsed.segments.size())
    return broken("a readable descriptor after a writable one");
  if (parsed.segments.size() == Chain::kMaxSegments) return broken("a chain of too many descriptors");
  // §2.7.5.2: at most 2^32 bytes in total; the used length could not tell more either.
  parsed.bytes += length;
  if (parsed.bytes > UINT32_MAX) return broken("a chain of more than 4 GiB");
  const auto direction = writable ? memory::Direction::kToGuest : memory::Direction::kFromGuest;
  if (!dma_.accessible(GuestPhys{address}, length, direction)) return broken("a buffer outside RAM");
  if (parsed.segments.empty()) parsed.segments.reserve(4);
  parsed.segments.push_back({GuestPhys{address}, length});
  if (!writable) ++parsed.readable;
  return true;
}

bool Ring::accessible(const Chain& chain) {
  for (const Segment& segment : chain.readable())
    if (!dma_.accessible(segment.address, segment.length, memory::Direction::kFromGuest)) return false;
  for (const Segment& segment : chain.writable())
    if (!dma_.accessible(segment.address, segment.length, memory::Direction::kToGuest)) return false;
  return true;
}

}  // namespace ostler::virtio
