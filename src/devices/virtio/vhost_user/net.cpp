#include "devices/virtio/vhost_user/net.h"

#include <fmt/format.h>

#include <array>
#include <cstring>

#include "base/bytes.h"
#include "base/log.h"
#include "devices/virtio/config_field.h"
#include "devices/virtio/vhost_user/kernel_session.h"

namespace ostler::virtio::vhost_user {
namespace {

using namespace net;

constexpr uint16_t kControlQueueSize = 64;

// What the back end has to do for the guest.
uint64_t wanted_of_back_end(const Options& o) {
  uint64_t bits = 0;
  const auto want = [&](bool wanted, unsigned bit) {
    if (wanted) bits |= feature(bit);
  };
  want(o.mrg_rxbuf, VIRTIO_NET_F_MRG_RXBUF);
  want(o.csum, VIRTIO_NET_F_CSUM);
  want(o.host_tso4, VIRTIO_NET_F_HOST_TSO4);
  want(o.host_tso6, VIRTIO_NET_F_HOST_TSO6);
  want(o.host_ecn, VIRTIO_NET_F_HOST_ECN);
  want(o.host_ufo, VIRTIO_NET_F_HOST_UFO);
  want(o.host_uso, VIRTIO_NET_F_HOST_USO);
  want(o.guest_csum, VIRTIO_NET_F_GUEST_CSUM);
  want(o.guest_tso4, VIRTIO_NET_F_GUEST_TSO4);
  want(o.guest_tso6, VIRTIO_NET_F_GUEST_TSO6);
  want(o.guest_ecn, VIRTIO_NET_F_GUEST_ECN);
  want(o.guest_ufo, VIRTIO_NET_F_GUEST_UFO);
  want(o.guest_uso4, VIRTIO_NET_F_GUEST_USO4);
  want(o.guest_uso6, VIRTIO_NET_F_GUEST_USO6);
  return bits;
}

// §5.1.3.1: offers that need others are none without them.
uint64_t without_orphans(uint64_t bits) {
  const auto drop = [&](uint64_t needed, uint64_t dependents) {
    if ((bits & needed) == 0) bits &= ~dependents;
  };
  const uint64_t send_tso = feature(VIRTIO_NET_F_HOST_TSO4) | feature(VIRTIO_NET_F_HOST_TSO6);
  const uint64_t receive_tso = feature(VIRTIO_NET_F_GUEST_TSO4) | feature(VIRTIO_NET_F_GUEST_TSO6);
  drop(feature(VIRTIO_NET_F_CSUM),
       send_tso | feature(VIRTIO_NET_F_HOST_UFO) | feature(VIRTIO_NET_F_HOST_USO));
  drop(feature(VIRTIO_NET_F_GUEST_CSUM), receive_tso | feature(VIRTIO_NET_F_GUEST_UFO) |
                                             feature(VIRTIO_NET_F_GUEST_USO4) |
                                             feature(VIRTIO_NET_F_GUEST_USO6));
  drop(send_tso, feature(VIRTIO_NET_F_HOST_ECN));
  drop(receive_tso, feature(VIRTIO_NET_F_GUEST_ECN));
  return bits;
}

std::vector<uint16_t> queue_sizes(unsigned pairs, const Options& options) {
  std::vector<uint16_t> sizes;
  for (unsigned i = 0; i < pairs; ++i) {
    sizes.push_back(options.rx_queue_size);
    sizes.push_back(options.tx_queue_size);
  }
  if (options.ctrl_vq) sizes.push_back(kControlQueueSize);
  return sizes;
}

}  // namespace

Result<std::unique_ptr<NetDevice>> NetDevice::create(memory::AddressSpace& memory, event::Loop& loop,
                                                     const Options& options, unsigned pairs,
                                                     const Address& address) {
  for (const auto& [name, asked] : {std::pair{"rss", options.rss}, {"hash", options.hash}})
    if (asked)
      return Error(ErrorKind::kUnsupported,
                   fmt::format("{}=on is for networks of this process; a vhost-user back end chooses the "
                               "queues by itself, so leave it out",
                               name));
  if (!options.mq || !options.ctrl_vq) pairs = 1;
  TRY_ASSIGN(Parts parts, prepare(address, 2 * pairs, pairs));
  return make(memory, loop, options, pairs, std::move(parts));
}

Result<std::unique_ptr<NetDevice>> NetDevice::create(memory::AddressSpace& memory, event::Loop& loop,
                                                     const Options& options, ostler::net::KernelTap& tap) {
  const auto pairs = options.mq && options.ctrl_vq ? static_cast<unsigned>(tap.device().queues.size()) : 1u;
  const Address address{.path = ostler::net::kVhostNet};
  auto session = KernelSession::open(tap);
  if (!session) return std::move(session).error().with_context(address.path);
  Parts parts;
  parts.address = address;
  parts.session = *std::move(session);
  TRY(add_rings(parts, 2 * pairs, pairs));
  return make(memory, loop, options, pairs, std::move(parts));
}

Result<std::unique_ptr<NetDevice>> NetDevice::make(memory::AddressSpace& memory, event::Loop& loop,
                                                   const Options& options, unsigned pairs, Parts parts) {
  const uint64_t has = parts.session->features();
  if (pairs > 1 && (has & feature(VIRTIO_NET_F_MQ)) == 0)
    return Error(
        ErrorKind::kUnsupported,
        fmt::format("the back end at {} serves one queue pair alone; leave queues out", parts.address.path));
  uint64_t offered = without_orphans(wanted_of_back_end(options) & has) | feature(VIRTIO_NET_F_MAC);
  const auto offer = [&](bool wanted, unsigned bit) {
    if (wanted) offered |= feature(bit);
  };
  offer(options.host_mtu != 0, VIRTIO_NET_F_MTU);
  offer(options.status, VIRTIO_NET_F_STATUS);
  offer(options.speed != 0, VIRTIO_NET_F_SPEED_DUPLEX);
  offer(options.ctrl_vq, VIRTIO_NET_F_CTRL_VQ);
  offer(options.ctrl_vq && options.ctrl_mac_addr, VIRTIO_NET_F_CTRL_MAC_ADDR);
  offer(options.ctrl_vq && options.status && options.guest_announce, VIRTIO_NET_F_GUEST_ANNOUNCE);
  offer(pairs > 1, VIRTIO_NET_F_MQ);
  return std::unique_ptr<NetDevice>(new NetDevice(memory, loop, options, pairs, offered, std::move(parts)));
}

NetDevice::NetDevice(memory::AddressSpace& memory, event::Loop& loop, const Options& options, unsigned pairs,
                     uint64_t offered, Parts parts)
    : VhostUserDevice(memory, loop, options.id.empty() ? "virtio-net" : options.id,
                      queue_sizes(pairs, options), options.withheld_features(), std::move(parts)),
      options_(options),
      pairs_(pairs),
      offered_(offered),
      preset_mac_(options.mac.value_or(default_mac(0))),
      mac_(preset_mac_) {}

uint64_t NetDevice::back_end_features() const {
  return driver_features() & offered_ & (wanted_of_back_end(options_) | feature(VIRTIO_NET_F_MQ));
}

// A guest may rely on all that it was ever offered.
Result<void> NetDevice::accept_locked(Session& session, std::vector<std::byte>) {
  if ((offered_ & (wanted_of_back_end(options_) | feature(VIRTIO_NET_F_MQ)) & ~session.features()) == 0)
    return {};
  return Error(ErrorKind::kUnsupported, "it lacks features of the last one");
}

void NetDevice::config_locked(std::vector<std::byte>& bytes) {
  Config config = {};
  config.mac = mac_;
  config.status = static_cast<uint16_t>((link_up_ && session_locked() != nullptr ? VIRTIO_NET_S_LINK_UP : 0) |
                                        (announce_ ? VIRTIO_NET_S_ANNOUNCE : 0));
  config.max_virtqueue_pairs = static_cast<uint16_t>(pairs_);
  config.mtu = options_.host_mtu;
  config.speed = options_.speed == 0 ? UINT32_MAX : options_.speed;
  config.duplex = options_.speed == 0 ? 0xff : 1;
  const auto view = std::as_bytes(std::span(&config, 1));
  bytes.assign(view.begin(), view.end());
}

// As net::NetDevice's.
void NetDevice::config_written_locked(uint64_t offset, std::span<const std::byte> from) {
  if (!legacy_driver() || has_feature(VIRTIO_NET_F_CTRL_MAC_ADDR) ||
      !write_config_bytes(offset, from, offsetof(Config, mac), std::as_writable_bytes(std::span(mac_))))
    log::guest_error("{}: configuration written at {:#x}", name(), offset);
}

void NetDevice::set_link(bool up) {
  const Lock lock(mutex_);
  if (link_up_ == up) return;
  link_up_ = up;
  if (session_locked() != nullptr) session_locked()->set_link(up);
  update_rings_locked();
  config_changed_locked();
}

void NetDevice::stopped_locked() {
  VhostUserDevice::stopped_locked();
  mac_ = preset_mac_;
  announce_ = false;
  active_pairs_ = 1;
}

// §5.1.2: the control queue is behind the pairs that the driver knows of.
bool NetDevice::has_ring(unsigned queue) const {
  return queue < (has_feature(VIRTIO_NET_F_MQ) ? 2 * pairs_ : 2);
}

// A frame to be sent is lost, as on a wire.
void NetDevice::refuse_locked(Queue& queue, Chain chain) {
  queue.push(std::move(chain), 0);
}

void NetDevice::serve_locked(Queue& queue) {
  serve_chains_locked(queue, [&](Chain&& chain) {
    ControlHeader header;
    if (!chain.read_object(queue.dma(), 0, header) || chain.writable_bytes() == 0) {
      fail_locked(queue, "a control command without header or acknowledgement");
      return false;
    }
    // No command of ours has more than an address.
    std::array<std::byte, 8> data;
    const uint64_t size = chain.readable_bytes() - sizeof header;
    const auto part = std::span(data).first(size <= data.size() ? size : 0);
    const bool done =
        size <= data.size() && chain.read(queue.dma(), sizeof header, part) && command_locked(header, part);
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

bool NetDevice::command_locked(const ControlHeader& header, std::span<const std::byte> data) {
  switch (header.command_class) {
    case VIRTIO_NET_CTRL_MAC:
      if (header.command != VIRTIO_NET_CTRL_MAC_ADDR_SET || !has_feature(VIRTIO_NET_F_CTRL_MAC_ADDR) ||
          data.size() != mac_.size())
        return false;
      std::memcpy(mac_.data(), data.data(), mac_.size());
      return true;
    case VIRTIO_NET_CTRL_ANNOUNCE:
      if (header.command != VIRTIO_NET_CTRL_ANNOUNCE_ACK || !has_feature(VIRTIO_NET_F_GUEST_ANNOUNCE))
        return false;
      announce_ = false;
      return true;
    case VIRTIO_NET_CTRL_MQ: {
      if (header.command != VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET || !has_feature(VIRTIO_NET_F_MQ) ||
          data.size() != 2)
        return false;
      const auto pairs = load_le<uint16_t>(data.data());
      if (pairs == 0 || pairs > pairs_) return false;
      active_pairs_ = pairs;
      update_rings_locked();
      return true;
    }
    default:
      return false;
  }
}

void NetDevice::device_state(state::Archive& archive) {
  archive.section("vhost-user-net", 1);
  archive.field("mac", mac_);
  archive.field("link_up", link_up_);
  archive.field("announce", announce_);
  archive.field("active_pairs", active_pairs_);
  archive.check(active_pairs_ >= 1 && active_pairs_ <= pairs_, "active_pairs");
  if (archive.failed()) active_pairs_ = 1;
  rings_state(archive);
}

// The network may have last seen the guest elsewhere.
void NetDevice::restored_locked() {
  if (!link_up_) return;
  if (has_feature(VIRTIO_NET_F_GUEST_ANNOUNCE)) {
    announce_ = true;
    return config_changed_locked();
  }
  if (!session_locked()->has_announce()) return;
  if (auto done = session_locked()->announce(mac_); !done) lose_locked(done.error().message());
}

}  // namespace ostler::virtio::vhost_user
