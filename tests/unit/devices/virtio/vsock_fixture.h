// A guest's driver of virtio-vsock and the programs of a host, in one thread: turn() is one turn of the loop.
#pragma once

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <cerrno>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "devices/virtio/vsock/device.h"
#include "fake_driver.h"

namespace ostler::virtio::vsock::test {

using virtio::test::FakeQueue;
using virtio::test::GuestMemory;

struct Packet {
  Header header;
  std::string data;
};

// What a program does at its end of a stream.
inline std::string read_all(const Fd& socket, size_t most = 1 << 20) {
  std::string all(most, '\0');
  const ssize_t got = ::recv(socket.get(), all.data(), all.size(), MSG_DONTWAIT);
  all.resize(got > 0 ? static_cast<size_t>(got) : 0);
  return all;
}
inline size_t write_some(const Fd& socket, std::string_view text) {
  const ssize_t put = ::send(socket.get(), text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  return put > 0 ? static_cast<size_t>(put) : 0;
}
inline bool ended(const Fd& socket) {
  char byte = 0;
  return ::recv(socket.get(), &byte, 1, MSG_DONTWAIT) == 0;
}
// The same, or closed while bytes of ours were not read yet.
inline bool closed(const Fd& socket) {
  char byte = 0;
  const ssize_t got = ::recv(socket.get(), &byte, 1, MSG_DONTWAIT);
  return got == 0 || (got < 0 && errno == ECONNRESET);
}

class VsockTest : public testing::Test {
 protected:
  static constexpr uint64_t kCid = 42;
  static constexpr uint32_t kPort = 1234;  // served
  static constexpr uint16_t kBuffers = 64;
  static constexpr uint32_t kBufferSize = 4096;
  static constexpr uint16_t kSends = 128;

  struct Programs final : Host {
    explicit Programs(VsockTest& next) : test(next) {}
    void listen(std::function<void(Fd)> next) override { test.accepted = std::move(next); }
    Fd connect(uint32_t port) override { return test.served.contains(port) ? test.join(test.joined) : Fd(); }
    VsockTest& test;
  };

  void SetUp() override { start(); }
  void make() {
    Options options;
    options.guest_cid = kCid;
    device = std::make_unique<SocketDevice>(memory.space, loop, std::make_unique<Programs>(*this), options);
  }
  void start(uint16_t buffers = kBuffers) {
    make();
    receive_ring = std::make_unique<FakeQueue>(memory, kBuffers);
    transmit_ring = std::make_unique<FakeQueue>(memory, kSends);
    event_ring = std::make_unique<FakeQueue>(memory, 8);
    setups = {receive().setup, transmit().setup, events().setup};
    ASSERT_TRUE(device->activate(feature(VIRTIO_F_VERSION_1), setups));
    for (uint16_t i = 0; i < buffers; ++i) offer_buffer(i);
    device->notify(0);
  }
  void offer_buffer(uint16_t slot, uint32_t size = kBufferSize) {
    receive().set_descriptor(slot, {buffers_at + slot * kBufferSize, size, virtio::test::kWrite, 0});
    receive().make_available(slot);
  }

  Fd join(std::vector<Fd>& kept) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) return {};
    kept.emplace_back(ends[0]);
    return Fd(ends[1]);
  }
  // A program of the host connects.
  Fd& arrive(std::string_view text) {
    accepted(join(arrived));
    write_some(arrived.back(), text);
    turn();  // it is watched
    turn();
    return arrived.back();
  }
  void turn() {
    loop.post([this] { loop.stop(); });
    loop.run();
  }

