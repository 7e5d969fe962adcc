// Feature bits and structures of virtio-net (Virtio 1.2 §5.1), little-endian.
#pragma once

#include <array>
#include <cstdint>

#include "net/frame.h"

namespace ostler::virtio::net {

// §5.1.3
inline constexpr unsigned VIRTIO_NET_F_CSUM = 0;
inline constexpr unsigned VIRTIO_NET_F_GUEST_CSUM = 1;
inline constexpr unsigned VIRTIO_NET_F_CTRL_GUEST_OFFLOADS = 2;
inline constexpr unsigned VIRTIO_NET_F_MTU = 3;
inline constexpr unsigned VIRTIO_NET_F_MAC = 5;
inline constexpr unsigned VIRTIO_NET_F_GUEST_TSO4 = 7;
inline constexpr unsigned VIRTIO_NET_F_GUEST_TSO6 = 8;
inline constexpr unsigned VIRTIO_NET_F_GUEST_ECN = 9;
inline constexpr unsigned VIRTIO_NET_F_GUEST_UFO = 10;
inline constexpr unsigned VIRTIO_NET_F_HOST_TSO4 = 11;
inline constexpr unsigned VIRTIO_NET_F_HOST_TSO6 = 12;
inline constexpr unsigned VIRTIO_NET_F_HOST_ECN = 13;
inline constexpr unsigned VIRTIO_NET_F_HOST_UFO = 14;
inline constexpr unsigned VIRTIO_NET_F_MRG_RXBUF = 15;
inline constexpr unsigned VIRTIO_NET_F_STATUS = 16;
inline constexpr unsigned VIRTIO_NET_F_CTRL_VQ = 17;
inline constexpr unsigned VIRTIO_NET_F_CTRL_RX = 18;
inline constexpr unsigned VIRTIO_NET_F_CTRL_VLAN = 19;
inline constexpr unsigned VIRTIO_NET_F_CTRL_RX_EXTRA = 20;
inline constexpr unsigned VIRTIO_NET_F_GUEST_ANNOUNCE = 21;
inline constexpr unsigned VIRTIO_NET_F_MQ = 22;
inline constexpr unsigned VIRTIO_NET_F_CTRL_MAC_ADDR = 23;
// The two directions of UDP segmentation came after 1.2 (Virtio 1.3 §5.1.3).
inline constexpr unsigned VIRTIO_NET_F_GUEST_USO4 = 54;
inline constexpr unsigned VIRTIO_NET_F_GUEST_USO6 = 55;
inline constexpr unsigned VIRTIO_NET_F_HOST_USO = 56;
inline constexpr unsigned VIRTIO_NET_F_HASH_REPORT = 57;
inline constexpr unsigned VIRTIO_NET_F_RSS = 60;
inline constexpr unsigned VIRTIO_NET_F_SPEED_DUPLEX = 63;

// §5.1.6: the hash is there with HASH_REPORT; num_buffers is missing before a legacy driver that does not
// merge buffers.
struct [[gnu::packed]] Header {
  ostler::net::VnetHeader vnet;
  uint16_t num_buffers;
};
static_assert(sizeof(Header) == 12);
struct [[gnu::packed]] HashHeader {
  uint32_t value;
  uint16_t report;
  uint16_t padding;
};
static_assert(sizeof(HashHeader) == 8);

// §5.1.4
struct [[gnu::packed]] Config {
  std::array<uint8_t, 6> mac;
  uint16_t status;
  uint16_t max_virtqueue_pairs;
  uint16_t mtu;
  uint32_t speed;  // Mbit/s
  uint8_t duplex;
  uint8_t rss_max_key_size;
  uint16_t rss_max_indirection_table_length;
  uint32_t supported_hash_types;
};
static_assert(sizeof(Config) == 24);
inline constexpr uint16_t VIRTIO_NET_S_LINK_UP = 1, VIRTIO_NET_S_ANNOUNCE = 2;

// §5.1.6.5
struct ControlHeader {
  uint8_t command_class;
  uint8_t command;
};
enum ControlClass : uint8_t {
  VIRTIO_NET_CTRL_RX = 0,
  VIRTIO_NET_CTRL_MAC = 1,
  VIRTIO_NET_CTRL_VLAN = 2,
  VIRTIO_NET_CTRL_ANNOUNCE = 3,
  VIRTIO_NET_CTRL_MQ = 4,
  VIRTIO_NET_CTRL_GUEST_OFFLOADS = 5,
};
inline constexpr uint8_t VIRTIO_NET_CTRL_MAC_TABLE_SET = 0, VIRTIO_NET_CTRL_MAC_ADDR_SET = 1;
inline constexpr uint8_t VIRTIO_NET_CTRL_ANNOUNCE_ACK = 0;
inline constexpr uint8_t VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET = 0, VIRTIO_NET_CTRL_MQ_RSS_CONFIG = 1,
                         VIRTIO_NET_CTRL_MQ_HASH_CONFIG = 2;
inline constexpr uint8_t VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET = 0;
inline constexpr uint8_t VIRTIO_NET_OK = 0, VIRTIO_NET_ERR = 1;

}  // namespace ostler::virtio::net
