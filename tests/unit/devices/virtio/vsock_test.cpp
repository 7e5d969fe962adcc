// virtio-vsock: what each packet of a guest does.
#include <algorithm>

#include "vsock_fixture.h"

namespace ostler::virtio::vsock::test {
namespace {

TEST_F(VsockTest, configuration_is_the_guests_address) {
  uint64_t cid = 0;
  device->read_config(0, std::as_writable_bytes(std::span(&cid, 1)));
  EXPECT_EQ(cid, kCid);
  EXPECT_EQ(device->type(), 19);
}

TEST_F(VsockTest, guest_reaches_a_program) {
  served.insert(kPort);
  send(VIRTIO_VSOCK_OP_REQUEST, {7, kPort});
  const auto answer = packets();
  ASSERT_EQ(answer.size(), 1u);
  const Header& header = answer[0].header;
  EXPECT_EQ(header.op, VIRTIO_VSOCK_OP_RESPONSE);
  EXPECT_EQ(header.type, VIRTIO_VSOCK_TYPE_STREAM);
  EXPECT_EQ(header.src_cid, kHostCid);
  EXPECT_EQ(header.dst_cid, kCid);
  EXPECT_EQ(header.src_port, kPort);
  EXPECT_EQ(header.dst_port, 7u);
  EXPECT_EQ(header.buf_alloc, Connection::kBufferBytes);
  send(VIRTIO_VSOCK_OP_RW, {7, kPort}, "question");
  EXPECT_EQ(read_all(joined[0]), "question");
  write_some(joined[0], "answer");
  EXPECT_EQ(take_all(), std::pair(Ops{}, std::string("answer")));
}

TEST_F(VsockTest, port_without_a_program_is_refused) {
  send(VIRTIO_VSOCK_OP_REQUEST, {7, 99});
  const auto answer = packets();
  ASSERT_EQ(answer.size(), 1u);
  EXPECT_EQ(answer[0].header.op, VIRTIO_VSOCK_OP_RST);
  EXPECT_EQ(answer[0].header.src_port, 99u);
  EXPECT_EQ(answer[0].header.dst_port, 7u);
  EXPECT_EQ(device->connections(), 0u);
}

TEST_F(VsockTest, packet_from_another_cid_is_dropped) {
  served.insert(kPort);
  for (const uint64_t cid : {kCid + 1, kCid | uint64_t{1} << 32, kHostCid})
    send(VIRTIO_VSOCK_OP_REQUEST, {7, kPort}, {}, [cid](Header& header) { header.src_cid = cid; });
  EXPECT_EQ(operations(), Ops{});
  EXPECT_TRUE(joined.empty());
}

TEST_F(VsockTest, packet_to_another_cid_is_refused) {
  served.insert(kPort);
  for (const uint64_t cid : {uint64_t{1}, uint64_t{99}, kHostCid | uint64_t{1} << 32}) {
    send(VIRTIO_VSOCK_OP_REQUEST, {7, kPort}, {}, [cid](Header& header) { header.dst_cid = cid; });
    const auto answer = packets();
    ASSERT_EQ(answer.size(), 1u);
    EXPECT_EQ(answer[0].header.op, VIRTIO_VSOCK_OP_RST);
    EXPECT_EQ(answer[0].header.src_cid, cid);
  }
  EXPECT_TRUE(joined.empty());
}

TEST_F(VsockTest, unknown_type_is_refused) {
  served.insert(kPort);
  send(VIRTIO_VSOCK_OP_REQUEST, {7, kPort}, {}, [](Header& header) { header.type = 2; });
  const auto answer = packets();
  ASSERT_EQ(answer.size(), 1u);
  EXPECT_EQ(answer[0].header.op, VIRTIO_VSOCK_OP_RST);
  EXPECT_EQ(answer[0].header.type, 2);
  EXPECT_TRUE(joined.empty());
}

TEST_F(VsockTest, packet_without_connection_is_answered_by_rst_but_for_rst) {
  for (const Op op : {VIRTIO_VSOCK_OP_RESPONSE, VIRTIO_VSOCK_OP_SHUTDOWN, VIRTIO_VSOCK_OP_RW,
                      VIRTIO_VSOCK_OP_CREDIT_UPDATE, VIRTIO_VSOCK_OP_CREDIT_REQUEST}) {
    send(op, {7, kPort});
    EXPECT_EQ(operations(), Ops{VIRTIO_VSOCK_OP_RST}) << op;
  }
  send(VIRTIO_VSOCK_OP_RST, {7, kPort});
  EXPECT_EQ(operations(), Ops{});
}

TEST_F(VsockTest, operation_that_the_connection_does_not_allow_ends_it) {
  for (const unsigned op :
       {0u, unsigned{VIRTIO_VSOCK_OP_REQUEST}, unsigned{VIRTIO_VSOCK_OP_RESPONSE}, 8u, 0xffffu}) {
    const Ports ports = open();
    send(static_cast<Op>(op), ports);
    EXPECT_EQ(operations(), Ops{VIRTIO_VSOCK_OP_RST}) << op;
    EXPECT_TRUE(ended(joined.back())) << op;
    EXPECT_EQ(device->connections(), 0u);
  }
}

TEST_F(VsockTest, rst_ends_the_connection) {
  const Ports ports = open();
  send(VIRTIO_VSOCK_OP_RST, ports);
  EXPECT_EQ(operations(), Ops{});
  EXPECT_TRUE(ended(joined[0]));
}

TEST_F(VsockTest, packet_without_a_header_breaks_the_device) {
  transmit().set_descriptor(0, {headers_at, sizeof(Header) - 1, 0, 0});
  transmit().make_available(0);
  device->notify(1);
  EXPECT_EQ(device->failures(), 1u);
}

TEST_F(VsockTest, packet_shorter_than_it_says_breaks_the_device) {
  const Ports ports = open();
  send(VIRTIO_VSOCK_OP_RW, ports, "four", [](Header& header) { header.len = 5; });
  EXPECT_EQ(device->failures(), 1u);
  EXPECT_EQ(read_all(joined[0]), "");
}

TEST_F(VsockTest, bytes_behind_the_length_are_not_sent) {
  const Ports ports = open();
  send(VIRTIO_VSOCK_OP_RW, ports, "four", [](Header& header) { header.len = 3; });
  EXPECT_EQ(read_all(joined[0]), "fou");
}

TEST_F(VsockTest, receive_buffer_without_room_breaks_the_device) {
  start(0);
  offer_buffer(0, sizeof(Header));
  send(VIRTIO_VSOCK_OP_REQUEST, {7, 99});
  EXPECT_EQ(device->failures(), 1u);
}

// --- credit ---

TEST_F(VsockTest, host_gets_as_much_as_the_guest_has_room_for) {
  counts_reads = false;
  served.insert(kPort);
  send(VIRTIO_VSOCK_OP_REQUEST, {7, kPort}, {}, [](Header& header) { header.buf_alloc = 100; });
  write_some(joined[0], std::string(250, 'x'));
  const auto first = take_all();
  EXPECT_EQ(first.first, (Ops{VIRTIO_VSOCK_OP_RESPONSE, VIRTIO_VSOCK_OP_CREDIT_REQUEST}));
  EXPECT_EQ(first.second.size(), 100u);
  const auto tell = [&](uint32_t alloc, uint32_t forwarded) {
    send(VIRTIO_VSOCK_OP_CREDIT_UPDATE, {7, kPort}, {}, [&](Header& header) {
      header.buf_alloc = alloc;
      header.fwd_cnt = forwarded;
    });
    return take_all().second.size();
  };
  EXPECT_EQ(tell(100, 0), 0u);
  EXPECT_EQ(tell(100, 101), 0u);  // more than was ever sent: no credit
  EXPECT_EQ(tell(50, 40), 0u);
  EXPECT_EQ(tell(100, 60), 60u);
  EXPECT_EQ(tell(1000, 160), 90u);
}

TEST_F(VsockTest, credit_is_told_when_asked) {
  const Ports ports = open();
  send(VIRTIO_VSOCK_OP_RW, ports, "abc");
  EXPECT_EQ(operations(), Ops{});
  send(VIRTIO_VSOCK_OP_CREDIT_REQUEST, ports);
  const auto answer = packets();
  ASSERT_EQ(answer.size(), 1u);
  EXPECT_EQ(answer[0].header.op, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
  EXPECT_EQ(answer[0].header.fwd_cnt, 3u);
}

TEST_F(VsockTest, guest_hears_of_room_before_it_runs_out) {
  const Ports ports = open();
  const std::string half(Connection::kBufferBytes / 4, 'x');
  send(VIRTIO_VSOCK_OP_RW, ports, half);
  EXPECT_EQ(operations(), Ops{});
  send(VIRTIO_VSOCK_OP_RW, ports, half);
  EXPECT_EQ(operations(), Ops{VIRTIO_VSOCK_OP_CREDIT_UPDATE});
}

// Sends until the socket and the buffer are full; what was sent.
TEST_F(VsockTest, program_that_does_not_read_stops_the_guest_not_the_data) {
  const int small = 4096;
  const Ports ports = open();
  ::setsockopt(joined[0].get(), SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
  std::string sent;
  uint32_t told = 0;
  // The guest keeps to its credit.
  for (int i = 0; i < 200; ++i) {
    for (const Packet& packet : packets()) told = packet.header.fwd_cnt;
    const size_t room = told + Connection::kBufferBytes - sent.size();
    std::string piece(std::min<size_t>(room, 10'000), static_cast<char>('a' + i % 26));
    if (piece.empty()) break;
    send(VIRTIO_VSOCK_OP_RW, ports, piece);
    sent += piece;
  }
  EXPECT_EQ(sent.size(), told + Connection::kBufferBytes);  // it had to stop
  std::string seen;
  for (int i = 0; i < 100 && seen.size() < sent.size(); ++i) {
    seen += read_all(joined[0]);
    turn();
  }
  EXPECT_EQ(seen, sent);
  send(VIRTIO_VSOCK_OP_CREDIT_REQUEST, ports);
  EXPECT_EQ(packets().back().header.fwd_cnt, sent.size());
}

TEST_F(VsockTest, guest_that_exceeds_its_credit_is_reset) {
  const Ports ports = open();
  send(VIRTIO_VSOCK_OP_RW, ports, std::string(Connection::kBufferBytes, 'x'));  // credit is told again
  EXPECT_EQ(operations(), Ops{VIRTIO_VSOCK_OP_CREDIT_UPDATE});
  refills = false;
  send(VIRTIO_VSOCK_OP_RW, ports, std::string(Connection::kBufferBytes, 'x'));
  send(VIRTIO_VSOCK_OP_RW, ports, std::string(1 + Connection::kBufferBytes, 'x'));
  EXPECT_EQ(packets().back().header.op, VIRTIO_VSOCK_OP_RST);
  EXPECT_EQ(device->connections(), 0u);
}

TEST_F(VsockTest, connections_take_turns) {
  start(4);
  (void)open(7);
  (void)open(8);
  write_some(joined[0], std::string(40'000, 'b'));
  turn();  // all buffers are full
  write_some(joined[1], "other");
  turn();
  EXPECT_EQ(packets().size(), 4u);
  const auto next = packets();
  ASSERT_EQ(next.size(), 4u);
  EXPECT_TRUE(next[0].data == "other" || next[1].data == "other");
}

TEST_F(VsockTest, guest_that_does_not_read_one_connection_reads_another) {
  counts_reads = false;
  (void)open(7);
  (void)open(8);
  write_some(joined[0], std::string(150'000, 'b'));
  EXPECT_EQ(take_all().second.size(), 1u << 16);
  write_some(joined[1], "other");
  EXPECT_EQ(take_all().second, "other");
}

// --- bounds ---

TEST_F(VsockTest, guest_that_takes_no_answers_is_not_listened_to) {
  start(0);
  const auto request = [&](uint32_t port) { send(VIRTIO_VSOCK_OP_REQUEST, {port, 99}); };
  for (uint32_t i = 0; i < 256; ++i) request(i);
  EXPECT_EQ(transmit().used_index(), 256);
  for (uint32_t i = 0; i < 32; ++i) request(256 + i);
  EXPECT_EQ(transmit().used_index(), 256);
  for (uint16_t i = 0; i < kBuffers; ++i) offer_buffer(i);
  device->notify(0);
  EXPECT_EQ(operations().size(), 288u);
  EXPECT_EQ(transmit().used_index(), 288);
}

TEST_F(VsockTest, connections_are_bounded) {
  served.insert(kPort);
  for (uint32_t i = 0; i < SocketDevice::kMostConnections; ++i) {
    send(VIRTIO_VSOCK_OP_REQUEST, {i, kPort});
    ASSERT_EQ(packets().front().header.op, VIRTIO_VSOCK_OP_RESPONSE);
  }
  send(VIRTIO_VSOCK_OP_REQUEST, {9999, kPort});
  EXPECT_EQ(operations(), Ops{VIRTIO_VSOCK_OP_RST});
  EXPECT_TRUE(closed(arrive("CONNECT 5\n")));
  EXPECT_EQ(device->connections(), SocketDevice::kMostConnections);
  send(VIRTIO_VSOCK_OP_RST, {5, kPort});
  send(VIRTIO_VSOCK_OP_REQUEST, {9999, kPort});
  EXPECT_EQ(operations(), Ops{VIRTIO_VSOCK_OP_RESPONSE});
}

// A guest cannot hold descriptors that the loop has not closed.
TEST_F(VsockTest, connections_that_are_not_closed_yet_are_bounded) {
  served.insert(kPort);
  unsigned accepted_requests = 0;
  for (uint32_t i = 0; i < 2 * SocketDevice::kMostConnections; ++i) {
    send(VIRTIO_VSOCK_OP_REQUEST, {i, kPort});
    if (packets().front().header.op == VIRTIO_VSOCK_OP_RESPONSE) ++accepted_requests;
    send(VIRTIO_VSOCK_OP_RST, {i, kPort});
  }
  EXPECT_LE(accepted_requests, SocketDevice::kMostConnections + 64);
  turn();
  send(VIRTIO_VSOCK_OP_REQUEST, {1, kPort});
  EXPECT_EQ(operations(), Ops{VIRTIO_VSOCK_OP_RESPONSE});
}

TEST_F(VsockTest, silent_programs_make_room) {
  for (size_t i = 0; i < SocketDevice::kMostConnections; ++i) accepted(join(arrived));
  turn();
  (void)open();
  EXPECT_TRUE(ended(arrived[0]));
  EXPECT_FALSE(ended(arrived[1]));
  EXPECT_EQ(device->connections(), SocketDevice::kMostConnections);
}

TEST_F(VsockTest, reset_closes_everything) {
  (void)open();
  const Fd waiting = std::move(arrive("CONN"));
  device->reset();
  turn();
  EXPECT_TRUE(ended(joined[0]));
  EXPECT_TRUE(closed(waiting));
  EXPECT_TRUE(closed(arrive("CONNECT 5\n")));  // nobody listens
  EXPECT_EQ(device->connections(), 0u);
}

// --- saved state ---

TEST_F(VsockTest, load_closes_connections_and_tells_the_driver) {
  (void)open();
  (void)arrive("CONNECT 5\n");
  EXPECT_EQ(packets().back().header.src_port, SocketDevice::kFirstHostPort);
  state::Saver saver;
  device->state(saver, true, feature(VIRTIO_F_VERSION_1), setups);
  EXPECT_EQ(device->connections(), 2u);  // to be saved changes nothing
  const auto bytes = saver.take();
  state::Loader loader(bytes);
  device->state(loader, true, feature(VIRTIO_F_VERSION_1), setups);
  ASSERT_TRUE(loader.finish());
  turn();
  EXPECT_TRUE(ended(joined[0]));
  EXPECT_TRUE(ended(arrived[0]));
  auto chain = events().chain().writable(4);
  chain.offer();
  memory.put(chain.address(0), 0xffffffffu);
  device->notify(2);
  EXPECT_EQ(events().used()->length, 4u);
  EXPECT_EQ(memory.get<uint32_t>(chain.address(0)), VIRTIO_VSOCK_EVENT_TRANSPORT_RESET);
  events().chain().writable(4).offer();
  device->notify(2);
  EXPECT_FALSE(events().used().has_value());  // told once
  (void)arrive("CONNECT 5\n");
  EXPECT_EQ(packets().back().header.src_port, SocketDevice::kFirstHostPort + 1);
}

TEST_F(VsockTest, event_buffer_that_is_too_small_breaks_the_device) {
  state::Saver saver;
  device->state(saver, true, feature(VIRTIO_F_VERSION_1), setups);
  const auto bytes = saver.take();
  state::Loader loader(bytes);
  device->state(loader, true, feature(VIRTIO_F_VERSION_1), setups);
  events().chain().writable(3).offer();
  device->notify(2);
  EXPECT_EQ(device->failures(), 1u);
}

}  // namespace
}  // namespace ostler::virtio::vsock::test