  // The guest sends; `edit` may change the header.
  template <class Edit>
  void send(Op op, Ports ports, std::string_view data, Edit&& edit) {
    const uint16_t slot = next_send++ % (kSends / 2);
    Header header{};
    header.src_cid = kCid;
    header.dst_cid = kHostCid;
    header.src_port = ports.guest;
    header.dst_port = ports.host;
    header.len = static_cast<uint32_t>(data.size());
    header.type = VIRTIO_VSOCK_TYPE_STREAM;
    header.op = op;
    header.buf_alloc = 1 << 16;
    header.fwd_cnt = read_by_guest[ports];
    edit(header);
    memory.put(headers_at + 64u * slot, header);
    if (!data.empty()) memory.put_bytes(data_at, data);
    const auto first = static_cast<uint16_t>(2 * slot), second = static_cast<uint16_t>(first + 1);
    const bool more = !data.empty();
    transmit().set_descriptor(
        first, {headers_at + 64u * slot, sizeof header, more ? virtio::test::kNext : uint16_t{0}, second});
    transmit().set_descriptor(second, {data_at, static_cast<uint32_t>(data.size()), 0, 0});
    transmit().make_available(first);
    device->notify(1);
  }
  void send(Op op, Ports ports, std::string_view data = {}, uint32_t flags = 0) {
    send(op, ports, data, [flags](Header& header) { header.flags = flags; });
  }
  // What the guest has received, in order; the buffers go back.
  std::vector<Packet> packets() {
    std::vector<Packet> all;
    while (const auto used = receive().used()) {
      Packet packet;
      const uint64_t at = buffers_at + used->id * kBufferSize;
      packet.header = memory.get<Header>(at);
      packet.data = memory.bytes(at + sizeof(Header), used->length - sizeof(Header));
      EXPECT_EQ(packet.data.size(), packet.header.len);
      const Ports ports{packet.header.dst_port, packet.header.src_port};
      if (counts_reads) read_by_guest[ports] += packet.header.len;
      all.push_back(std::move(packet));
      if (refills) offer_buffer(static_cast<uint16_t>(used->id));
    }
    device->notify(0);
    return all;
  }
  // Everything that comes until nothing more does: the operations, and the data of all RW together.
  std::pair<std::vector<uint16_t>, std::string> take_all() {
    std::pair<std::vector<uint16_t>, std::string> all;
    for (int quiet = 0; quiet < 3; ++quiet) {
      turn();
      for (const Packet& packet : packets()) {
        all.second += packet.data;
        if (packet.header.op != VIRTIO_VSOCK_OP_RW) all.first.push_back(packet.header.op);
        quiet = 0;
      }
    }
    return all;
  }
  using Ops = std::vector<uint16_t>;
  Ops operations() { return take_all().first; }

  // A connection that the guest opens to the program `joined.back()`.
  Ports open(uint32_t guest_port = 7) {
    served.insert(kPort);
    const Ports ports{guest_port, kPort};
    send(VIRTIO_VSOCK_OP_REQUEST, ports);
    EXPECT_EQ(operations(), Ops{VIRTIO_VSOCK_OP_RESPONSE});
    return ports;
  }
  void pass(int64_t nanoseconds) {
    clock.advance(nanoseconds);
    loop.run_due();
  }

  GuestMemory memory;
  FakeQueue& receive() { return *receive_ring; }
  FakeQueue& transmit() { return *transmit_ring; }
  FakeQueue& events() { return *event_ring; }
  std::unique_ptr<FakeQueue> receive_ring, transmit_ring, event_ring;
  std::vector<QueueSetup> setups;
  const uint64_t buffers_at = memory.allocate(kBuffers * kBufferSize);
  const uint64_t headers_at = memory.allocate(64 * kSends);
  const uint64_t data_at = memory.allocate(256 * 1024);
  uint16_t next_send = 0;
  bool refills = true, counts_reads = true;
  std::map<Ports, uint32_t> read_by_guest;
  event::VirtualClock clock;  // paused: moved by hand
  event::Loop loop{clock};
  std::set<uint32_t> served;
  std::vector<Fd> joined, arrived;  // the programs' ends
  std::function<void(Fd)> accepted;
  std::unique_ptr<SocketDevice> device;
};

}  // namespace ostler::virtio::vsock::test
