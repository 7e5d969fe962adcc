// virtio-net (Virtio 1.2 §5.1): one queue pair and a control queue, over any net::Backend. No offloads: the
// back end's frames are whole and checksummed.
//
// Frames of the guest are read on the thread that notifies and copied to the back end, which sends them on
// its own; frames for the guest are written on the back end's thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "config/property.h"
#include "devices/virtio/device.h"
#include "devices/virtio/options.h"
#include "net/backend.h"

namespace ostler::virtio::net {

// §5.1.3
inline constexpr unsigned VIRTIO_NET_F_MTU = 3;
inline constexpr unsigned VIRTIO_NET_F_MAC = 5;
inline constexpr unsigned VIRTIO_NET_F_MRG_RXBUF = 15;
inline constexpr unsigned VIRTIO_NET_F_STATUS = 16;
inline constexpr unsigned VIRTIO_NET_F_CTRL_VQ = 17;
inline constexpr unsigned VIRTIO_NET_F_CTRL_RX = 18;
inline constexpr unsigned VIRTIO_NET_F_CTRL_MAC_ADDR = 23;

struct Options : DeviceOptions {
  std::string netdev;
  std::optional<config::MacAddress> mac;
  uint16_t host_mtu = 0;  // 0: not told
  uint16_t rx_queue_size = 256;
  uint16_t tx_queue_size = 256;
  bool mrg_rxbuf = true;
  bool status = true;
  bool ctrl_vq = true;
  uint32_t bootindex = 0;
};

const config::PropertyTable<Options>& pci_properties();
const config::PropertyTable<Options>& mmio_properties();

// 52:54:00:12:34:56 + `index`, as QEMU numbers its cards.
config::MacAddress default_mac(unsigned index);

class NetDevice final : public Device, private ostler::net::Receiver {
 public:
  // `options.mac` unset: default_mac(0). The back end outlives the device; on its thread or before it runs.
  NetDevice(memory::AddressSpace& memory, ostler::net::Backend& backend, const Options& options);
  ~NetDevice() override;

  uint16_t type() const override { return kTypeNet; }
  // The cable: a guest with STATUS learns of it. While down, frames are dropped both ways.
  void set_link(bool up);

 private:
  enum QueueIndex : unsigned { kReceive = 0, kTransmit = 1, kControl = 2 };

  uint64_t device_features() const override;
  void config_locked(std::vector<std::byte>& config) override;
  void process(unsigned queue, Lock& lock) override;
  void stopped_locked() override;
  void device_state(state::Archive& archive) override;
  void loaded_locked() override;

  bool receive(const ostler::net::Frame& frame, unsigned queue) override;
  void sendable(unsigned queue) override;

  bool receive_locked(Queue& queue, std::span<const std::byte> frame);
  void transmit_locked(Queue& queue);
  // False: the back end is full.
  bool send_locked(Queue& queue, const Chain& chain);
  void control_locked(Queue& queue);
  bool control_command_locked(Queue& queue, const Chain& chain);

  ostler::net::Backend& backend_;
  const Options options_;
  const config::MacAddress preset_mac_;
  // Guarded by mutex_.
  config::MacAddress mac_;
  bool link_up_ = true;
  std::vector<std::byte> frame_;  // the one being sent; kept for its memory
};

}  // namespace ostler::virtio::net
