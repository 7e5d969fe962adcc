// The control queue (Virtio 1.2 §5.1.6.5).
#include "base/bytes.h"
#include "devices/virtio/net/device.h"

namespace ostler::virtio::net {
namespace {

// Longer than any command; an address table beyond it is refused.
constexpr uint64_t kMostData = 16 * 1024;

}  // namespace

void NetDevice::control_locked(Queue& queue) {
  std::vector<std::byte> data;
  serve_chains_locked(queue, [&](Chain&& chain) {
    ControlHeader header;
    if (!chain.read_object(queue.dma(), 0, header) || chain.writable_bytes() == 0) {
      fail_locked(queue, "a control command without header or acknowledgement");
      return false;
    }
    const uint64_t size = chain.readable_bytes() - sizeof header;
    data.resize(size <= kMostData ? size : 0);
    const bool done = size <= kMostData && chain.read(queue.dma(), sizeof header, data) &&
                      control_command_locked(header, data);
    const uint8_t ack = done ? VIRTIO_NET_OK : VIRTIO_NET_ERR;
    if (!chain.write_object(queue.dma(), 0, ack)) {
      fail_locked(queue, "an acknowledgement outside RAM");
      return false;
    }
    queue.push(std::move(chain), 1);
    return true;
  });
  signal_locked(queue);
}

bool NetDevice::control_command_locked(const ControlHeader& header, std::span<const std::byte> data) {
  switch (header.command_class) {
    case VIRTIO_NET_CTRL_RX: {
      const bool extra = header.command >= Filter::kAllUnicast;
      if (!has_feature(extra ? VIRTIO_NET_F_CTRL_RX_EXTRA : VIRTIO_NET_F_CTRL_RX) ||
          header.command >= Filter::kModes || data.size() != 1)
        return false;
      filter_.set_mode(static_cast<Filter::Mode>(header.command), data[0] != std::byte{0});
      return true;
    }
    case VIRTIO_NET_CTRL_MAC:
      return mac_command_locked(header.command, data);
    case VIRTIO_NET_CTRL_VLAN:
      return has_feature(VIRTIO_NET_F_CTRL_VLAN) && header.command <= 1 && data.size() == 2 &&
             filter_.set_vlan(load_le<uint16_t>(data.data()), header.command == 0);
    case VIRTIO_NET_CTRL_ANNOUNCE:
      if (!has_feature(VIRTIO_NET_F_GUEST_ANNOUNCE) || header.command != VIRTIO_NET_CTRL_ANNOUNCE_ACK)
        return false;
      announce_ = false;
      return true;
    case VIRTIO_NET_CTRL_MQ:
      return queues_command_locked(header.command, data);
    case VIRTIO_NET_CTRL_GUEST_OFFLOADS: {
      if (!has_feature(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) ||
          header.command != VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET || data.size() != 8)
        return false;
      // §5.1.6.5.6.1: only what was negotiated can be turned on and off.
      const auto wanted = load_le<uint64_t>(data.data());
      if ((wanted & ~(driver_features() & guest_offload_features())) != 0) return false;
      guest_offloads_ = wanted;
      tell_backend_locked();
      return true;
    }
    default:
      return false;
  }
}

bool NetDevice::mac_command_locked(uint8_t command, std::span<const std::byte> data) {
  if (command == VIRTIO_NET_CTRL_MAC_TABLE_SET)
    return has_feature(VIRTIO_NET_F_CTRL_RX) && filter_.set_addresses(data);
  if (command != VIRTIO_NET_CTRL_MAC_ADDR_SET || !has_feature(VIRTIO_NET_F_CTRL_MAC_ADDR) ||
      data.size() != mac_.size())
    return false;
  std::memcpy(mac_.data(), data.data(), mac_.size());
  return true;
}

bool NetDevice::queues_command_locked(uint8_t command, std::span<const std::byte> data) {
  uint16_t pairs = active_pairs_;
  switch (command) {
    case VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET:
      if (!has_feature(VIRTIO_NET_F_MQ) || data.size() != 2) return false;
      pairs = load_le<uint16_t>(data.data());
      if (pairs == 0 || pairs > most_pairs_) return false;
      rss_.stop_steering();  // §5.1.6.5.5: the flows' queues are chosen by the device again
      break;
    case VIRTIO_NET_CTRL_MQ_RSS_CONFIG:
      if (!has_feature(VIRTIO_NET_F_RSS) || !rss_.configure(data, most_pairs_, pairs)) return false;
      break;
    case VIRTIO_NET_CTRL_MQ_HASH_CONFIG:
      return has_feature(VIRTIO_NET_F_HASH_REPORT) && rss_.configure_hash(data);
    default:
      return false;
  }
  active_pairs_ = pairs;
  tell_backend_locked();
  return true;
}

}  // namespace ostler::virtio::net
