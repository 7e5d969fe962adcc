// The properties of virtio-net, as -device knows them.
#include "devices/virtio/net/device.h"

namespace ostler::virtio::net {
namespace {

std::vector<config::Property<Options>> own() {
  using namespace config;
  return {
      reference<Options>("netdev", "netdev", &Options::netdev, "the network to connect to"),
      mac<Options>("mac", &Options::mac, "the card's address"),
      number<Options, uint16_t>("host_mtu", &Options::host_mtu, 0, 65535,
                                "largest packet, told to the guest"),
      number<Options, uint16_t>("rx_queue_size", &Options::rx_queue_size, 64, Device::kMaxQueueSize,
                                "descriptors for receiving; a power of two"),
      number<Options, uint16_t>("tx_queue_size", &Options::tx_queue_size, 64, Device::kMaxQueueSize,
                                "descriptors for sending; a power of two"),
      boolean<Options>("mrg_rxbuf", &Options::mrg_rxbuf, "let a frame span several buffers"),
      boolean<Options>("status", &Options::status, "tell the guest of the link"),
      boolean<Options>("ctrl_vq", &Options::ctrl_vq, "control queue"),
      number<Options, uint32_t>("bootindex", &Options::bootindex, 0, 0xffffffff, "place in the boot order"),
  };
}

}  // namespace

const config::PropertyTable<Options>& pci_properties() {
  static const config::PropertyTable<Options> table("virtio-net-pci", with_bus_properties(own(), true));
  return table;
}

const config::PropertyTable<Options>& mmio_properties() {
  static const config::PropertyTable<Options> table("virtio-net-device", with_bus_properties(own(), false));
  return table;
}

config::MacAddress default_mac(unsigned index) {
  return {0x52, 0x54, 0x00, 0x12, 0x34, static_cast<uint8_t>(0x56 + index)};
}

}  // namespace ostler::virtio::net
