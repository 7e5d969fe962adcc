// From the back end to the guest.
#include <algorithm>

#include "devices/virtio/net/device.h"
#include "devices/virtio/net/segment.h"

namespace ostler::virtio::net {

using namespace ostler::net;

bool NetDevice::receive(const Frame& from, unsigned pair) {
  const Lock lock(mutex_);
  // Nobody listens: the frame is lost, as on a wire.
  if (!running() || !link_up() || !filter_.accepts(from.bytes, mac_)) return true;
  Frame frame = from;
  if (!fit_for_guest_locked(frame)) return true;
  Rss::Hash hash;
  if (rss_.steers() || has_feature(VIRTIO_NET_F_HASH_REPORT)) hash = rss_.hash(frame.bytes);
  if (rss_.steers()) pair = rss_.queue(hash);
  Queue* queue = pair < most_pairs_ ? this->queue(receive_queue(pair)) : nullptr;
  if (queue == nullptr || receive_queue(pair) == control_queue()) queue = this->queue(receive_queue(0));
  if (pair < most_pairs_) pairs_[pair].received = frame.bytes.size();
  if (queue == nullptr || receive_locked(*queue, frame, hash)) return true;
  signal_locked(*queue);
  return false;
}

void NetDevice::received_all(unsigned) {
  const Lock lock(mutex_);
  if (!running()) return;
  for (unsigned pair = 0; pair < most_pairs_; ++pair) {
    Queue* const queue = this->queue(receive_queue(pair));
    if (queue != nullptr && receive_queue(pair) != control_queue()) signal_locked(*queue);
  }
}

// Offloads are turned off while frames that use them are on their way.
bool NetDevice::fit_for_guest_locked(Frame& frame) {
  const VnetHeader& header = frame.header;
  const auto accepted = [this](unsigned bit) { return (guest_offloads_ & feature(bit)) != 0; };
  if ((header.gso_type & ~unsigned{VIRTIO_NET_HDR_GSO_ECN}) != VIRTIO_NET_HDR_GSO_NONE)
    return accepted(VIRTIO_NET_F_GUEST_CSUM) &&
           (accepted(VIRTIO_NET_F_GUEST_TSO4) || accepted(VIRTIO_NET_F_GUEST_TSO6) ||
            accepted(VIRTIO_NET_F_GUEST_UFO) || accepted(VIRTIO_NET_F_GUEST_USO4));
  if (header.flags == 0 || accepted(VIRTIO_NET_F_GUEST_CSUM)) return true;
  finished_.assign(frame.bytes.begin(), frame.bytes.end());
  if ((header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0 && !finish_checksum(finished_, header)) return false;
  frame = Frame(finished_);
  return true;
}

void NetDevice::gather_locked(Queue& queue, uint64_t total, Buffers& buffers) {
  const bool mergeable = has_feature(VIRTIO_NET_F_MRG_RXBUF);
  auto& chains = buffers.chains;
  while (buffers.room < total && (chains.empty() || (mergeable && chains.size() < queue.size()))) {
    auto chain = queue.pop();
    if (!chain) break;
    buffers.room += chain->writable_bytes();
    chains.push_back(*std::move(chain));
  }
}

void NetDevice::give_back_locked(Queue& queue, Buffers& buffers) {
  for (auto it = buffers.chains.rbegin(); it != buffers.chains.rend(); ++it) queue.unpop(std::move(*it));
  buffers = {};
}

// Whether a frame that found too little room in `buffers` chains will never find more.
bool NetDevice::never_fits_locked(const Queue& queue, const Buffers& buffers) const {
  return !buffers.chains.empty() &&
         (!has_feature(VIRTIO_NET_F_MRG_RXBUF) || buffers.chains.size() == queue.size());
}

bool NetDevice::receive_locked(Queue& queue, const Frame& frame, const Rss::Hash& hash) {
  const uint64_t head = header_bytes();
  Buffers buffers;
  gather_locked(queue, head + frame.bytes.size(), buffers);
  if (queue.broken()) return true;
  // §5.1.6.3.1: the header is in one buffer.
  if (!buffers.chains.empty() && buffers.chains[0].writable_bytes() < head)
    return fail_locked(queue, "a receive buffer smaller than its header"), true;
  if (buffers.room < head + frame.bytes.size()) {
    const bool never = never_fits_locked(queue, buffers);
    give_back_locked(queue, buffers);
    return never;  // too large for the driver's buffers: dropped; else it waits for more of them
  }
  fill_locked(queue, buffers, frame.header, hash, frame.bytes.size(), frame.bytes);
  return true;
}

void NetDevice::fill_locked(Queue& queue, Buffers& buffers, const VnetHeader& vnet, const Rss::Hash& hash,
                            uint64_t bytes, std::span<const std::byte> rest) {
  const uint64_t head = header_bytes();
  auto& chains = buffers.chains;
  const Header header = {.vnet = vnet, .num_buffers = static_cast<uint16_t>(chains.size())};
  const auto header_view = std::as_bytes(std::span(&header, 1));
  bool good = chains[0].write(queue.dma(), 0, header_view.first(std::min(head, sizeof header)));
  if (head > sizeof header)
    good = good && chains[0].write_object(queue.dma(), sizeof header, HashHeader{hash.value, hash.report, 0});
  const uint64_t there = bytes - rest.size();
  uint64_t done = 0;
  for (uint16_t i = 0; i < header.num_buffers; ++i) {
    const uint64_t skip = i == 0 ? head : 0;
    const uint64_t size = std::min(chains[i].writable_bytes() - skip, bytes - done);
    const uint64_t from = std::clamp(there, done, done + size);  // the first byte to be copied
    good = good &&
           chains[i].write(queue.dma(), skip + (from - done), rest.subspan(from - there, done + size - from));
    done += size;
    queue.stage(std::move(chains[i]), static_cast<uint32_t>(skip + size));
  }
  if (!good) return fail_locked(queue, "a receive buffer outside RAM");
  queue.publish();
}

}  // namespace ostler::virtio::net
