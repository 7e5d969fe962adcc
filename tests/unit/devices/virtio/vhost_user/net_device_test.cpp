// A network card whose frames another process carries: its queues, the control queue that is ours, the link.
#include "devices/virtio/vhost_user/net.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "fake_driver.h"
#include "support/no_descriptors.h"
#include "vhost_user/fake_back_end.h"

namespace ostler::virtio::vhost_user {
namespace {

using enum vhost_user::Request;
using ostler::virtio::test::FakeQueue;
using ostler::virtio::test::GuestMemory;
using test::FakeBackEnd;
using namespace net;

constexpr uint64_t kBase = feature(VIRTIO_F_VERSION_1);
constexpr uint64_t kMergeable = feature(VIRTIO_NET_F_MRG_RXBUF), kMq = feature(VIRTIO_NET_F_MQ);

struct CountingTransport final : Transport {
  void interrupt_queue(unsigned) override {}
  void interrupt_config() override { ++config_interrupts; }
  void needs_reset() override {}
  int config_interrupts = 0;
};

class VhostUserNetTest : public testing::Test {
 protected:
  VhostUserNetTest() { options.mq = true; }
  Result<std::unique_ptr<NetDevice>> made() {
    return NetDevice::create(memory.space, loop, options, pairs, {fake.path(), reconnect});
  }
  // The driver takes `wanted` of what is offered.
  void start(uint64_t wanted = ~uint64_t{0}) {
    auto result = made();
    ASSERT_TRUE(result) << result.error().message();
    device = *std::move(result);
    device->connect(transport);
    uint64_t features = device->features() & wanted;
    features &= ~(feature(VIRTIO_F_RING_PACKED) | feature(VIRTIO_F_EVENT_IDX));
    features_ = features | kBase;
    setups_.resize(device->queue_count());
    for (size_t i = 0; i < setups_.size(); ++i) setups_[i] = queues[i].setup;
    ASSERT_TRUE(device->activate(features_, setups_));
  }
  // Makes the device with a socket of its own, and returns the back end that has come to it; null: none.
  std::unique_ptr<FakeBackEnd> be_called() {
    const std::string path = fake.path() + "-ours";
    auto listener = Listener::open(path);
    EXPECT_TRUE(listener) << listener.error().message();
    if (!listener) return nullptr;
    door = (*listener)->fd();
    auto caller = std::make_unique<FakeBackEnd>(has, path);
    auto result = NetDevice::create(memory.space, loop, options, 1, {.path = path, .listener = *listener});
    EXPECT_TRUE(result) << result.error().message();
    if (!result) return nullptr;
    device = *std::move(result);
    return caller;
  }
  void pump() {
    loop.post([this] { loop.stop(); });
    loop.run();
  }
  void lose() {
    fake.hang_up();
    while (device->connected() || (reconnect != 0 && !loop.host_timer_armed())) pump();
  }
  void pass_a_second() {
    loop.skip_host_time(1'000'000'000);
    loop.run_due();
    while (!device->connected() && !loop.host_timer_armed()) pump();
  }
  std::vector<std::byte> saved() {
    state::Saver saver;
    device->state(saver, true, features_, setups_);
    return saver.take();
  }
  // What is wrong with it; empty: nothing.
  std::string load(const std::vector<std::byte>& bytes) {
    state::Loader loader(bytes);
    device->state(loader, true, features_, setups_);
    return loader.error();
  }
  net::Config config() {
    net::Config seen;
    device->read_config(0, std::as_writable_bytes(std::span(&seen, 1)));
    return seen;
  }
  bool link() { return (config().status & VIRTIO_NET_S_LINK_UP) != 0; }
  void send(std::string_view frame) {
    queues[1].chain().readable(std::string(12, '\0') + std::string(frame)).offer();
    device->notify(1);
  }
  // The acknowledgement of a command.
  template <class T>
  uint8_t command(unsigned queue, uint8_t group, uint8_t number, T data) {
    auto chain = queues[queue].chain().readable_object(ControlHeader{group, number});
    chain.readable_object(data).writable(1);
    chain.offer();
    device->notify(queue);
    EXPECT_TRUE(queues[queue].used());
    return memory.get<uint8_t>(chain.address(2));
  }

  int door = -1;  // the listening socket, after be_called()
  GuestMemory memory{memory::Backing::kMemfd};
  FakeQueue queues[5] = {{memory, 8}, {memory, 8}, {memory, 8}, {memory, 8}, {memory, 8}};
  FakeBackEnd::Options has{.features = kBase | kMergeable | kMq | feature(VHOST_USER_F_PROTOCOL_FEATURES) |
                                       feature(VIRTIO_NET_F_CSUM) | feature(VIRTIO_NET_F_HOST_TSO4) |
                                       feature(VIRTIO_NET_F_GUEST_TSO4) | feature(VIRTIO_NET_F_CTRL_RX)};
  FakeBackEnd fake{has};
  event::VirtualClock clock;  // paused
  event::Loop loop{clock};
  CountingTransport transport;
  Options options;
  unsigned pairs = 1, reconnect = 0;
  uint64_t features_ = 0;
  std::vector<QueueSetup> setups_;
  std::unique_ptr<NetDevice> device;
};

TEST_F(VhostUserNetTest, offers_what_the_back_end_has) {
  start();
  const uint64_t offered = device->features();
  for (const unsigned bit : {VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_TSO4,
                             VIRTIO_NET_F_MAC, VIRTIO_NET_F_STATUS, VIRTIO_NET_F_CTRL_MAC_ADDR})
    EXPECT_NE(offered & feature(bit), 0u) << bit;
  for (const unsigned bit : {VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_MQ})
    EXPECT_EQ(offered & feature(bit), 0u) << bit;
  EXPECT_EQ(offered & feature(VIRTIO_NET_F_GUEST_TSO4), 0u) << "without GUEST_CSUM";
  EXPECT_EQ(fake.set_features(), kBase | kMergeable | feature(VIRTIO_NET_F_CSUM) |
                                     feature(VIRTIO_NET_F_HOST_TSO4) |
                                     feature(VHOST_USER_F_PROTOCOL_FEATURES))
      << "and is told what the driver took of it";
}

TEST_F(VhostUserNetTest, legacy_driver_has_its_short_headers_and_writes_its_address) {
  auto result = made();
  ASSERT_TRUE(result);
  device = *std::move(result);
  device->set_legacy_driver();
  ASSERT_TRUE(device->activate(0, std::vector{queues[0].setup, queues[1].setup, queues[2].setup}));
  EXPECT_EQ(fake.set_features(), feature(VHOST_USER_F_PROTOCOL_FEATURES));
  const std::array<uint8_t, 6> address = {2, 0, 0, 1, 2, 3};
  device->write_config(0, std::as_bytes(std::span(address)));
  EXPECT_EQ(config().mac, address);
}

TEST_F(VhostUserNetTest, offers_less_when_asked_to) {
  options.csum = options.mrg_rxbuf = false;
  start();
  EXPECT_EQ(device->features() & (feature(VIRTIO_NET_F_CSUM) | feature(VIRTIO_NET_F_HOST_TSO4) | kMergeable),
            0u);
}

TEST_F(VhostUserNetTest, what_no_back_end_does_is_refused) {
  options.rss = true;
  EXPECT_FALSE(made());
  options.rss = false;
  options.hash = true;
  EXPECT_FALSE(made());
}

TEST_F(VhostUserNetTest, pairs_need_a_back_end_that_has_them) {
  pairs = 2;
  has.features &= ~kMq;
  fake.set(has);
  EXPECT_FALSE(made());
  has.features |= kMq;
  has.queues = 1;
  fake.set(has);
  EXPECT_FALSE(made());
}

TEST_F(VhostUserNetTest, frames_go_both_ways) {
  start();
  send("a frame of some bytes");
  const auto sent = fake.pop(1);
  ASSERT_TRUE(sent);
  EXPECT_EQ(sent->readable.substr(12), "a frame of some bytes");
  fake.push(1, sent->head, 0);
  auto room = queues[0].chain().writable(1526);
  room.offer();
  device->notify(0);
  const auto buffer = fake.pop(0);
  ASSERT_TRUE(buffer);
  std::memcpy(buffer->writable[0].first + 12, "answer", 6);
  fake.push(0, buffer->head, 18);
  pump();
  EXPECT_TRUE(queues[1].used());
  const auto used = queues[0].used();
  ASSERT_TRUE(used);
  EXPECT_EQ(used->length, 18u);
  EXPECT_EQ(memory.bytes(room.address(0) + 12, 6), "answer");
}

TEST_F(VhostUserNetTest, link_is_the_connection) {
  reconnect = 1;
  start();
  EXPECT_TRUE(link());
  lose();
  EXPECT_FALSE(link());
  EXPECT_EQ(transport.config_interrupts, 1);
  pass_a_second();
  EXPECT_TRUE(link());
  EXPECT_EQ(transport.config_interrupts, 2);
}

TEST_F(VhostUserNetTest, without_a_back_end_frames_are_lost_and_buffers_wait) {
  reconnect = 1;
  start();
  queues[0].chain().writable(100).offer();
  device->notify(0);
  send("lost with the back end");
  lose();
  EXPECT_TRUE(queues[1].used());
  send("lost without one");
  EXPECT_TRUE(queues[1].used());
  EXPECT_FALSE(queues[0].used());
  queues[0].chain().writable(200).offer();
  device->notify(0);
  EXPECT_FALSE(queues[0].used());
  pass_a_second();
  for (const uint32_t size : {100u, 200u}) {
    const auto buffer = fake.pop(0);
    ASSERT_TRUE(buffer);
    EXPECT_EQ(buffer->writable[0].second, size);
  }
  EXPECT_FALSE(fake.pop(1));
}

TEST_F(VhostUserNetTest, buffers_wait_without_reconnect_too) {
  start();
  queues[0].chain().writable(100).offer();
  device->notify(0);
  lose();
  EXPECT_FALSE(queues[0].used());
  device->reset();
}

TEST_F(VhostUserNetTest, cable_is_pulled_and_put_back) {
  start();
  queues[0].chain().writable(100).offer();
  device->notify(0);
  device->set_link(false);
  EXPECT_FALSE(link());
  EXPECT_FALSE(fake.started(0)) << "or it could give frames";
  send("lost");
  EXPECT_TRUE(queues[1].used());
  EXPECT_FALSE(queues[0].used());
  device->set_link(true);
  EXPECT_TRUE(link());
  EXPECT_TRUE(fake.pop(0));
  send("arrives");
  EXPECT_TRUE(fake.pop(1));
}

TEST_F(VhostUserNetTest, cable_that_is_out_stays_out_with_the_next_back_end) {
  reconnect = 1;
  start();
  device->set_link(false);
  lose();
  pass_a_second();
  EXPECT_TRUE(device->connected());
  EXPECT_FALSE(link());
  EXPECT_FALSE(fake.started(0));
}

TEST_F(VhostUserNetTest, address_is_the_drivers_to_change) {
  start();
  const std::array<uint8_t, 6> address = {2, 0, 0, 1, 2, 3};
  EXPECT_EQ(command(2, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, address), VIRTIO_NET_OK);
  EXPECT_EQ(config().mac, address);
  device->reset();
  EXPECT_EQ(config().mac, default_mac(0));
}

TEST_F(VhostUserNetTest, unknown_and_malformed_commands_fail) {
  start();
  EXPECT_EQ(command(2, VIRTIO_NET_CTRL_RX, 0, uint8_t{1}), VIRTIO_NET_ERR);
  EXPECT_EQ(command(2, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, uint16_t{1}), VIRTIO_NET_ERR);
  EXPECT_EQ(command(2, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, uint16_t{1}), VIRTIO_NET_ERR)
      << "without MQ";
  EXPECT_EQ(command(2, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, std::array<uint8_t, 3000>{}),
            VIRTIO_NET_ERR);
}

TEST_F(VhostUserNetTest, driver_says_how_many_pairs_work) {
  pairs = 2;
  start();
  EXPECT_EQ(config().max_virtqueue_pairs, 2);
  EXPECT_TRUE(fake.started(3));
  EXPECT_TRUE(fake.enabled(1));
  EXPECT_FALSE(fake.enabled(3));
  EXPECT_EQ(command(4, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, uint16_t{2}), VIRTIO_NET_OK);
  EXPECT_TRUE(fake.enabled(2) && fake.enabled(3));
  EXPECT_EQ(command(4, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, uint16_t{1}), VIRTIO_NET_OK);
  EXPECT_FALSE(fake.enabled(2));
  for (const uint16_t wrong : {uint16_t{0}, uint16_t{3}})
    EXPECT_EQ(command(4, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, wrong), VIRTIO_NET_ERR);
}

TEST_F(VhostUserNetTest, driver_without_mq_finds_the_control_queue_behind_one_pair) {
  pairs = 2;
  start(~kMq);
  EXPECT_FALSE(fake.started(2));
  const std::array<uint8_t, 6> address = {2, 0, 0, 1, 2, 3};
  EXPECT_EQ(command(2, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, address), VIRTIO_NET_OK);
}

TEST_F(VhostUserNetTest, next_back_end_may_not_have_less) {
  reconnect = 1;
  start();
  auto other = has;
  other.features &= ~kMergeable;
  fake.set(other);
  lose();
  pass_a_second();
  EXPECT_FALSE(device->connected());
  EXPECT_FALSE(link());
  fake.set(has);
  pass_a_second();
  EXPECT_TRUE(device->connected());
}

TEST_F(VhostUserNetTest, back_end_comes_to_a_listener_again_and_again) {
  const auto caller = be_called();
  ASSERT_NE(caller, nullptr);
  ASSERT_TRUE(device->activate(kBase, std::vector{queues[0].setup, queues[1].setup, queues[2].setup}));
  for (size_t i = 1; i <= 3; ++i) {
    caller->hang_up();
    while (device->connected()) pump();
    while (!device->connected()) pump();
    send("arrives");
    EXPECT_TRUE(caller->pop(1)) << i;
  }
}

TEST_F(VhostUserNetTest, back_end_that_comes_waits_while_there_is_no_descriptor_for_it) {
  const auto caller = be_called();
  ASSERT_NE(caller, nullptr);
  caller->hang_up();
  pollfd there{.fd = door, .events = POLLIN, .revents = 0};
  ASSERT_EQ(::poll(&there, 1, -1), 1);
  while (device->connected()) pump();
  {
    const ostler::test::NoDescriptors limit;
    for (int i = 0; i < 3; ++i) pump();
    EXPECT_TRUE(loop.host_timer_armed()) << "the loop would not sleep";
    EXPECT_FALSE(device->connected());
  }
  loop.skip_host_time(1'000'000'000);
  while (!device->connected()) pump();
}

TEST_F(VhostUserNetTest, back_end_that_comes_and_leaves_does_not_fill_the_log) {
  constexpr size_t kTimes = 20;
  const auto caller = be_called();
  ASSERT_NE(caller, nullptr);
  testing::internal::CaptureStderr();
  for (size_t i = 0; i < kTimes; ++i) {
    caller->hang_up();
    while (device->connected()) pump();
    while (!device->connected()) pump();
  }
  const std::string told = testing::internal::GetCapturedStderr();
  EXPECT_LT(std::ranges::count(told, '\n'), static_cast<ptrdiff_t>(kTimes));
}

// --- saving ---------------------------------------------------------------------------------------------

TEST_F(VhostUserNetTest, buffers_pairs_and_address_are_saved) {
  pairs = 2;
  start();
  queues[0].chain().writable(100).offer();
  device->notify(0);
  const std::array<uint8_t, 6> address = {2, 0, 0, 1, 2, 3};
  EXPECT_EQ(command(4, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, address), VIRTIO_NET_OK);
  EXPECT_EQ(command(4, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, uint16_t{2}), VIRTIO_NET_OK);
  const auto bytes = saved();
  device->reset();
  ASSERT_EQ(load(bytes), "");
  pump();
  EXPECT_EQ(config().mac, address);
  EXPECT_TRUE(fake.enabled(3));
  EXPECT_TRUE(fake.pop(0));
  EXPECT_NE(config().status & VIRTIO_NET_S_ANNOUNCE, 0) << "the guest shall make itself known";
  EXPECT_EQ(command(4, VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, uint8_t{0}), VIRTIO_NET_OK);
  EXPECT_EQ(config().status & VIRTIO_NET_S_ANNOUNCE, 0);
}

TEST_F(VhostUserNetTest, back_end_announces_a_guest_that_does_not) {
  has.protocol |= 1u << VHOST_USER_PROTOCOL_F_RARP;
  fake.set(has);
  start(~feature(VIRTIO_NET_F_GUEST_ANNOUNCE));
  const auto bytes = saved();
  ASSERT_EQ(load(bytes), "");
  pump();
  fake.await(VHOST_USER_SEND_RARP);
}

TEST_F(VhostUserNetTest, broken_state_does_no_harm) {
  start();
  queues[0].chain().writable(100).offer();
  device->notify(0);
  const auto bytes = saved();
  for (size_t i = 0; i < bytes.size(); ++i) {
    auto broken = bytes;
    broken[i] = ~broken[i];
    load(broken);
    pump();
  }
}

TEST(VhostUserListenerTest, waiting_without_descriptors_is_an_error_that_names_the_path) {
  const FakeBackEnd other({});
  const std::string path = other.path() + "-ours";
  const auto listener = Listener::open(path);
  ASSERT_TRUE(listener);
  const auto comes = connect_to({.path = path});
  ASSERT_TRUE(comes);
  const ostler::test::NoDescriptors limit;
  const auto taken = (*listener)->wait();
  ASSERT_FALSE(taken);
  EXPECT_NE(taken.error().message().find(path), std::string::npos) << taken.error().message();
}

TEST(VhostUserListenerTest, path_is_freed_at_the_end_and_only_sockets_are_replaced) {
  FakeBackEnd other({});
  const std::string path = other.path() + "-ours";
  {
    const auto first = Listener::open(path);
    EXPECT_TRUE(first);
  }
  EXPECT_NE(::access(path.c_str(), F_OK), 0);
  ASSERT_EQ(::close(::open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600)), 0);
  EXPECT_FALSE(Listener::open(path));
  EXPECT_EQ(::unlink(path.c_str()), 0) << "it was not ours to remove";
}

}  // namespace
}  // namespace ostler::virtio::vhost_user
