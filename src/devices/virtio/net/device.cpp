#include "devices/virtio/net/device.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/bytes.h"
#include "base/log.h"

namespace ostler::virtio::net {
namespace {

// §5.1.6, struct virtio_net_hdr: num_buffers is always there with VERSION_1.
struct [[gnu::packed]] Header {
  uint8_t flags;
  uint8_t gso_type;
  uint16_t hdr_len;
  uint16_t gso_size;
  uint16_t csum_start;
  uint16_t csum_offset;
  uint16_t num_buffers;
};
static_assert(sizeof(Header) == 12);

// §5.1.4
struct [[gnu::packed]] Config {
  config::MacAddress mac;
  uint16_t status;
  uint16_t max_virtqueue_pairs;
  uint16_t mtu;
};
constexpr uint16_t VIRTIO_NET_S_LINK_UP = 1;

constexpr size_t kSmallestFrame = 14;

// §5.1.6.5
struct ControlHeader {
  uint8_t command_class;
  uint8_t command;
};
constexpr uint8_t VIRTIO_NET_CTRL_RX = 0, VIRTIO_NET_CTRL_MAC = 1;
constexpr uint8_t VIRTIO_NET_CTRL_MAC_TABLE_SET = 0, VIRTIO_NET_CTRL_MAC_ADDR_SET = 1;
constexpr uint8_t VIRTIO_NET_OK = 0, VIRTIO_NET_ERR = 1;
constexpr uint8_t kLastRxCommand = 5;

constexpr uint16_t kControlQueueSize = 64;

std::vector<uint16_t> queue_sizes(const Options& options) {
  std::vector<uint16_t> sizes = {std::bit_floor(options.rx_queue_size),
                                 std::bit_floor(options.tx_queue_size)};
  if (options.ctrl_vq) sizes.push_back(kControlQueueSize);
  return sizes;
}

}  // namespace

NetDevice::NetDevice(memory::AddressSpace& memory, ostler::net::Backend& backend, const Options& options)
    : Device(memory, options.id.empty() ? "virtio-net" : options.id, queue_sizes(options),
             options.withheld_features()),
      backend_(backend),
      options_(options),
      preset_mac_(options.mac.value_or(default_mac(0))),
      mac_(preset_mac_) {
  backend_.attach(this);
}

NetDevice::~NetDevice() {
  backend_.attach(nullptr);
  reset();
}

uint64_t NetDevice::device_features() const {
  uint64_t bits = feature(VIRTIO_NET_F_MAC);
  if (options_.host_mtu != 0) bits |= feature(VIRTIO_NET_F_MTU);
  if (options_.mrg_rxbuf) bits |= feature(VIRTIO_NET_F_MRG_RXBUF);
  if (options_.status) bits |= feature(VIRTIO_NET_F_STATUS);
  if (options_.ctrl_vq)
    bits |=
        feature(VIRTIO_NET_F_CTRL_VQ) | feature(VIRTIO_NET_F_CTRL_RX) | feature(VIRTIO_NET_F_CTRL_MAC_ADDR);
  return bits;
}

void NetDevice::config_locked(std::vector<std::byte>& bytes) {
  Config config = {};
  config.mac = mac_;
  config.status = link_up_ ? VIRTIO_NET_S_LINK_UP : 0;
  config.max_virtqueue_pairs = 1;
  config.mtu = options_.host_mtu;
  const auto view = std::as_bytes(std::span(&config, 1));
  bytes.assign(view.begin(), view.end());
}

void NetDevice::set_link(bool up) {
  const Lock lock(mutex_);
  if (link_up_ == up) return;
  link_up_ = up;
  config_changed_locked();
}

void NetDevice::stopped_locked() {
  mac_ = preset_mac_;
}

void NetDevice::loaded_locked() {
  // Frames may wait on either side.
  backend_.receiver_ready(0);
  backend_.wake_sender(0);
}

void NetDevice::process(unsigned index, Lock&) {
  Queue& queue = *this->queue(index);
  switch (index) {
    case kReceive:
      backend_.receiver_ready(0);
      break;
    case kTransmit:
      transmit_locked(queue);
      break;
    case kControl:
      control_locked(queue);
      break;
    default:
      break;
  }
}

bool NetDevice::receive(const ostler::net::Frame& frame, unsigned) {
  const Lock lock(mutex_);
  // Nobody listens: the frame is lost, as on a wire.
  if (!running() || !link_up_ || queue(kReceive) == nullptr) return true;
  return receive_locked(*queue(kReceive), frame.bytes);
}

bool NetDevice::receive_locked(Queue& queue, std::span<const std::byte> frame) {
  const uint64_t total = sizeof(Header) + frame.size();
  const bool mergeable = has_feature(VIRTIO_NET_F_MRG_RXBUF);
  std::vector<Chain> chains;
  uint64_t room = 0;
  while (room < total && (chains.empty() || (mergeable && chains.size() < queue.size()))) {
    auto chain = queue.pop();
    if (!chain) break;
    room += chain->writable_bytes();
    chains.push_back(*std::move(chain));
  }
  // §5.1.6.3.1: the header is in one buffer.
  const bool header_fits = !chains.empty() && chains[0].writable_bytes() >= sizeof(Header);
  if (queue.broken()) return true;
  if (!chains.empty() && !header_fits)
    return fail_locked(queue, "a receive buffer smaller than its header"), true;
  if (room < total) {
    const bool never = !chains.empty() && (!mergeable || chains.size() == queue.size());
    for (auto it = chains.rbegin(); it != chains.rend(); ++it) queue.unpop(std::move(*it));
    return never;  // too large for the driver's buffers: dropped; else it waits for more of them
  }

  const Header header = {.flags = 0,
                         .gso_type = ostler::net::VIRTIO_NET_HDR_GSO_NONE,
                         .hdr_len = 0,
                         .gso_size = 0,
                         .csum_start = 0,
                         .csum_offset = 0,
                         .num_buffers = static_cast<uint16_t>(chains.size())};
  bool good = chains[0].write_object(queue.dma(), 0, header);
  uint64_t sent = 0;
  for (uint16_t i = 0; i < header.num_buffers; ++i) {
    const uint64_t skip = i == 0 ? sizeof header : 0;
    const uint64_t size = std::min(chains[i].writable_bytes() - skip, frame.size() - sent);
    good = good && chains[i].write(queue.dma(), skip, frame.subspan(sent, size));
    sent += size;
    queue.stage(std::move(chains[i]), static_cast<uint32_t>(skip + size));
  }
  if (!good) return fail_locked(queue, "a receive buffer outside RAM"), true;
  queue.publish();
  signal_locked(queue);
  return true;
}

void NetDevice::sendable(unsigned) {
  const Lock lock(mutex_);
  if (running() && queue(kTransmit) != nullptr) transmit_locked(*queue(kTransmit));
}

void NetDevice::transmit_locked(Queue& queue) {
  queue.set_notifications(false);
  // A driver that keeps adding must not keep this thread for ever: the back end calls again.
  for (unsigned left = 2u * queue.size();; --left) {
    if (left == 0) {
      backend_.wake_sender(0);
      break;
    }
    auto chain = queue.pop();
    if (!chain) {
      queue.set_notifications(true);
      if (queue.empty()) break;
      queue.set_notifications(false);
      continue;
    }
    if (!send_locked(queue, *chain)) {
      queue.unpop(*std::move(chain));
      break;  // sendable() goes on
    }
    if (!queue.broken()) queue.push(*std::move(chain), 0);
  }
  signal_locked(queue);
}

bool NetDevice::send_locked(Queue& queue, const Chain& chain) {
  Header header;
  if (!chain.read_object(queue.dma(), 0, header)) {
    fail_locked(queue, "a sent frame without header");
    return true;
  }
  const uint64_t size = chain.readable_bytes() - sizeof header;
  // No segmentation was negotiated, so a frame that needs it cannot be sent: dropped.
  if (header.gso_type != ostler::net::VIRTIO_NET_HDR_GSO_NONE || size < kSmallestFrame ||
      size > ostler::net::kMaxFrame || !link_up_) {
    log::guest_error("{}: frame of {} bytes dropped", name(), size);
    return true;
  }
  frame_.resize(size);
  if (!chain.read(queue.dma(), sizeof header, frame_)) {
    fail_locked(queue, "a sent frame outside RAM");
    return true;
  }
  return backend_.send({frame_}, 0);
}

void NetDevice::control_locked(Queue& queue) {
  for (unsigned left = 2u * queue.size(); left != 0; --left) {
    auto chain = queue.pop();
    if (!chain) break;
    ControlHeader header;
    if (!chain->read_object(queue.dma(), 0, header) || chain->writable_bytes() == 0)
      return fail_locked(queue, "a control command without header or acknowledgement");
    const uint8_t ack = control_command_locked(queue, *chain) ? VIRTIO_NET_OK : VIRTIO_NET_ERR;
    if (!chain->write_object(queue.dma(), 0, ack))
      return fail_locked(queue, "an acknowledgement outside RAM");
    queue.push(*std::move(chain), 1);
  }
  signal_locked(queue);
}

// Filtering is best effort (§5.1.6.5.1): every frame is let through, so modes and tables are accepted and
// that is all.
bool NetDevice::control_command_locked(Queue& queue, const Chain& chain) {
  ControlHeader header;
  chain.read_object(queue.dma(), 0, header);
  const uint64_t data = chain.readable_bytes() - sizeof header;
  if (header.command_class == VIRTIO_NET_CTRL_RX) return header.command <= kLastRxCommand && data == 1;
  if (header.command_class != VIRTIO_NET_CTRL_MAC) return false;
  if (header.command == VIRTIO_NET_CTRL_MAC_ADDR_SET)
    return data == mac_.size() &&
           chain.read(queue.dma(), sizeof header, std::as_writable_bytes(std::span(mac_)));
  if (header.command != VIRTIO_NET_CTRL_MAC_TABLE_SET) return false;
  // Two tables: a count and that many addresses each.
  uint64_t at = 0;
  for (int table = 0; table < 2; ++table) {
    uint32_t count = 0;
    if (!chain.read_object(queue.dma(), sizeof header + at, count)) return false;
    at += sizeof count + uint64_t{count} * mac_.size();
    if (at > data) return false;
  }
  return at == data;
}

void NetDevice::device_state(state::Archive& archive) {
  archive.section("virtio-net", 1);
  archive.field("mac", mac_);
  archive.field("link_up", link_up_);
}

}  // namespace ostler::virtio::net
