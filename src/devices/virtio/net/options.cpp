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
      power_of_two<Options, uint16_t>("rx_queue_size", &Options::rx_queue_size, 64, Device::kMaxQueueSize,
                                      "descriptors for receiving; a power of two"),
      power_of_two<Options, uint16_t>("tx_queue_size", &Options::tx_queue_size, 64, Device::kMaxQueueSize,
                                      "descriptors for sending; a power of two"),
      boolean<Options>("mrg_rxbuf", &Options::mrg_rxbuf, "let a frame span several buffers"),
      boolean<Options>("status", &Options::status, "tell the guest of the link"),
      boolean<Options>("csum", &Options::csum, "take frames without their checksums"),
      boolean<Options>("host_tso4", &Options::host_tso4, "cut large TCP packets over IPv4"),
      boolean<Options>("host_tso6", &Options::host_tso6, "cut large TCP packets over IPv6"),
      boolean<Options>("host_ecn", &Options::host_ecn, "cut TCP packets with congestion marks"),
      boolean<Options>("host_ufo", &Options::host_ufo, "fragment UDP packets, if the network can"),
      boolean<Options>("host_uso", &Options::host_uso, "cut large UDP packets"),
      boolean<Options>("guest_csum", &Options::guest_csum, "let the network leave checksums to the guest"),
      boolean<Options>("guest_tso4", &Options::guest_tso4, "give large TCP packets over IPv4 to the guest"),
      boolean<Options>("guest_tso6", &Options::guest_tso6, "give large TCP packets over IPv6 to the guest"),
      boolean<Options>("guest_ecn", &Options::guest_ecn,
                       "give large packets with congestion marks to the guest"),
      boolean<Options>("guest_ufo", &Options::guest_ufo, "give unfragmented UDP packets to the guest"),
      boolean<Options>("guest_uso4", &Options::guest_uso4, "give large UDP packets over IPv4 to the guest"),
      boolean<Options>("guest_uso6", &Options::guest_uso6, "give large UDP packets over IPv6 to the guest"),
      boolean<Options>("guest_announce", &Options::guest_announce,
                       "have the guest make itself known after a move"),
      boolean<Options>("ctrl_vq", &Options::ctrl_vq, "control queue"),
      boolean<Options>("ctrl_rx", &Options::ctrl_rx, "let the guest choose what it receives"),
      boolean<Options>("ctrl_rx_extra", &Options::ctrl_rx_extra, "more such choices"),
      boolean<Options>("ctrl_vlan", &Options::ctrl_vlan, "let the guest choose its VLANs"),
      boolean<Options>("ctrl_mac_addr", &Options::ctrl_mac_addr, "let the guest change the address"),
      boolean<Options>("ctrl_guest_offloads", &Options::ctrl_guest_offloads,
                       "let the guest turn its offloads off and on"),
      boolean<Options>("mq", &Options::mq, "as many queue pairs as the network has"),
      boolean<Options>("rss", &Options::rss, "let the guest say which flow comes in which queue"),
      boolean<Options>("hash", &Options::hash, "tell the guest the hash of a frame's flow"),
      number_or_unset<Options, uint32_t>("speed", &Options::speed, 0, 0x7fffffff, 0,
                                         "of the link in Mbit/s, told to the guest; 0: not told"),
      choice<Options, Duplex>("duplex", &Options::duplex, {"full", "half"},
                              "of the link, told with its speed"),
      settled<Options>("tx", {"bh"}, "leave it out: frames are sent when the guest notifies",
                       "when frames are sent"),
      settled<Options>("failover", {"off", "false"},
                       "leave it out: no card of the host is passed to the guest",
                       "a stand-by for a passed-through card"),
      number_or_unset<Options, uint32_t>("bootindex", &Options::bootindex, 0, 0xffffffff, 0,
                                         "place in the boot order"),
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
