// virtio-net: offloads, filters, several queues, link, announcements, and their saved state.
#include <gtest/gtest.h>

#include "net_fixture.h"
#include "packets.h"

namespace ostler::virtio::net {
namespace {

using namespace test;
using namespace ostler::net;

constexpr uint64_t kHost = kBase | feature(VIRTIO_NET_F_CSUM) | feature(VIRTIO_NET_F_HOST_TSO4) |
                           feature(VIRTIO_NET_F_HOST_TSO6) | feature(VIRTIO_NET_F_HOST_ECN);
constexpr uint64_t kControl = kBase | feature(VIRTIO_NET_F_CTRL_VQ);

std::string header_bytes(const VnetHeader& vnet) {
  const Header header = {vnet, 0};
  return {reinterpret_cast<const char*>(&header), sizeof header};
}

class NetOffloadTest : public NetTest {
 protected:
  void send(const std::string& frame, const VnetHeader& vnet) {
    tx.chain().readable(header_bytes(vnet)).readable(frame).offer();
    device->notify(1);
  }
  const Packet large = packet(true, false, 3000);
  VnetHeader large_header() const {
    VnetHeader vnet = unfinished(large, true);
    vnet.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
    vnet.gso_size = 1000;
    vnet.hdr_len = 54;
    return vnet;
  }
};

TEST_F(NetOffloadTest, checksum_is_finished_for_a_plain_backend) {
  start(kHost);
  Packet p = packet(true, true, 100);
  send(p.bytes, unfinished(p, true));
  ASSERT_EQ(backend.frames.size(), 1u);
  EXPECT_TRUE(checksums_good(backend.frames[0], p, true, true));
  EXPECT_EQ(backend.headers[0], VnetHeader{});
}

TEST_F(NetOffloadTest, able_backend_gets_the_header) {
  backend.offloads = kChecksum | kTso4;
  start(kHost);
  send(large.bytes, large_header());
  EXPECT_EQ(backend.frames, std::vector<std::string>{large.bytes});
  EXPECT_EQ(backend.headers[0], large_header());
}

TEST_F(NetOffloadTest, large_packet_is_cut_for_a_backend_that_only_knows_checksums) {
  backend.offloads = kChecksum;
  start(kHost);
  send(large.bytes, large_header());
  ASSERT_EQ(backend.frames.size(), 3u);
  for (const auto& frame : backend.frames) EXPECT_TRUE(checksums_good(frame, large, true, false));
}

TEST_F(NetOffloadTest, backend_that_fills_up_among_segments_gets_the_rest_later) {
  start(kHost);
  backend.room = 2;
  send(large.bytes, large_header());
  EXPECT_EQ(backend.frames.size(), 2u);
  EXPECT_FALSE(tx.used().has_value());
  save_and_load();
  backend.room = 10;
  backend.receiver->sendable(0);
  EXPECT_EQ(backend.frames.size(), 3u);
  EXPECT_TRUE(tx.used().has_value());
  std::string data;
  for (const auto& frame : backend.frames) data += frame.substr(large.payload);
  EXPECT_EQ(data, large.bytes.substr(large.payload));
}

TEST_F(NetOffloadTest, much_to_cut_takes_more_turns_than_one) {
  start(kHost);
  VnetHeader vnet = large_header();
  vnet.gso_size = 100;
  for (int i = 0; i < 2; ++i) tx.chain().readable(header_bytes(vnet)).readable(large.bytes).offer();
  const int before = backend.wakes;
  device->notify(1);
  EXPECT_EQ(backend.frames.size(), 30u);
  EXPECT_EQ(backend.wakes, before + 1);
  backend.receiver->sendable(0);
  EXPECT_EQ(backend.frames.size(), 60u);
}

TEST_F(NetOffloadTest, what_was_not_negotiated_is_dropped) {
  start(kBase | feature(VIRTIO_NET_F_CSUM));
  send(large.bytes, large_header());
  EXPECT_TRUE(backend.frames.empty());
  EXPECT_TRUE(tx.used().has_value());
  start(kBase);
  Packet p = packet(true, false, 100);
  send(p.bytes, unfinished(p, true));
  EXPECT_TRUE(backend.frames.empty());
}

TEST_F(NetOffloadTest, segmentation_without_its_numbers_is_dropped) {
  backend.offloads = kChecksum | kTso4;
  start(kHost);
  VnetHeader vnet = large_header();
  vnet.flags = 0;
  send(large.bytes, vnet);
  vnet = large_header();
  vnet.gso_size = 0;
  send(large.bytes, vnet);
  vnet = large_header();
  vnet.gso_type = 77;
  send(large.bytes, vnet);
  EXPECT_TRUE(backend.frames.empty());
  EXPECT_EQ(tx.used_index(), 3);
}

TEST_F(NetOffloadTest, guest_offloads_are_those_of_the_backend) {
  start();
  EXPECT_EQ(device->features() & feature(VIRTIO_NET_F_GUEST_CSUM), 0u);
  EXPECT_NE(device->features() & feature(VIRTIO_NET_F_HOST_TSO4), 0u);
  EXPECT_EQ(device->features() & feature(VIRTIO_NET_F_HOST_UFO), 0u);
  backend.offloads = kChecksum | kTso4 | kUfo;
  start(kBase | feature(VIRTIO_NET_F_GUEST_CSUM) | feature(VIRTIO_NET_F_GUEST_TSO4));
  EXPECT_NE(device->features() & feature(VIRTIO_NET_F_GUEST_TSO4), 0u);
  EXPECT_EQ(device->features() & feature(VIRTIO_NET_F_GUEST_TSO6), 0u);
  EXPECT_NE(device->features() & feature(VIRTIO_NET_F_HOST_UFO), 0u);
  EXPECT_EQ(backend.allowed, Offloads{kChecksum | kTso4});
  device->reset();
  EXPECT_EQ(backend.allowed, 0u);
}

TEST_F(NetOffloadTest, header_of_the_backend_reaches_the_guest) {
  backend.offloads = kChecksum | kTso4;
  start(kBase | feature(VIRTIO_NET_F_GUEST_CSUM) | feature(VIRTIO_NET_F_GUEST_TSO4));
  auto chain = rx.chain().writable(4000);
  chain.offer();
  EXPECT_TRUE(backend.deliver(large.bytes, large_header()));
  EXPECT_EQ(memory.bytes(chain.address(0), 10), header_bytes(large_header()).substr(0, 10));
}

TEST_F(NetOffloadTest, guest_turns_its_offloads_off) {
  backend.offloads = kChecksum | kTso4;
  const uint64_t guest = feature(VIRTIO_NET_F_GUEST_CSUM) | feature(VIRTIO_NET_F_GUEST_TSO4);
  start(kControl | guest | feature(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS));
  EXPECT_EQ(command(5, 0, std::string("\x02\0\0\0\0\0\0\0", 8)), 0);
  EXPECT_EQ(backend.allowed, Offloads{kChecksum});
  EXPECT_EQ(command(5, 0, std::string(8, '\0')), 0);
  EXPECT_EQ(backend.allowed, 0u);
  EXPECT_EQ(command(5, 0, std::string("\0\x01\0\0\0\0\0\0", 8)), 1);  // not negotiated
  // What was on its way meanwhile is finished here, or lost.
  auto chain = rx.chain().writable(4000);
  chain.offer();
  const Packet p = packet(true, true, 100);
  EXPECT_TRUE(backend.deliver(large.bytes, large_header()));
  EXPECT_TRUE(backend.deliver(p.bytes, unfinished(p, true)));
  EXPECT_EQ(rx.used_index(), 1);
  EXPECT_TRUE(checksums_good(memory.bytes(chain.address(0) + 12, p.bytes.size()), p, true, true));
  save_and_load();
  EXPECT_EQ(backend.allowed, 0u);
}

TEST_F(NetOffloadTest, filter_as_the_driver_sets_it) {
  start(kControl | feature(VIRTIO_NET_F_CTRL_RX) | feature(VIRTIO_NET_F_CTRL_VLAN));
  for (int i = 0; i < 4; ++i) rx.chain().writable(1526).offer();
  backend.deliver(kFrame);
  EXPECT_EQ(rx.used_index(), 1);
  EXPECT_EQ(command(0, 0, std::string(1, '\0')), 0);
  backend.deliver(kFrame);
  EXPECT_EQ(rx.used_index(), 1);
  EXPECT_EQ(command(1, 0, std::string("\0\0\0\0\1\0\0\0mmmmmm", 14)), 0);
  backend.deliver(kFrame);
  EXPECT_EQ(rx.used_index(), 2);
  save_and_load();
  backend.deliver(kFrame);
  backend.deliver(std::string(12, 'o') + "\x08\x06....");
  EXPECT_EQ(rx.used_index(), 3);
  EXPECT_EQ(command(2, 0, std::string("\x05\0", 2)), 0);
  EXPECT_EQ(command(2, 0, std::string("\x05\x10", 2)), 1);
  EXPECT_EQ(command(2, 2, std::string("\x05\0", 2)), 1);
}

TEST_F(NetOffloadTest, commands_that_were_not_negotiated_are_errors) {
  start(kControl);
  EXPECT_EQ(command(0, 0, std::string(1, '\1')), 1);
  EXPECT_EQ(command(1, 1, "abcdef"), 1);
  EXPECT_EQ(command(2, 0, std::string("\x05\0", 2)), 1);
  EXPECT_EQ(command(3, 0, ""), 1);
  EXPECT_EQ(command(4, 0, std::string("\1\0", 2)), 1);
  EXPECT_EQ(command(5, 0, std::string(8, '\0')), 1);
}

class NetQueuesTest : public NetOffloadTest {
 protected:
  NetQueuesTest() {
    backend.pairs = 2;
    options.mq = true;
  }
  static constexpr uint64_t kMq = kControl | feature(VIRTIO_NET_F_MQ);
};

TEST_F(NetQueuesTest, guest_chooses_how_many_pairs) {
  start(kMq);
  EXPECT_EQ(device->queue_count(), 5u);
  EXPECT_EQ(config<uint16_t>(8), 2);
  EXPECT_EQ(backend.active, 1u);
  EXPECT_EQ(command(4, 0, std::string("\3\0", 2)), 1);
  EXPECT_EQ(command(4, 0, std::string("\0\0", 2)), 1);
  EXPECT_EQ(command(4, 0, std::string("\2\0", 2)), 0);
  EXPECT_EQ(backend.active, 2u);
  tx2.chain().readable(kHeader + kFrame).offer();
  device->notify(3);
  EXPECT_EQ(backend.last_queue, 1u);
  rx2.chain().writable(1526).offer();
  EXPECT_TRUE(backend.deliver(kFrame, {}, 1));
  EXPECT_EQ(rx2.used_index(), 1);
  save_and_load();
  EXPECT_EQ(backend.active, 2u);
}

TEST_F(NetQueuesTest, pair_that_is_not_in_use_sends_nothing) {
  start(kMq);
  tx2.chain().readable(kHeader + kFrame).offer();
  device->notify(3);
  EXPECT_TRUE(backend.frames.empty());
}

TEST_F(NetQueuesTest, driver_without_mq_has_control_at_2) {
  start(kControl | feature(VIRTIO_NET_F_CTRL_MAC_ADDR));
  auto chain = rx2.chain().readable(std::string("\x01\x01", 2)).readable("\x02GHIJK").writable(1);
  memory.put<uint8_t>(chain.address(2), 9);
  chain.offer();
  device->notify(2);
  EXPECT_EQ(memory.get<uint8_t>(chain.address(2)), 0);
}

TEST_F(NetQueuesTest, rss_steers_by_the_guests_table) {
  options.rss = options.hash = true;
  start(kControl | feature(VIRTIO_NET_F_RSS) | feature(VIRTIO_NET_F_HASH_REPORT));
  // No hash type: everything is unclassified and goes to queue 1.
  const std::string rss("\x3f\0\0\0\0\0\1\0\0\0\2\0\4keys", 17);
  EXPECT_EQ(command(4, 1, rss), 0);
  EXPECT_EQ(backend.active, 2u);
  auto first = rx.chain().writable(1526);
  first.offer();
  rx2.chain().writable(1526).offer();
  EXPECT_TRUE(backend.deliver(kFrame));  // ARP has no flow
  EXPECT_EQ(rx2.used()->length, 20 + kFrame.size());
  const Packet p = packet(true, false, 100);
  EXPECT_TRUE(backend.deliver(p.bytes, {}, 1));
  EXPECT_EQ(rx.used()->length, 20 + p.bytes.size());
  EXPECT_EQ(memory.get<uint16_t>(first.address(0) + 16), 2);  // TCPv4
  save_and_load();
  rx2.chain().writable(1526).offer();
  EXPECT_TRUE(backend.deliver(kFrame));
  EXPECT_EQ(rx2.used_index(), 2);
  EXPECT_EQ(command(4, 1, rss.substr(1)), 1);
}

TEST_F(NetOffloadTest, link_of_the_peer) {
  start(kBase | feature(VIRTIO_NET_F_STATUS));
  EXPECT_EQ(config<uint16_t>(6), 1);
  backend.receiver->link_changed(false);
  EXPECT_EQ(config<uint16_t>(6), 0);
  EXPECT_EQ(transport.config_interrupts, 1);
  device->set_link(false);
  EXPECT_EQ(backend.links, std::vector<bool>{false});
  backend.receiver->link_changed(true);
  EXPECT_EQ(config<uint16_t>(6), 0);
  EXPECT_EQ(transport.config_interrupts, 1);
  device->set_link(true);
  EXPECT_EQ(config<uint16_t>(6), 1);
}

TEST_F(NetOffloadTest, guest_is_asked_to_announce_itself_after_a_load) {
  start(kControl | feature(VIRTIO_NET_F_STATUS) | feature(VIRTIO_NET_F_GUEST_ANNOUNCE));
  backend.receiver->sendable(0);
  EXPECT_EQ(config<uint16_t>(6), 1);
  save_and_load();
  EXPECT_GE(backend.wakes, 1);
  backend.receiver->sendable(0);
  EXPECT_EQ(config<uint16_t>(6), 3);
  EXPECT_EQ(transport.config_interrupts, 1);
  EXPECT_EQ(command(3, 0, ""), 0);
  EXPECT_EQ(config<uint16_t>(6), 1);
}

TEST_F(NetOffloadTest, receive_waits_for_more_buffers_with_an_event_past_those_seen) {
  start(kBase | feature(VIRTIO_NET_F_MRG_RXBUF) | feature(VIRTIO_F_EVENT_IDX));
  rx.chain().writable(20).offer();
  EXPECT_FALSE(backend.deliver(kFrame));
  EXPECT_EQ(rx.available_event(), 1);
}

TEST_F(NetOffloadTest, interrupt_comes_once_for_a_burst) {
  start();
  for (int i = 0; i < 3; ++i) rx.chain().writable(1526).offer();
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(backend.receiver->receive(std::as_bytes(std::span(kFrame)), 0));
  EXPECT_EQ(transport.queue_interrupts, 0);
  backend.receiver->received_all(0);
  EXPECT_EQ(transport.queue_interrupts, 1);
}

}  // namespace
}  // namespace ostler::virtio::net
