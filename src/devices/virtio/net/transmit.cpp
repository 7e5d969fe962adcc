// From the guest to the back end.
#include <algorithm>
#include <utility>

#include "base/log.h"
#include "devices/virtio/net/device.h"
#include "devices/virtio/net/segment.h"

namespace ostler::virtio::net {
namespace {

using namespace ostler::net;

// What a header asks for, as a feature of the driver and as an offload; feature 64: nothing that exists.
struct Need {
  unsigned feature;
  Offloads offload;
};

Need segmentation(uint8_t gso_type) {
  switch (gso_type & ~unsigned{VIRTIO_NET_HDR_GSO_ECN}) {
    case VIRTIO_NET_HDR_GSO_TCPV4:
      return {VIRTIO_NET_F_HOST_TSO4, kTso4};
    case VIRTIO_NET_HDR_GSO_TCPV6:
      return {VIRTIO_NET_F_HOST_TSO6, kTso6};
    case VIRTIO_NET_HDR_GSO_UDP:
      return {VIRTIO_NET_F_HOST_UFO, kUfo};
    case VIRTIO_NET_HDR_GSO_UDP_L4:
      return {VIRTIO_NET_F_HOST_USO, kUso};
    default:
      return {64, 0};
  }
}

}  // namespace

void NetDevice::sendable(unsigned pair) {
  const Lock lock(mutex_);
  if (!running()) return;
  if (std::exchange(announce_due_, false) && link_up()) {
    announce_ = true;
    config_changed_locked();
  }
  if (pair < active_pairs_ && queue(transmit_queue(pair)) != nullptr) transmit_locked(pair);
}

void NetDevice::transmit_locked(unsigned pair) {
  Queue& queue = *this->queue(transmit_queue(pair));
  queue.set_notifications(false);
  // A driver that keeps adding, or leaves much to cut, must not keep this thread for ever: the back end calls
  // again.
  for (unsigned left = 2u * queue.size();;) {
    if (left == 0) {
      backend_.wake_sender(pair);
      break;
    }
    --left;
    auto chain = queue.pop();
    if (!chain) {
      queue.set_notifications(true);
      if (queue.empty()) break;
      queue.set_notifications(false);
      continue;
    }
    if (!send_locked(queue, pair, *chain)) {
      queue.unpop(*std::move(chain));
      break;  // sendable() goes on
    }
    left -= std::min<unsigned>(left, std::exchange(pairs_[pair].segments_sent, uint16_t{0}));
    if (!queue.broken()) queue.push(*std::move(chain), 0);
  }
  signal_locked(queue);
}

bool NetDevice::send_locked(Queue& queue, unsigned pair, const Chain& chain) {
  VnetHeader vnet;
  const uint64_t skip = header_bytes();
  if (chain.readable_bytes() < skip || !chain.read_object(queue.dma(), 0, vnet)) {
    fail_locked(queue, "a sent frame without header");
    return true;
  }
  const uint64_t size = chain.readable_bytes() - skip;
  const auto drop = [&](std::string_view why) {
    log::guest_error("{}: frame of {} bytes dropped: {}", name(), size, why);
    return true;
  };
  if (size < kMinFrame || size > kMaxFrame) return drop("no frame has that size");
  if (!link_up()) return drop("no link");
  frame_.resize(size);
  if (!chain.read(queue.dma(), skip, frame_)) {
    fail_locked(queue, "a sent frame outside RAM");
    return true;
  }
  vnet.flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM;
  Offloads needed = 0;
  if (vnet.flags != 0) {
    if (!has_feature(VIRTIO_NET_F_CSUM)) return drop("a checksum that was not negotiated");
    needed |= kChecksum;
  }
  if (vnet.gso_type != VIRTIO_NET_HDR_GSO_NONE) {
    const Need need = segmentation(vnet.gso_type);
    const bool ecn = (vnet.gso_type & VIRTIO_NET_HDR_GSO_ECN) != 0;
    if (need.feature == 64 || !has_feature(need.feature) || (ecn && !has_feature(VIRTIO_NET_F_HOST_ECN)))
      return drop("a segmentation that was not negotiated");
    // §5.1.6.2: segmentation needs the checksum's place.
    if (vnet.flags == 0 || vnet.gso_size == 0) return drop("a segmentation without its numbers");
    needed |= need.offload | (ecn ? Offloads{kTsoEcn} : 0);
  }
  if ((needed & ~backend_.send_offloads()) == 0)
    return backend_.send(needed == 0 ? Frame(frame_) : Frame(frame_, vnet), pair);
  if (vnet.gso_type != VIRTIO_NET_HDR_GSO_NONE) return send_segments_locked(pair, vnet);
  if (!finish_checksum(frame_, vnet)) return drop("its checksum is outside of it");
  return backend_.send(Frame(frame_), pair);
}

bool NetDevice::send_segments_locked(unsigned pair, const VnetHeader& header) {
  const Segmenter segmenter(frame_, header);
  if (segmenter.count() == 0)
    log::guest_error("{}: frame of {} bytes dropped: it cannot be segmented", name(), frame_.size());
  uint16_t& sent = pairs_[pair].segments_sent;
  for (; sent < segmenter.count(); ++sent) {
    segmenter.segment(sent, segment_);
    if (!backend_.send(Frame(segment_), pair)) return false;
  }
  return true;
}

}  // namespace ostler::virtio::net
