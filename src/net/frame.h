// An Ethernet frame on its way between a card and its back end, with what is left to be done to it
// (Virtio 1.2 §5.1.6, struct virtio_net_hdr; the kernel's tap devices use the same one).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace ostler::net {

// The largest frame that either side sends, in bytes: a segment of 64 KiB with its link header and VLAN tag.
inline constexpr size_t kMaxFrame = 65536 + 18;
// Shorter than an Ethernet header: not a frame.
inline constexpr size_t kMinFrame = 14;

// Little-endian. All zero: the frame is whole and its checksums are right. There is no num_buffers: that is
// between a device and its driver.
struct [[gnu::packed]] VnetHeader {
  uint8_t flags = 0;
  uint8_t gso_type = 0;
  uint16_t hdr_len = 0;
  uint16_t gso_size = 0;
  uint16_t csum_start = 0;
  uint16_t csum_offset = 0;

  friend bool operator==(const VnetHeader&, const VnetHeader&) = default;
};
static_assert(sizeof(VnetHeader) == 10);

inline constexpr uint8_t VIRTIO_NET_HDR_F_NEEDS_CSUM = 1;
inline constexpr uint8_t VIRTIO_NET_HDR_F_DATA_VALID = 2;
inline constexpr uint8_t VIRTIO_NET_HDR_GSO_NONE = 0;
inline constexpr uint8_t VIRTIO_NET_HDR_GSO_TCPV4 = 1;
inline constexpr uint8_t VIRTIO_NET_HDR_GSO_UDP = 3;
inline constexpr uint8_t VIRTIO_NET_HDR_GSO_TCPV6 = 4;
inline constexpr uint8_t VIRTIO_NET_HDR_GSO_UDP_L4 = 5;
inline constexpr uint8_t VIRTIO_NET_HDR_GSO_ECN = 0x80;

// What a side is able to finish by itself or to pass on.
enum Offload : uint32_t {
  kChecksum = 1u << 0,  // VIRTIO_NET_HDR_F_NEEDS_CSUM
  kTso4 = 1u << 1,      // needs kChecksum, as do all below
  kTso6 = 1u << 2,
  kTsoEcn = 1u << 3,
  kUfo = 1u << 4,
  kUso = 1u << 5,  // VIRTIO_NET_HDR_GSO_UDP_L4
};
using Offloads = uint32_t;  // a set of them

struct Frame {
  Frame(std::span<const std::byte> data) : bytes(data) {}
  Frame(std::span<const std::byte> data, const VnetHeader& vnet) : bytes(data), header(vnet) {}

  std::span<const std::byte> bytes;
  VnetHeader header;
};

}  // namespace ostler::net
