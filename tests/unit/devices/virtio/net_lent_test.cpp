// virtio-net that lends the guest's buffers to a back end, which reads large frames straight into them.
#include <gtest/gtest.h>

#include "net_fixture.h"
#include "packed_driver.h"

namespace ostler::virtio::net {
namespace {

using namespace test;
using ostler::net::Receiver;
using Receipt = Receiver::Receipt;
using virtio::test::FakePackedQueue;

constexpr uint64_t kLending = kBase | feature(VIRTIO_NET_F_MRG_RXBUF) | feature(VIRTIO_NET_F_CTRL_VQ) |
                              feature(VIRTIO_NET_F_GUEST_CSUM);

// Broadcast, with a type nobody uses.
std::string large(size_t size, char first = 'a') {
  std::string bytes = std::string(12, '\xff') + "\x88\xb5";
  while (bytes.size() < size) bytes.push_back(static_cast<char>(first + bytes.size() % 23));
  return bytes;
}

class NetLentTest : public NetTest {
 protected:
  NetLentTest() { backend.offloads = ostler::net::kChecksum | ostler::net::kTso4; }
  Receipt receive(const std::string& frame) {
    source.frames = {frame};
    return backend.receiver->receive_from(source, 0);
  }
  void offer(int count, uint32_t bytes = 2048) {
    for (int i = 0; i < count; ++i) offer_one(rx.chain().writable(bytes));
  }
  void offer_one(FakeQueue::Builder chain) {
    chain.offer();
    buffers.push_back(chain.address(0));
  }
  // The next frame that the driver finds, put together; its header is left in `header`.
  std::string received() {
    std::string bytes;
    unsigned left = 1;
    for (unsigned i = 0; i < left; ++i) {
      const auto used = rx.used();
      if (!used) return "no more buffers";
      const std::string part = memory.bytes(buffers[next_buffer++], used->length);
      if (i == 0) {
        header = part.substr(0, 12);
        left = static_cast<uint8_t>(header[10]);
      }
      bytes += i == 0 ? part.substr(12) : part;
    }
    return bytes;
  }
  // A first large frame, after which as much is lent.
  void expect_frames_of(size_t size) {
    offer(static_cast<int>(size / 2048 + 1));
    ASSERT_EQ(receive(large(size)), Receipt::kFrame);
    EXPECT_EQ(source.lent, 0u);
    ASSERT_EQ(received(), large(size));
  }
  FakeSource source;
  std::string header;
  std::vector<uint64_t> buffers;
  size_t next_buffer = 0;
};

TEST_F(NetLentTest, frame_as_large_as_the_last_is_not_copied) {
  start(kLending | feature(VIRTIO_NET_F_GUEST_TSO4));
  expect_frames_of(6000);
  offer(4);
  source.header = {
      .flags = 1, .gso_type = 1, .hdr_len = 54, .gso_size = 1448, .csum_start = 34, .csum_offset = 16};
  EXPECT_EQ(receive(large(6000, 'b')), Receipt::kFrame);
  EXPECT_EQ(source.lent, 3u * 2048 - 12);
  EXPECT_EQ(received(), large(6000, 'b'));
  EXPECT_EQ(header, std::string("\1\1\x36\0\xa8\5\x22\0\x10\0\3\0", 12));
}

TEST_F(NetLentTest, what_is_larger_than_the_last_is_copied) {
  start(kLending);
  expect_frames_of(4100);
  offer(4);
  EXPECT_EQ(receive(large(8000, 'b')), Receipt::kFrame);
  EXPECT_EQ(source.lent, 3u * 2048 - 12);
  EXPECT_EQ(received(), large(8000, 'b'));
}

TEST_F(NetLentTest, what_a_smaller_one_leaves_is_lent_again) {
  start(kLending);
  expect_frames_of(6000);
  offer(4);
  EXPECT_EQ(receive(large(100, 'b')), Receipt::kFrame);
  EXPECT_EQ(received(), large(100, 'b'));
  EXPECT_EQ(receive(large(5000, 'c')), Receipt::kFrame);  // a small one was last: copied
  EXPECT_EQ(source.lent, 0u);
  EXPECT_EQ(received(), large(5000, 'c'));
  EXPECT_FALSE(rx.used().has_value());
}

TEST_F(NetLentTest, nothing_to_read_takes_no_buffer) {
  start(kLending);
  expect_frames_of(6000);
  offer(3);
  EXPECT_EQ(backend.receiver->receive_from(source, 0), Receipt::kNothing);
  EXPECT_GT(source.lent, 0u);
  EXPECT_FALSE(rx.used().has_value());
  EXPECT_EQ(receive(large(6000, 'b')), Receipt::kFrame);
  EXPECT_EQ(received(), large(6000, 'b'));
}

TEST_F(NetLentTest, frame_of_somebody_else_takes_no_buffer) {
  start(kLending | feature(VIRTIO_NET_F_CTRL_RX));
  expect_frames_of(6000);
  ASSERT_EQ(command(0, 0, std::string(1, '\0')), 0);  // not promiscuous
  offer(3);
  std::string other = large(6000, 'b');
  other[0] = 2;
  EXPECT_EQ(receive(other), Receipt::kFrame);
  EXPECT_GT(source.lent, 0u);
  EXPECT_FALSE(rx.used().has_value());
  EXPECT_EQ(receive(large(6000, 'c')), Receipt::kFrame);
  EXPECT_EQ(received(), large(6000, 'c'));
}

TEST_F(NetLentTest, frame_without_room_is_put_back_whole) {
  start(kLending | feature(VIRTIO_F_EVENT_IDX));
  expect_frames_of(4100);
  offer(3);
  EXPECT_EQ(receive(large(8000, 'b')), Receipt::kNoRoom);
  EXPECT_EQ(source.kept, large(8000, 'b'));
  EXPECT_FALSE(rx.used().has_value());
  offer(1);
  EXPECT_TRUE(backend.deliver(source.kept));
  EXPECT_EQ(received(), large(8000, 'b'));
}

TEST_F(NetLentTest, no_buffer_at_all_is_no_room) {
  start(kLending);
  expect_frames_of(6000);
  EXPECT_EQ(receive(large(6000, 'b')), Receipt::kNoRoom);
  EXPECT_EQ(source.kept, large(6000, 'b'));
}

TEST_F(NetLentTest, frame_larger_than_all_buffers_is_dropped) {
  start(kLending);
  expect_frames_of(4100);
  offer(8, 600);
  EXPECT_EQ(receive(large(6000, 'b')), Receipt::kFrame);
  EXPECT_FALSE(rx.used().has_value());
  EXPECT_EQ(receive(large(4200, 'c')), Receipt::kFrame);
  EXPECT_EQ(received(), large(4200, 'c'));
}

TEST_F(NetLentTest, drivers_that_frames_must_be_changed_for_lend_nothing) {
  for (const uint64_t without : {VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_GUEST_CSUM}) {
    start(kLending & ~feature(static_cast<unsigned>(without)));
    for (int i = 0; i < 3; ++i) {
      offer(1, 8000);
      EXPECT_EQ(receive(large(6000)), Receipt::kFrame);
      EXPECT_EQ(source.lent, 0u) << without;
      EXPECT_EQ(received(), large(6000));
    }
    device.reset();
    rx.restart();
    buffers.clear();
    next_buffer = 0;
  }
}

TEST_F(NetLentTest, hashes_and_steering_look_at_the_frame_first) {
  options.rss = options.hash = true;
  for (const unsigned with : {VIRTIO_NET_F_RSS, VIRTIO_NET_F_HASH_REPORT}) {
    start(kLending | feature(with));
    ASSERT_EQ(command(4, with == VIRTIO_NET_F_RSS ? 1 : 2,
                      with == VIRTIO_NET_F_RSS ? std::string("\x3f\0\0\0\0\0\0\0\0\0\1\0\4keys", 17)
                                               : std::string("\x3f\0\0\0\0\0\0\0\0\0\0\0\4keys", 17)),
              0);
    for (int i = 0; i < 2; ++i) {
      offer(1, 8000);
      EXPECT_EQ(receive(large(6000)), Receipt::kFrame);
      EXPECT_EQ(source.lent, 0u) << with;
    }
    device.reset();
    rx.restart();
    control.restart();
  }
}

TEST_F(NetLentTest, more_pieces_than_a_read_takes_are_copied) {
  FakeQueue long_queue(memory, 256);
  make();
  const QueueSetup all[] = {long_queue.setup, tx.setup, control.setup};
  ASSERT_TRUE(device->activate(kLending | feature(VIRTIO_F_INDIRECT_DESC), all));
  const auto offer_pieces = [&](int count, uint32_t bytes) {
    auto chain = long_queue.chain().writable(16);
    for (int i = 0; i < count; ++i) chain.writable(bytes);
    chain.offer_indirect();
  };
  offer_pieces(1, 5000);
  EXPECT_EQ(receive(large(5000)), Receipt::kFrame);
  EXPECT_EQ(long_queue.used()->length, 5012u);
  for (int i = 0; i < 6; ++i) offer_pieces(200, 5);
  EXPECT_EQ(receive(large(5000, 'b')), Receipt::kFrame);
  EXPECT_EQ(source.lent, 0u);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(long_queue.used()->length, 1016u);
  EXPECT_EQ(long_queue.used()->length, 5012u - 4 * 1016);
}

TEST_F(NetLentTest, buffer_smaller_than_the_header_needs_a_reset) {
  start(kLending);
  expect_frames_of(6000);
  offer(1, 11);
  offer(3);
  EXPECT_EQ(receive(large(6000, 'b')), Receipt::kFrame);
  EXPECT_EQ(transport.resets_needed, 1);
}

TEST_F(NetLentTest, dirty_log_knows_of_a_frame_that_was_dropped) {
  start(kLending | feature(VIRTIO_NET_F_CTRL_RX));
  expect_frames_of(6000);
  ASSERT_EQ(command(0, 0, std::string(1, '\0')), 0);
  memory.allocate(0, 4096);
  offer(3, 4096);
  memory.ram().start_dirty_log();
  std::string other = large(6000, 'b');
  other[0] = 2;
  EXPECT_EQ(receive(other), Receipt::kFrame);
  std::vector<uint64_t> bitmap;
  memory.ram().collect_dirty(bitmap);
  const auto dirty = [&](uint64_t at) { return (bitmap[at / 4096 / 64] >> at / 4096 % 64 & 1) != 0; };
  EXPECT_TRUE(dirty(buffers[3] + 12));
  EXPECT_TRUE(dirty(buffers[4] + 1));
  EXPECT_FALSE(dirty(buffers[5] + 4095));
  memory.ram().stop_dirty_log();
}

TEST_F(NetLentTest, packed_ring_in_order) {
  FakePackedQueue packed(memory, 8), packed_tx(memory, 8), packed_control(memory, 8);
  options.packed = options.in_order = true;
  make();
  const QueueSetup all[] = {packed.setup, packed_tx.setup, packed_control.setup};
  ASSERT_TRUE(device->activate(kLending | feature(VIRTIO_F_RING_PACKED) | feature(VIRTIO_F_IN_ORDER), all));
  std::vector<uint64_t> addresses;
  for (uint16_t id = 1; id <= 8; ++id) {
    auto chain = packed.chain().writable(2048);
    addresses.push_back(chain.address(0));
    chain.offer(id);
  }
  EXPECT_EQ(receive(large(4100)), Receipt::kFrame);  // takes 3
  EXPECT_EQ(receive(large(100, 'b')), Receipt::kFrame);
  EXPECT_GT(source.lent, 0u);
  EXPECT_EQ(memory.bytes(addresses[3] + 12, 100), large(100, 'b'));
  EXPECT_EQ(receive(large(4200, 'c')), Receipt::kFrame);
  EXPECT_EQ(memory.bytes(addresses[4] + 12, 2036), large(4200, 'c').substr(0, 2036));
  EXPECT_EQ(memory.bytes(addresses[5], 2048), large(4200, 'c').substr(2036, 2048));
  for (uint32_t id = 1; id <= 7; ++id) EXPECT_EQ(packed.used()->id, id);
  EXPECT_FALSE(packed.used().has_value());
}

}  // namespace
}  // namespace ostler::virtio::net
