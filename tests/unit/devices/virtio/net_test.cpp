// virtio-net over a recording back end.
#include <gtest/gtest.h>

#include "net_fixture.h"

namespace ostler::virtio::net {
namespace {

using namespace test;

TEST_F(NetTest, sends_without_the_header) {
  start();
  tx.chain().readable(kHeader).readable(kFrame).offer();
  device->notify(1);
  EXPECT_EQ(backend.frames, std::vector<std::string>{kFrame});
  EXPECT_TRUE(tx.used().has_value());
}

TEST_F(NetTest, header_and_frame_in_one_buffer) {
  start();
  tx.chain().readable(kHeader + kFrame).offer();
  device->notify(1);
  EXPECT_EQ(backend.frames, std::vector<std::string>{kFrame});
}

TEST_F(NetTest, legacy_header_has_ten_bytes) {
  start(0);
  tx.chain().readable(kHeader.substr(0, 10) + kFrame).offer();
  device->notify(1);
  EXPECT_EQ(backend.frames, std::vector<std::string>{kFrame});
  auto chain = rx.chain().writable(1524);
  chain.offer();
  EXPECT_TRUE(backend.deliver(kFrame));
  EXPECT_EQ(rx.used()->length, 10 + kFrame.size());
  EXPECT_EQ(memory.bytes(chain.address(0) + 10, kFrame.size()), kFrame);
}

TEST_F(NetTest, legacy_header_with_merged_buffers) {
  start(feature(VIRTIO_NET_F_MRG_RXBUF));
  tx.chain().readable(kHeader + kFrame).offer();
  device->notify(1);
  EXPECT_EQ(backend.frames, std::vector<std::string>{kFrame});
  auto chain = rx.chain().writable(20);
  chain.offer();
  rx.chain().writable(100).offer();
  EXPECT_TRUE(backend.deliver(kFrame));
  EXPECT_EQ(memory.get<uint16_t>(chain.address(0) + 10), 2u);
  EXPECT_EQ(rx.used()->length, 20u);
  EXPECT_EQ(rx.used()->length, kFrame.size() - 8);
}

TEST_F(NetTest, legacy_driver_sets_its_address_byte_by_byte) {
  const std::string mac = "\x52\x54\x01\x02\x03\x04";
  const auto write = [&] {
    for (size_t i = 0; i < mac.size(); ++i)
      device->write_config(i, std::as_bytes(std::span(mac)).subspan(i, 1));
  };
  make();
  const auto before = config<uint32_t>(2);
  write();
  EXPECT_EQ(config<uint32_t>(2), before);  // §5.1.4: read-only but for legacy drivers
  device->set_legacy_driver();
  write();
  EXPECT_EQ(config<uint32_t>(2), 0x04030201u);
  ASSERT_TRUE(device->activate(feature(VIRTIO_NET_F_MAC), setups()));
  EXPECT_EQ(config<uint32_t>(2), 0x04030201u);
  device->reset();
  EXPECT_EQ(config<uint32_t>(2), before);
  ASSERT_TRUE(device->activate(kBase, setups()));
  write();
  EXPECT_EQ(config<uint32_t>(2), before);
}

TEST_F(NetTest, full_backend_holds_the_frame_until_there_is_room) {
  start();
  backend.room = 1;
  tx.chain().readable(kHeader + kFrame + "1").offer();
  tx.chain().readable(kHeader + kFrame + "2").offer();
  device->notify(1);
  EXPECT_EQ(tx.used_index(), 1);
  backend.room = 1;
  backend.receiver->sendable(0);
  EXPECT_EQ(tx.used_index(), 2);
  EXPECT_EQ(backend.frames[1], kFrame + "2");
}

TEST_F(NetTest, frame_that_asks_for_segmentation_is_dropped) {
  start();
  std::string header = kHeader;
  header[1] = 1;
  tx.chain().readable(header + kFrame).offer();
  device->notify(1);
  EXPECT_TRUE(backend.frames.empty());
  EXPECT_TRUE(tx.used().has_value());
}

TEST_F(NetTest, runts_and_giants_are_dropped) {
  start();
  tx.chain().readable(kHeader + "short").offer();
  tx.chain().readable(kHeader + std::string(70000, 'x')).offer();
  device->notify(1);
  EXPECT_TRUE(backend.frames.empty());
  EXPECT_EQ(tx.used_index(), 2);
}

TEST_F(NetTest, frame_shorter_than_its_header_needs_a_reset) {
  start();
  tx.chain().readable("short").offer();
  device->notify(1);
  EXPECT_EQ(transport.resets_needed, 1);
}

TEST_F(NetTest, receives_with_a_header) {
  start();
  auto chain = rx.chain().writable(1526);
  chain.offer();
  EXPECT_TRUE(backend.deliver(kFrame));
  EXPECT_EQ(rx.used()->length, 12 + kFrame.size());
  EXPECT_EQ(memory.bytes(chain.address(0) + 12, kFrame.size()), kFrame);
  EXPECT_EQ(memory.get<uint16_t>(chain.address(0) + 10), 1);
  EXPECT_EQ(transport.queue_interrupts, 1);
}

TEST_F(NetTest, no_buffer_means_no_room) {
  start();
  EXPECT_FALSE(backend.deliver(kFrame));
  rx.chain().writable(1526).offer();
  device->notify(0);
  EXPECT_EQ(backend.ready, 1);
  EXPECT_TRUE(backend.deliver(kFrame));
}

TEST_F(NetTest, frame_spans_merged_buffers) {
  start(kBase | feature(VIRTIO_NET_F_MRG_RXBUF));
  auto first = rx.chain().writable(20);
  auto second = rx.chain().writable(20);
  first.offer();
  second.offer();
  EXPECT_TRUE(backend.deliver(kFrame));
  EXPECT_EQ(memory.get<uint16_t>(first.address(0) + 10), 2);
  EXPECT_EQ(rx.used()->length, 20u);
  EXPECT_EQ(rx.used()->length, kFrame.size() - 8);
  EXPECT_EQ(memory.bytes(second.address(0), kFrame.size() - 8), kFrame.substr(8));
}

TEST_F(NetTest, merged_buffers_that_do_not_suffice_stay) {
  start(kBase | feature(VIRTIO_NET_F_MRG_RXBUF));
  rx.chain().writable(20).offer();
  EXPECT_FALSE(backend.deliver(kFrame));
  EXPECT_EQ(rx.used_index(), 0);
  rx.chain().writable(20).offer();
  EXPECT_TRUE(backend.deliver(kFrame));
  EXPECT_EQ(rx.used_index(), 2);
}

TEST_F(NetTest, frame_larger_than_the_whole_ring_is_dropped) {
  start(kBase | feature(VIRTIO_NET_F_MRG_RXBUF));
  for (int i = 0; i < 8; ++i) rx.chain().writable(16).offer();
  EXPECT_TRUE(backend.deliver(std::string(1000, 'x')));
  EXPECT_EQ(rx.used_index(), 0);
  EXPECT_TRUE(backend.deliver(kFrame));
  EXPECT_EQ(rx.used_index(), 3);
}

TEST_F(NetTest, buffer_smaller_than_a_header_needs_a_reset) {
  start();
  rx.chain().writable(8).offer();
  EXPECT_TRUE(backend.deliver(kFrame));
  EXPECT_EQ(transport.resets_needed, 1);
}

TEST_F(NetTest, frames_before_activation_are_lost) {
  device = std::make_unique<NetDevice>(memory.space, backend, options);
  EXPECT_TRUE(backend.deliver(kFrame));
}

TEST_F(NetTest, link_down_loses_frames_and_tells) {
  start();
  device->set_link(false);
  EXPECT_EQ(transport.config_interrupts, 1);
  rx.chain().writable(1526).offer();
  EXPECT_TRUE(backend.deliver(kFrame));
  EXPECT_EQ(rx.used_index(), 0);
  uint16_t status = 7;
  device->read_config(6, std::as_writable_bytes(std::span(&status, 1)));
  EXPECT_EQ(status, 0);
}

TEST_F(NetTest, half_duplex_is_told_with_the_speed) {
  for (const auto& [speed, told] : {std::pair{0u, 0xffu}, {100u, 0u}}) {
    options.speed = speed;
    options.duplex = net::Duplex::kHalf;
    start();
    uint8_t duplex = 7;
    device->read_config(16, std::as_writable_bytes(std::span(&duplex, 1)));
    EXPECT_EQ(duplex, told);
  }
}

TEST_F(NetTest, control_sets_the_mac) {
  start(kBase | feature(VIRTIO_NET_F_CTRL_VQ) | feature(VIRTIO_NET_F_CTRL_MAC_ADDR));
  auto chain = control.chain().readable(std::string("\x01\x01", 2)).readable("\x02GHIJK").writable(1);
  memory.put<uint8_t>(chain.address(2), 9);
  chain.offer();
  device->notify(2);
  EXPECT_EQ(memory.get<uint8_t>(chain.address(2)), 0);
  std::array<char, 6> mac;
  device->read_config(0, std::as_writable_bytes(std::span(mac)));
  EXPECT_EQ(std::string(mac.data(), 6), "\x02GHIJK");
  device->reset();
  device->read_config(0, std::as_writable_bytes(std::span(mac)));
  EXPECT_EQ(mac[0], 0x52);
}

TEST_F(NetTest, unknown_control_command_is_an_error) {
  start(kBase | feature(VIRTIO_NET_F_CTRL_VQ));
  auto chain = control.chain().readable("\x63\x01").writable(1);
  chain.offer();
  device->notify(2);
  EXPECT_EQ(memory.get<uint8_t>(chain.address(1)), 1);
}

TEST_F(NetTest, mac_table_with_a_lying_count_is_an_error) {
  start(kBase | feature(VIRTIO_NET_F_CTRL_VQ) | feature(VIRTIO_NET_F_CTRL_RX));
  auto chain = control.chain().readable(std::string("\x01\x00\xff\xff\xff\xff", 6)).writable(1);
  chain.offer();
  device->notify(2);
  EXPECT_EQ(memory.get<uint8_t>(chain.address(1)), 1);
}

TEST_F(NetTest, control_without_acknowledgement_needs_a_reset) {
  start(kBase | feature(VIRTIO_NET_F_CTRL_VQ));
  control.chain().readable(std::string("\x00\x00\x01", 3)).offer();
  device->notify(2);
  EXPECT_EQ(transport.resets_needed, 1);
}

TEST_F(NetTest, state_keeps_mac_and_rings) {
  start();
  tx.chain().readable(kHeader + kFrame).offer();
  device->notify(1);
  const QueueSetup setups[] = {rx.setup, tx.setup, control.setup};
  state::Saver saver;
  device->state(saver, true, kBase, setups);
  const auto bytes = saver.take();
  device.reset();
  device = std::make_unique<NetDevice>(memory.space, backend, options);
  device->connect(transport);
  state::Loader loader(bytes);
  device->state(loader, true, kBase, setups);
  ASSERT_TRUE(loader.finish());
  tx.chain().readable(kHeader + kFrame).offer();
  device->notify(1);
  EXPECT_EQ(backend.frames.size(), 2u);
}

}  // namespace
}  // namespace ostler::virtio::net
