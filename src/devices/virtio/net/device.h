// virtio-net (Virtio 1.2 §5.1) over any net::Backend: queue pairs, a control queue, offloads in both
// directions.
//
// Frames of the guest are read on the thread that notifies and handed to the back end; frames for the guest
// are written on the back end's thread. What the guest leaves undone (checksums, the cutting of large
// packets) and the back end cannot do is done here. One lock guards all queues.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "config/property.h"
#include "devices/virtio/device.h"
#include "devices/virtio/net/filter.h"
#include "devices/virtio/net/rss.h"
#include "devices/virtio/net/wire.h"
#include "devices/virtio/options.h"
#include "net/backend.h"

namespace ostler::virtio::net {

enum class Duplex : uint8_t { kFull, kHalf };

struct Options : DeviceOptions {
  std::string netdev;
  std::optional<config::MacAddress> mac;
  uint16_t host_mtu = 0;  // 0: not told
  uint16_t rx_queue_size = 256;
  uint16_t tx_queue_size = 256;
  bool mrg_rxbuf = true;
  bool status = true;
  bool csum = true, host_tso4 = true, host_tso6 = true, host_ecn = true, host_ufo = true, host_uso = true;
  bool guest_csum = true, guest_tso4 = true, guest_tso6 = true, guest_ecn = true, guest_ufo = true;
  bool guest_uso4 = true, guest_uso6 = true;
  bool guest_announce = true;
  bool ctrl_vq = true;  // the four below need it
  bool ctrl_rx = true, ctrl_rx_extra = true, ctrl_vlan = true, ctrl_mac_addr = true;
  bool ctrl_guest_offloads = true;
  bool mq = false;
  bool rss = false, hash = false;
  uint32_t speed = 0;  // Mbit/s; 0: not told
  Duplex duplex = Duplex::kFull;
  uint32_t bootindex = 0;
};

const config::PropertyTable<Options>& pci_properties();
const config::PropertyTable<Options>& mmio_properties();

// 52:54:00:12:34:56 + `index`, as QEMU numbers its cards.
config::MacAddress default_mac(unsigned index);

class NetDevice final : public Device, private ostler::net::Receiver {
 public:
  static constexpr unsigned kMostPairs = (kMaxQueues - 1) / 2;

  // `options.mac` unset: default_mac(0). The back end outlives the device; on its thread or before it runs.
  NetDevice(memory::AddressSpace& memory, ostler::net::Backend& backend, const Options& options);
  ~NetDevice() override;

  uint16_t type() const override { return kTypeNet; }
  // The card's end of the cable: a guest with STATUS learns of it. While down, frames are dropped both ways.
  // Any thread.
  void set_link(bool up);

 private:
  // Of one queue pair.
  struct Pair {
    // Of the frame at the head of the transmit queue, when the back end took a part of them.
    uint16_t segments_sent = 0;
    size_t received = 0;  // bytes of the last frame for the guest
  };
  static unsigned receive_queue(unsigned pair) { return 2 * pair; }
  static unsigned transmit_queue(unsigned pair) { return 2 * pair + 1; }
  // §5.1.2: after the pairs that the driver knows of.
  unsigned control_queue() const;

  uint64_t device_features() const override;
  uint64_t guest_offload_features() const;
  void config_locked(std::vector<std::byte>& config) override;
  void config_written_locked(uint64_t offset, std::span<const std::byte> from) override;
  void process(unsigned queue, Lock& lock) override;
  void started_locked() override;
  void stopped_locked() override;
  void queue_stopped_locked(unsigned queue) override;
  void device_state(state::Archive& archive) override;
  void loaded_locked() override;
  void tell_backend_locked();

  // Any thread.
  bool receive(const ostler::net::Frame& frame, unsigned pair) override;
  Receipt receive_from(ostler::net::FrameSource& source, unsigned pair) override;
  void received_all(unsigned pair) override;
  void sendable(unsigned pair) override;
  void link_changed(bool up) override;

  bool link_up() const { return link_up_ && peer_up_; }
  uint64_t header_bytes() const {
    if (!has_feature(VIRTIO_F_VERSION_1) && !has_feature(VIRTIO_NET_F_MRG_RXBUF))
      return sizeof(ostler::net::VnetHeader);
    return sizeof(Header) + (has_feature(VIRTIO_NET_F_HASH_REPORT) ? sizeof(HashHeader) : 0);
  }
  // Does what the guest does not accept; false: it cannot be done.
  bool fit_for_guest_locked(ostler::net::Frame& frame);
  // Chains that one frame is put into.
  struct Buffers {
    std::vector<Chain> chains;
    uint64_t room = 0;
  };
  // Takes more of them until there is room for `total` bytes, or the driver has no more.
  void gather_locked(Queue& queue, uint64_t total, Buffers& buffers);
  void give_back_locked(Queue& queue, Buffers& buffers);
  bool never_fits_locked(const Queue& queue, const Buffers& buffers) const;
  bool receive_locked(Queue& queue, const ostler::net::Frame& frame, const Rss::Hash& hash);
  // The last of `frame` are the bytes of `rest`; those before are in the buffers already.
  void fill_locked(Queue& queue, Buffers& buffers, const ostler::net::VnetHeader& header,
                   const Rss::Hash& hash, uint64_t bytes, std::span<const std::byte> rest);
  // The queue whose buffers may be lent to be read into; null: none.
  Queue* lending_queue_locked(unsigned pair);
  std::optional<Receipt> receive_lent_locked(Queue& queue, ostler::net::FrameSource& source,
                                             size_t& expected);
  void transmit_locked(unsigned pair);
  // False: the back end is full.
  bool send_locked(Queue& queue, unsigned pair, const Chain& chain);
  bool send_segments_locked(unsigned pair, const ostler::net::VnetHeader& header);

  void control_locked(Queue& queue);
  bool control_command_locked(const ControlHeader& header, std::span<const std::byte> data);
  bool mac_command_locked(uint8_t command, std::span<const std::byte> data);
  bool queues_command_locked(uint8_t command, std::span<const std::byte> data);

  ostler::net::Backend& backend_;
  const Options options_;
  const config::MacAddress preset_mac_;
  const unsigned most_pairs_;
  // Guarded by mutex_.
  config::MacAddress mac_;
  bool link_up_ = true;          // this end of the cable
  bool peer_up_ = true;          // the other one
  bool announce_ = false;        // the guest is asked to make itself known
  bool announce_due_ = false;    // after a load
  uint64_t guest_offloads_ = 0;  // features of what it accepts now
  uint16_t active_pairs_ = 1;
  Filter filter_;
  Rss rss_;
  std::vector<Pair> pairs_;
  // Kept for their memory.
  std::vector<std::byte> frame_, segment_, finished_;
};

}  // namespace ostler::virtio::net
