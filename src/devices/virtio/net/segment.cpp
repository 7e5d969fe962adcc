#include "devices/virtio/net/segment.h"

#include <algorithm>

#include "devices/virtio/net/big_endian.h"

namespace ostler::virtio::net {
namespace {

using ostler::net::VnetHeader;

constexpr size_t kLinkHeader = 14, kVlanTag = 4;
constexpr uint16_t kTypeVlan = 0x8100, kTypeServiceVlan = 0x88a8, kTypeIpv4 = 0x0800, kTypeIpv6 = 0x86dd;
constexpr uint8_t kProtocolTcp = 6, kProtocolUdp = 17;
// RFC 9293: flags in byte 13 of a TCP header; FIN and PSH belong to the last segment, CWR (RFC 3168) to the
// first.
constexpr uint8_t kFin = 0x01, kPsh = 0x08, kCwr = 0x80;

// RFC 1071, not yet folded.
uint64_t sum(std::span<const std::byte> bytes) {
  uint64_t total = 0;
  size_t i = 0;
  for (; i + 4 <= bytes.size(); i += 4) total += load_be<uint32_t>(bytes.data() + i);
  for (; i + 2 <= bytes.size(); i += 2) total += load_be<uint16_t>(bytes.data() + i);
  if (i < bytes.size()) total += std::to_integer<uint64_t>(bytes[i]) << 8;
  return total;
}

uint16_t folded(uint64_t total) {
  while (total >> 16 != 0) total = (total & 0xffff) + (total >> 16);
  return static_cast<uint16_t>(~total);
}

// A checksum of 0 means none to UDP; the other zero means the same number.
uint16_t without_zero(uint16_t checksum) {
  return checksum == 0 ? uint16_t{0xffff} : checksum;
}

}  // namespace

bool finish_checksum(std::span<std::byte> frame, const VnetHeader& header) {
  const size_t start = header.csum_start, at = start + header.csum_offset;
  if (at + 2 > frame.size()) return false;
  // The field holds the sum of the pseudo header (§5.1.6.2).
  store_be<uint16_t>(frame.data() + at, without_zero(folded(sum(frame.subspan(start)))));
  return true;
}

Segmenter::Segmenter(std::span<const std::byte> frame, const VnetHeader& header) : frame_(frame) {
  if (!parse(header)) return;
  const size_t count = (frame_.size() - payload_ + size_ - 1) / size_;
  if (count <= kMostSegments) count_ = std::max<size_t>(count, 1);
}

bool Segmenter::parse(const VnetHeader& header) {
  using namespace ostler::net;
  const unsigned type = header.gso_type & ~unsigned{VIRTIO_NET_HDR_GSO_ECN};
  tcp_ = type != VIRTIO_NET_HDR_GSO_UDP_L4;
  size_ = header.gso_size;
  if (size_ == 0) return false;
  ip_ = kLinkHeader;
  uint16_t ether_type = 0;
  for (int tags = 0;; ++tags) {
    if (ip_ > frame_.size() || tags > 2) return false;
    ether_type = load_be<uint16_t>(frame_.data() + ip_ - 2);
    if (ether_type != kTypeVlan && ether_type != kTypeServiceVlan) break;
    ip_ += kVlanTag;
  }
  const auto at = [this](size_t offset) { return std::to_integer<unsigned>(frame_[offset]); };
  ipv6_ = ether_type == kTypeIpv6;
  if (ipv6_) {
    // Extension headers may lie between; what counts is where the driver says the transport begins.
    transport_ = header.csum_start;
    if (type == VIRTIO_NET_HDR_GSO_TCPV4 || transport_ < ip_ + 40) return false;
  } else {
    if (ether_type != kTypeIpv4 || type == VIRTIO_NET_HDR_GSO_TCPV6 || ip_ + 20 > frame_.size()) return false;
    const size_t length = 4 * (at(ip_) & 15);
    transport_ = ip_ + length;
    if (length < 20 || transport_ != header.csum_start) return false;
    if (at(ip_ + 9) != (tcp_ ? kProtocolTcp : kProtocolUdp)) return false;
  }
  if (transport_ + (tcp_ ? 20 : 8) > frame_.size()) return false;
  const size_t length = tcp_ ? 4 * (at(transport_ + 12) >> 4) : 8;
  payload_ = transport_ + length;
  return (!tcp_ || length >= 20) && payload_ <= std::min(kMostHeaders, frame_.size());
}

void Segmenter::segment(size_t i, std::vector<std::byte>& out) const {
  const size_t begin = payload_ + i * size_;
  const size_t size = std::min(size_, frame_.size() - begin);
  out.assign(frame_.begin(), frame_.begin() + static_cast<ptrdiff_t>(payload_));
  out.insert(out.end(), frame_.begin() + static_cast<ptrdiff_t>(begin),
             frame_.begin() + static_cast<ptrdiff_t>(begin + size));
  std::byte* const ip = out.data() + ip_;
  std::byte* const transport = out.data() + transport_;
  const auto length = static_cast<uint32_t>(out.size() - transport_);

  uint64_t pseudo = length + (tcp_ ? kProtocolTcp : kProtocolUdp);
  if (ipv6_) {
    store_be<uint16_t>(ip + 4, static_cast<uint16_t>(out.size() - ip_ - 40));
    pseudo += sum(std::span(ip + 8, 32));
  } else {
    store_be<uint16_t>(ip + 2, static_cast<uint16_t>(out.size() - ip_));
    store_be<uint16_t>(ip + 4, static_cast<uint16_t>(load_be<uint16_t>(ip + 4) + i));  // identification
    store_be<uint16_t>(ip + 10, 0);
    store_be<uint16_t>(ip + 10, folded(sum(std::span(ip, transport_ - ip_))));
    pseudo += sum(std::span(ip + 12, 8));
  }
  std::byte* const checksum = transport + (tcp_ ? 16 : 6);
  if (tcp_) {
    store_be<uint32_t>(transport + 4, static_cast<uint32_t>(load_be<uint32_t>(transport + 4) + i * size_));
    if (i + 1 != count_) transport[13] &= static_cast<std::byte>(~(kFin | kPsh) & 0xff);
    if (i != 0) transport[13] &= static_cast<std::byte>(~kCwr & 0xff);
  } else {
    store_be<uint16_t>(transport + 4, static_cast<uint16_t>(length));
  }
  store_be<uint16_t>(checksum, 0);
  store_be<uint16_t>(checksum, without_zero(folded(pseudo + sum(std::span(transport, length)))));
}

}  // namespace ostler::virtio::net
