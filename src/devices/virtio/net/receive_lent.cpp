// From the back end straight into the guest's buffers: large frames are read where the driver wants them, and
// not copied once more.
//
// A frame's size is known only when it was read. As much is lent as the last frame took: what is larger is
// read to its end elsewhere and copied from there, and of what is smaller the driver gets its buffers back.
// It may find more in them than it is told of (Virtio 1.2 §2.7.8.2).
#include <algorithm>
#include <array>
#include <cstring>

#include "devices/virtio/net/device.h"
#include "memory/guest_access.h"

namespace ostler::virtio::net {
namespace {

using namespace ostler::net;

// Smaller frames are copied: that costs less than lending.
constexpr size_t kWorthLending = 4096;
// Of a frame, for its filter: addresses, VLAN.
constexpr size_t kFilteredBytes = 16;

// The first bytes of a frame of which `rest` is the end and `places` has the others.
void copy_frame(const memory::Mapping& places, std::span<const std::byte> rest, std::span<std::byte> to) {
  for (const iovec& place : places.spans) {
    const size_t size = std::min(place.iov_len, to.size());
    memory::guest_copy(to.data(), place.iov_base, size);
    to = to.subspan(size);
  }
  if (!to.empty()) std::memcpy(to.data(), rest.data(), std::min(to.size(), rest.size()));
}

}  // namespace

Receiver::Receipt NetDevice::receive_from(FrameSource& source, unsigned pair) {
  {
    const Lock lock(mutex_);
    if (Queue* const queue = lending_queue_locked(pair))
      if (const auto receipt = receive_lent_locked(*queue, source, pairs_[pair].received)) return *receipt;
  }
  return Receiver::receive_from(source, pair);
}

Queue* NetDevice::lending_queue_locked(unsigned pair) {
  // Who picks the queue by what is in the frame, or has to change that, reads it first.
  if (!running() || !link_up() || pair >= most_pairs_ || pairs_[pair].received < kWorthLending ||
      !has_feature(VIRTIO_NET_F_MRG_RXBUF) || has_feature(VIRTIO_NET_F_HASH_REPORT) || rss_.steers() ||
      (guest_offloads_ & feature(VIRTIO_NET_F_GUEST_CSUM)) == 0 || receive_queue(pair) == control_queue())
    return nullptr;
  return queue(receive_queue(pair));
}

// None: nothing was read, and the frame is to be copied.
std::optional<Receiver::Receipt> NetDevice::receive_lent_locked(Queue& queue, FrameSource& source,
                                                                size_t& expected) {
  const uint64_t head = header_bytes();
  Buffers buffers;
  gather_locked(queue, head + expected, buffers);
  memory::Mapping places;
  bool good = !queue.broken() && !buffers.chains.empty() && buffers.chains[0].writable_bytes() >= head;
  for (size_t i = 0; i < buffers.chains.size() && good; ++i) {
    const Chain& chain = buffers.chains[i];
    const uint64_t skip = i == 0 ? head : 0;
    good = chain.map_writable(queue.dma(), skip, chain.writable_bytes() - skip, places);
  }
  if (!good || places.spans.size() > FrameSource::kMostPlaces) {
    give_back_locked(queue, buffers);
    return std::nullopt;
  }

  const auto taken = source.take(places.spans);
  if (!taken) {
    give_back_locked(queue, buffers);
    return Receipt::kNothing;
  }
  // The dirty log is told at once: what was written stays, whatever becomes of the frame.
  queue.dma().written(places, std::min<uint64_t>(taken->bytes, places.bytes));
  expected = taken->bytes;
  std::array<std::byte, kFilteredBytes> start;
  const auto filtered = std::span(start).first(std::min(taken->bytes, start.size()));
  copy_frame(places, taken->rest, filtered);
  Frame frame(filtered, taken->header);
  if (!filter_.accepts(filtered, mac_) || !fit_for_guest_locked(frame)) {
    give_back_locked(queue, buffers);
    return Receipt::kFrame;
  }
  gather_locked(queue, head + taken->bytes, buffers);
  if (queue.broken()) return Receipt::kFrame;
  if (buffers.room < head + taken->bytes) {
    const bool never = never_fits_locked(queue, buffers);
    if (!never) {
      finished_.resize(taken->bytes);
      copy_frame(places, taken->rest, finished_);
      source.put_back(finished_);
    }
    give_back_locked(queue, buffers);
    signal_locked(queue);
    return never ? Receipt::kFrame : Receipt::kNoRoom;
  }
  while (buffers.room - buffers.chains.back().writable_bytes() >= head + taken->bytes) {
    buffers.room -= buffers.chains.back().writable_bytes();
    queue.unpop(std::move(buffers.chains.back()));
    buffers.chains.pop_back();
  }
  fill_locked(queue, buffers, taken->header, {}, taken->bytes, taken->rest);
  return Receipt::kFrame;
}

}  // namespace ostler::virtio::net
