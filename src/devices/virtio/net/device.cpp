#include "devices/virtio/net/device.h"

#include <algorithm>

#include "base/log.h"
#include "devices/virtio/config_field.h"
#include "devices/virtio/net/offloads.h"

namespace ostler::virtio::net {
namespace {

constexpr uint16_t kControlQueueSize = 64;

unsigned most_pairs(const ostler::net::Backend& backend, const Options& options) {
  return options.mq ? std::clamp(backend.queue_pairs(), 1u, NetDevice::kMostPairs) : 1;
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

constexpr uint64_t kGuestOffloads = feature(VIRTIO_NET_F_GUEST_CSUM) | feature(VIRTIO_NET_F_GUEST_TSO4) |
                                    feature(VIRTIO_NET_F_GUEST_TSO6) | feature(VIRTIO_NET_F_GUEST_ECN) |
                                    feature(VIRTIO_NET_F_GUEST_UFO) | feature(VIRTIO_NET_F_GUEST_USO4) |
                                    feature(VIRTIO_NET_F_GUEST_USO6);

}  // namespace

NetDevice::NetDevice(memory::AddressSpace& memory, ostler::net::Backend& backend, const Options& options)
    : Device(memory, options.id.empty() ? "virtio-net" : options.id,
             queue_sizes(most_pairs(backend, options), options), options.withheld_features()),
      backend_(backend),
      options_(options),
      preset_mac_(options.mac.value_or(default_mac(0))),
      most_pairs_(most_pairs(backend, options)),
      mac_(preset_mac_),
      peer_up_(backend.link_up()),
      pairs_(most_pairs_) {
  backend_.attach(this);
}

NetDevice::~NetDevice() {
  backend_.attach(nullptr);
  reset();
}

uint64_t NetDevice::guest_offload_features() const {
  using namespace ostler::net;
  const Offloads can = backend_.receive_offloads();
  uint64_t bits = 0;
  const auto offer = [&](bool wanted, Offloads needed, unsigned bit) {
    if (wanted && options_.guest_csum && (can & (kChecksum | needed)) == (kChecksum | needed))
      bits |= feature(bit);
  };
  offer(true, 0, VIRTIO_NET_F_GUEST_CSUM);
  offer(options_.guest_tso4, kTso4, VIRTIO_NET_F_GUEST_TSO4);
  offer(options_.guest_tso6, kTso6, VIRTIO_NET_F_GUEST_TSO6);
  offer(options_.guest_ecn, kTsoEcn, VIRTIO_NET_F_GUEST_ECN);
  offer(options_.guest_ufo, kUfo, VIRTIO_NET_F_GUEST_UFO);
  offer(options_.guest_uso4, kUso, VIRTIO_NET_F_GUEST_USO4);
  offer(options_.guest_uso6, kUso, VIRTIO_NET_F_GUEST_USO6);
  return bits;
}

uint64_t NetDevice::device_features() const {
  uint64_t bits = feature(VIRTIO_NET_F_MAC) | guest_offload_features();
  const auto offer = [&](bool wanted, unsigned bit) {
    if (wanted) bits |= feature(bit);
  };
  const Options& o = options_;
  offer(o.host_mtu != 0, VIRTIO_NET_F_MTU);
  offer(o.mrg_rxbuf, VIRTIO_NET_F_MRG_RXBUF);
  offer(o.status, VIRTIO_NET_F_STATUS);
  offer(o.speed != 0, VIRTIO_NET_F_SPEED_DUPLEX);
  offer(o.csum, VIRTIO_NET_F_CSUM);
  offer(o.csum && o.host_tso4, VIRTIO_NET_F_HOST_TSO4);
  offer(o.csum && o.host_tso6, VIRTIO_NET_F_HOST_TSO6);
  offer(o.csum && o.host_ecn, VIRTIO_NET_F_HOST_ECN);
  offer(o.csum && o.host_uso, VIRTIO_NET_F_HOST_USO);
  // IP fragments are not made here.
  offer(o.csum && o.host_ufo && (backend_.send_offloads() & ostler::net::kUfo) != 0, VIRTIO_NET_F_HOST_UFO);
  offer(o.ctrl_vq, VIRTIO_NET_F_CTRL_VQ);
  offer(o.ctrl_vq && o.ctrl_rx, VIRTIO_NET_F_CTRL_RX);
  offer(o.ctrl_vq && o.ctrl_rx && o.ctrl_rx_extra, VIRTIO_NET_F_CTRL_RX_EXTRA);
  offer(o.ctrl_vq && o.ctrl_vlan, VIRTIO_NET_F_CTRL_VLAN);
  offer(o.ctrl_vq && o.ctrl_mac_addr, VIRTIO_NET_F_CTRL_MAC_ADDR);
  offer(o.ctrl_vq && o.status && o.guest_announce, VIRTIO_NET_F_GUEST_ANNOUNCE);
  offer(o.ctrl_vq && o.ctrl_guest_offloads && (bits & feature(VIRTIO_NET_F_GUEST_CSUM)) != 0,
        VIRTIO_NET_F_CTRL_GUEST_OFFLOADS);
  offer(o.ctrl_vq && most_pairs_ > 1, VIRTIO_NET_F_MQ);
  offer(o.ctrl_vq && o.rss, VIRTIO_NET_F_RSS);
  offer(o.ctrl_vq && o.hash, VIRTIO_NET_F_HASH_REPORT);
  return bits;
}

unsigned NetDevice::control_queue() const {
  if (!options_.ctrl_vq) return queue_count();
  return has_feature(VIRTIO_NET_F_MQ) || has_feature(VIRTIO_NET_F_RSS) ? 2 * most_pairs_ : 2;
}

void NetDevice::config_locked(std::vector<std::byte>& bytes) {
  Config config = {};
  config.mac = mac_;
  config.status =
      static_cast<uint16_t>((link_up() ? VIRTIO_NET_S_LINK_UP : 0) | (announce_ ? VIRTIO_NET_S_ANNOUNCE : 0));
  config.max_virtqueue_pairs = static_cast<uint16_t>(most_pairs_);
  config.mtu = options_.host_mtu;
  config.speed = options_.speed == 0 ? UINT32_MAX : options_.speed;
  config.duplex = options_.speed == 0 ? 0xff : options_.duplex == Duplex::kFull ? 1 : 0;
  if (options_.rss || options_.hash) {
    config.rss_max_key_size = Rss::kKeyBytes;
    config.rss_max_indirection_table_length = Rss::kMostEntries;
    config.supported_hash_types = Rss::kHashTypes;
  }
  const auto view = std::as_bytes(std::span(&config, 1));
  bytes.assign(view.begin(), view.end());
}

// §5.1.4: only a legacy driver sets its address here, when the control queue has no command for it.
void NetDevice::config_written_locked(uint64_t offset, std::span<const std::byte> from) {
  if (!legacy_driver() || has_feature(VIRTIO_NET_F_CTRL_MAC_ADDR) ||
      !write_config_bytes(offset, from, offsetof(Config, mac), std::as_writable_bytes(std::span(mac_))))
    log::guest_error("{}: configuration written at {:#x}", name(), offset);
}

void NetDevice::set_link(bool up) {
  const Lock lock(mutex_);
  if (link_up_ == up) return;
  const bool before = link_up();
  link_up_ = up;
  backend_.set_link(up);
  if (link_up() != before) config_changed_locked();
}

void NetDevice::link_changed(bool up) {
  const Lock lock(mutex_);
  const bool before = link_up();
  peer_up_ = up;
  if (link_up() != before) config_changed_locked();
}

void NetDevice::tell_backend_locked() {
  backend_.set_receive_offloads(offloads_of(guest_offloads_));
  backend_.set_active_queues(active_pairs_);
}

void NetDevice::started_locked() {
  guest_offloads_ = driver_features() & kGuestOffloads;
  filter_.reset(has_feature(VIRTIO_NET_F_CTRL_VLAN));
  tell_backend_locked();
}

void NetDevice::stopped_locked() {
  mac_ = preset_mac_;
  announce_ = announce_due_ = false;
  guest_offloads_ = 0;
  active_pairs_ = 1;
  filter_.reset(false);
  rss_.reset();
  pairs_.assign(most_pairs_, {});
  tell_backend_locked();
}

void NetDevice::queue_stopped_locked(unsigned queue) {
  if (queue / 2 < most_pairs_ && queue % 2 != 0) pairs_[queue / 2] = {};
}

void NetDevice::loaded_locked() {
  tell_backend_locked();
  announce_due_ = has_feature(VIRTIO_NET_F_GUEST_ANNOUNCE);
  // Frames may wait on either side.
  for (unsigned pair = 0; pair < most_pairs_; ++pair) {
    backend_.receiver_ready(pair);
    backend_.wake_sender(pair);
  }
}

void NetDevice::process(unsigned index, Lock&) {
  if (index == control_queue()) return control_locked(*queue(index));
  const unsigned pair = index / 2;
  if (index % 2 != 0) {
    if (pair < active_pairs_) transmit_locked(pair);
    return;
  }
  if (!rss_.steers()) return backend_.receiver_ready(pair);
  // The frame that waits may have come by any of the back end's queues.
  for (unsigned i = 0; i < most_pairs_; ++i) backend_.receiver_ready(i);
}

void NetDevice::device_state(state::Archive& archive) {
  archive.section("virtio-net", 2);
  archive.field("mac", mac_);
  archive.field("link_up", link_up_);
  if (archive.version() < 2) return;
  archive.field("announce", announce_);
  archive.field("guest_offloads", guest_offloads_);
  archive.check((guest_offloads_ & ~(driver_features() & kGuestOffloads)) == 0, "guest_offloads");
  archive.field("active_pairs", active_pairs_);
  archive.check(active_pairs_ >= 1 && active_pairs_ <= most_pairs_, "active_pairs");
  filter_.state(archive);
  rss_.state(archive, most_pairs_);
  for (Pair& pair : pairs_) archive.field("segments_sent", pair.segments_sent);
  if (archive.failed()) active_pairs_ = 1, rss_.reset();
}

}  // namespace ostler::virtio::net
