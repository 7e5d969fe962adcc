// Checksums and segmentation by the card itself: what comes out is what a receiver takes, and malformed
// frames give nothing.
#include "devices/virtio/net/segment.h"

#include <gtest/gtest.h>

#include "packets.h"

namespace ostler::virtio::net {
namespace {

using namespace ostler::net;
using namespace test;

std::span<const std::byte> bytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}

VnetHeader gso(const Packet& p, bool tcp, uint8_t type, uint16_t size) {
  VnetHeader header = unfinished(p, tcp);
  header.gso_type = type;
  header.gso_size = size;
  header.hdr_len = static_cast<uint16_t>(p.payload);
  return header;
}

std::vector<std::string> segments(const Packet& p, const VnetHeader& header) {
  const Segmenter segmenter(bytes(p.bytes), header);
  std::vector<std::string> all;
  std::vector<std::byte> out;
  for (size_t i = 0; i < segmenter.count(); ++i) {
    segmenter.segment(i, out);
    all.emplace_back(reinterpret_cast<const char*>(out.data()), out.size());
  }
  return all;
}

struct Shape {
  bool tcp, ipv6, vlan;
};
void PrintTo(const Shape& s, std::ostream* out) {
  *out << (s.tcp ? "tcp" : "udp") << (s.ipv6 ? "6" : "4") << (s.vlan ? "_vlan" : "");
}

class Segments : public testing::TestWithParam<Shape> {
 protected:
  const bool tcp = GetParam().tcp, ipv6 = GetParam().ipv6;
  const uint8_t type = !tcp   ? VIRTIO_NET_HDR_GSO_UDP_L4
                       : ipv6 ? VIRTIO_NET_HDR_GSO_TCPV6
                              : VIRTIO_NET_HDR_GSO_TCPV4;
};

TEST_P(Segments, carry_all_data_and_good_checksums) {
  const Packet p = packet(tcp, ipv6, 2501, GetParam().vlan);
  const auto all = segments(p, gso(p, tcp, type, 1000));
  ASSERT_EQ(all.size(), 3u);
  std::string data;
  for (const std::string& each : all) {
    EXPECT_TRUE(checksums_good(each, p, tcp, ipv6));
    EXPECT_EQ(each.substr(0, p.ip), p.bytes.substr(0, p.ip));
    const size_t ip_length = each.size() - p.ip;
    EXPECT_EQ(get16(each, p.ip + (ipv6 ? 4 : 2)), ipv6 ? ip_length - 40 : ip_length);
    if (!tcp) {
      EXPECT_EQ(get16(each, p.transport + 4), each.size() - p.transport);
    }
    data += each.substr(p.payload);
  }
  EXPECT_EQ(data, p.bytes.substr(p.payload));
}

TEST_P(Segments, one_of_a_small_frame_is_the_frame) {
  const Packet p = packet(tcp, ipv6, 10, GetParam().vlan);
  const auto all = segments(p, gso(p, tcp, type, 1000));
  ASSERT_EQ(all.size(), 1u);
  EXPECT_TRUE(checksums_good(all[0], p, tcp, ipv6));
  EXPECT_EQ(all[0].size(), p.bytes.size());
}

TEST_P(Segments, finished_checksum_is_good) {
  Packet p = packet(tcp, ipv6, 333, GetParam().vlan);
  if (!ipv6) put16(p.bytes, p.ip + 10, 0xffff & ~ones_sum(p.bytes, p.ip, p.ip + 20));
  ASSERT_TRUE(finish_checksum(std::as_writable_bytes(std::span(p.bytes)), unfinished(p, tcp)));
  EXPECT_TRUE(checksums_good(p.bytes, p, tcp, ipv6));
}

INSTANTIATE_TEST_SUITE_P(Packets, Segments,
                         testing::Values(Shape{true, false, false}, Shape{true, true, false},
                                         Shape{false, false, false}, Shape{false, true, false},
                                         Shape{true, false, true}),
                         testing::PrintToStringParamName());

TEST(Segmenter, tcp_numbers_and_flags) {
  const Packet p = packet(true, false, 2500);
  const auto all = segments(p, gso(p, true, VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN, 1000));
  ASSERT_EQ(all.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(get32(all[i], p.transport + 4), 0xfffffff0u + static_cast<uint32_t>(i) * 1000);
    EXPECT_EQ(get16(all[i], p.ip + 4), 0x1234 + i);
  }
  EXPECT_EQ(static_cast<uint8_t>(all[0][p.transport + 13]), 0x90);  // CWR in the first only
  EXPECT_EQ(static_cast<uint8_t>(all[1][p.transport + 13]), 0x10);
  EXPECT_EQ(static_cast<uint8_t>(all[2][p.transport + 13]), 0x19);  // PSH and FIN in the last only
}

TEST(Segmenter, refuses_what_does_not_fit) {
  const Packet p = packet(true, false, 2500);
  const VnetHeader good = gso(p, true, VIRTIO_NET_HDR_GSO_TCPV4, 1000);
  const auto count = [&](const std::string& frame, const VnetHeader& header) {
    return Segmenter(bytes(frame), header).count();
  };
  ASSERT_EQ(count(p.bytes, good), 3u);
  VnetHeader bad = good;
  bad.gso_size = 0;
  EXPECT_EQ(count(p.bytes, bad), 0u);
  bad.gso_size = 1;  // more segments than kMostSegments
  EXPECT_EQ(count(p.bytes, bad), 0u);
  bad = good;
  bad.csum_start = 33;
  EXPECT_EQ(count(p.bytes, bad), 0u);
  bad = good;
  bad.gso_type = VIRTIO_NET_HDR_GSO_TCPV6;
  EXPECT_EQ(count(p.bytes, bad), 0u);
  bad.gso_type = VIRTIO_NET_HDR_GSO_UDP_L4;  // of a TCP packet
  EXPECT_EQ(count(p.bytes, bad), 0u);
  for (const size_t length : {14u, 33u, 40u, 53u})
    EXPECT_EQ(count(p.bytes.substr(0, length), good), 0u) << length;
  std::string frame = p.bytes;
  frame[p.ip] = 0x44;  // an IP header of 16 bytes
  EXPECT_EQ(count(frame, good), 0u);
  frame = p.bytes;
  frame[p.transport + 12] = 0x40;  // a TCP header of 16 bytes
  EXPECT_EQ(count(frame, good), 0u);
  frame[p.transport + 12] = static_cast<char>(0xf0);
  EXPECT_EQ(count(frame.substr(0, p.payload), good), 0u);
  const Packet v6 = packet(true, true, 100);
  VnetHeader early = gso(v6, true, VIRTIO_NET_HDR_GSO_TCPV6, 50);
  ASSERT_EQ(count(v6.bytes, early), 2u);
  early.csum_start = 20;
  EXPECT_EQ(count(v6.bytes, early), 0u);
  // Headers that would be copied into each segment, as long as the driver likes.
  VnetHeader late = early;
  std::string longer = v6.bytes.substr(0, v6.transport);
  late.csum_start = static_cast<uint16_t>(Segmenter::kMostHeaders - (v6.payload - v6.transport));
  longer.resize(late.csum_start);
  longer += v6.bytes.substr(v6.transport);
  EXPECT_EQ(count(longer, late), 2u);
  longer.insert(v6.transport, 1, '\0');
  ++late.csum_start;
  EXPECT_EQ(count(longer, late), 0u);
}

TEST(FinishChecksum, refuses_a_place_outside_of_the_frame) {
  std::string frame(60, 'x');
  const auto finish = [&](uint16_t start, uint16_t offset) {
    return finish_checksum(
        std::as_writable_bytes(std::span(frame)),
        {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = start, .csum_offset = offset});
  };
  EXPECT_TRUE(finish(58, 0));
  EXPECT_FALSE(finish(59, 0));
  EXPECT_FALSE(finish(34, 25));
  EXPECT_FALSE(finish(0xffff, 0xffff));
}

}  // namespace
}  // namespace ostler::virtio::net
