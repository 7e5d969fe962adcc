// -netdev user: options as text, and libslirp answering on a real loop.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "base/fd.h"
#include "event/clock.h"
#include "event/loop.h"
#include "fake_network.h"
#include "net/user_backend.h"
#include "support/no_descriptors.h"

namespace ostler::net {
namespace {

using test::Card;
using test::frame;

TEST(HostForward, full_form) {
  const auto forward = parse_host_forward("udp:127.0.0.1:5353-10.0.2.15:53");
  ASSERT_TRUE(forward);
  EXPECT_TRUE(forward->udp);
  EXPECT_EQ(forward->host.s_addr, htonl(INADDR_LOOPBACK));
  EXPECT_EQ(forward->host_port, 5353);
  EXPECT_EQ(forward->guest.s_addr, inet_addr("10.0.2.15"));
  EXPECT_EQ(forward->guest_port, 53);
}

TEST(HostForward, short_form) {
  const auto forward = parse_host_forward("tcp::2222-:22");
  ASSERT_TRUE(forward);
  EXPECT_FALSE(forward->udp);
  EXPECT_EQ(forward->host.s_addr, 0u);
  EXPECT_EQ(forward->guest.s_addr, 0u);
}

TEST(HostForward, nonsense_is_refused_with_an_example) {
  for (const char* const text :
       {"", "tcp", "tcp::2222", "tcp::x-:22", "sctp::1-:2", "tcp::99999-:22", "tcp::1-:0"}) {
    const auto forward = parse_host_forward(text);
    ASSERT_FALSE(forward) << text;
    EXPECT_NE(forward.error().message().find("example"), std::string::npos);
  }
}

TEST(GuestForward, command) {
  const auto forward = parse_guest_forward("tcp:10.0.2.100:80-cmd:cat -n");
  ASSERT_TRUE(forward);
  EXPECT_EQ(forward->port, 80);
  EXPECT_EQ(forward->command, "cat -n");
  EXPECT_FALSE(parse_guest_forward("tcp:10.0.2.100:80"));
}

TEST(GuestForward, character_device) {
  const auto forward = parse_guest_forward(":10.0.2.100:80-chardev:a-b");
  ASSERT_TRUE(forward);
  EXPECT_EQ(forward->chardev, "a-b");
  EXPECT_EQ(forward->command, "");
  for (const char* const text :
       {"tcp:10.0.2.100:80-chardev:", "tcp:10.0.2.100:80-tcp:127.0.0.1:1", "tcp:x:80-cmd:y"})
    EXPECT_FALSE(parse_guest_forward(text)) << text;
}

TEST(UserOptions, repeated_forwards) {
  const auto options = UserOptions::parse(
      config::split_options("hostfwd=tcp::1-:2,hostfwd=udp::3-:4,restrict=on,net=192.168.7.0/24"));
  ASSERT_TRUE(options);
  EXPECT_EQ(options->host_forwards.size(), 2u);
  EXPECT_TRUE(options->restrict_access);
}

TEST(UserOptions, unknown_names_the_nearest) {
  const auto options = UserOptions::parse(config::split_options("hostfw=tcp::1-:2"));
  ASSERT_FALSE(options);
  EXPECT_NE(options.error().message().find("hostfwd"), std::string::npos);
}

// Waits for an ARP frame: 1 a request, 2 a reply.
std::string wait_for_arp(Card& card, char operation) {
  return card.wait_for([&](const std::string& each) {
    return each.size() >= 42 && each[12] == 8 && each[13] == 6 && each[21] == operation;
  });
}

// Who has 10.0.2.2? Tell 10.0.2.15.
std::string arp_request() {
  std::string frame = std::string(6, '\xff') + std::string("\x52\x54\x00\x12\x34\x56", 6) + "\x08\x06";
  frame += std::string("\x00\x01\x08\x00\x06\x04\x00\x01", 8);
  frame += std::string("\x52\x54\x00\x12\x34\x56", 6) + std::string("\x0a\x00\x02\x0f", 4);
  frame += std::string(6, '\0') + std::string("\x0a\x00\x02\x02", 4);
  return frame;
}

class UserBackendTest : public testing::Test {
 protected:
  ~UserBackendTest() override { stop(); }
  void start(const UserOptions& options = {}) {
    clock.resume();
    auto made = UserBackend::create(loop, options);
    ASSERT_TRUE(made) << made.error().message();
    backend = *std::move(made);
    backend->attach(&card);
    thread = std::thread([this] { loop.run(); });
  }
  void stop() {
    if (thread.joinable()) {
      loop.stop();
      thread.join();
    }
    backend.reset();
  }
  event::VirtualClock clock;
  event::Loop loop{clock};
  Card card;
  std::unique_ptr<UserBackend> backend;
  std::thread thread;
};

TEST_F(UserBackendTest, router_answers_arp) {
  start();
  const std::string request = arp_request();
  EXPECT_TRUE(backend->send(frame(request), 0));
  const std::string reply = wait_for_arp(card, 2);
  ASSERT_GE(reply.size(), 42u);
  EXPECT_EQ(reply.substr(28, 4), std::string("\x0a\x00\x02\x02", 4));
}

TEST_F(UserBackendTest, frames_wait_for_a_card_without_room) {
  start();
  card.set_open(false);
  const std::string request = arp_request();
  EXPECT_TRUE(backend->send(frame(request), 0));
  backend->wake_sender(0);
  ASSERT_TRUE(card.wait([&] { return card.sendables > 0; }));
  EXPECT_TRUE(card.frames.empty());
  card.set_open(true);
  backend->receiver_ready(0);
  EXPECT_FALSE(wait_for_arp(card, 2).empty());
}

TEST_F(UserBackendTest, queue_to_the_host_is_bounded) {
  clock.resume();
  auto made = UserBackend::create(loop, {});  // the loop does not run
  ASSERT_TRUE(made);
  const std::string request = arp_request();
  size_t taken = 0;
  while (taken < 100000 && (*made)->send(frame(request), 0)) ++taken;
  EXPECT_LT(taken, 10000u);
}

TEST_F(UserBackendTest, nothing_reaches_a_detached_card) {
  start();
  backend->attach(nullptr);
  const std::string request = arp_request();
  backend->send(frame(request), 0);
  stop();
  EXPECT_TRUE(card.frames.empty());
}

// A free port of the host, found by binding to it first.
sockaddr_in free_address() {
  const Fd probe(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  EXPECT_EQ(bind(probe.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(getsockname(probe.get(), reinterpret_cast<sockaddr*>(&address), &length), 0);
  return address;
}

UserOptions forwarding(const sockaddr_in& address) {
  UserOptions options;
  options.host_forwards.push_back(
      {.host = address.sin_addr, .host_port = ntohs(address.sin_port), .guest_port = 22});
  return options;
}

TEST_F(UserBackendTest, who_comes_to_a_forwarded_port_waits_for_a_descriptor) {
  sockaddr_in address = free_address();
  auto made = UserBackend::create(loop, forwarding(address));
  ASSERT_TRUE(made) << made.error().message();
  backend = *std::move(made);
  backend->attach(&card);
  const Fd client(socket(AF_INET, SOCK_STREAM, 0));
  ASSERT_EQ(connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  const auto turn = [this] {
    loop.post([this] { loop.stop(); });
    loop.run();
  };
  {
    const ostler::test::NoDescriptors limit;
    for (int i = 0; i < 3; ++i) turn();
    EXPECT_TRUE(loop.host_timer_armed()) << "the loop would not sleep";
    EXPECT_TRUE(card.frames.empty());
  }
  clock.resume();
  loop.skip_host_time(1'000'000'000);
  while (card.frames.empty()) turn();
}

TEST_F(UserBackendTest, host_forward_looks_for_the_guest) {
  sockaddr_in address = free_address();
  start(forwarding(address));
  Fd client(socket(AF_INET, SOCK_STREAM, 0));
  ASSERT_EQ(connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  const std::string request = wait_for_arp(card, 1);
  ASSERT_GE(request.size(), 42u);
  EXPECT_EQ(request.substr(38, 4), std::string("\x0a\x00\x02\x0f", 4));
}

TEST_F(UserBackendTest, taken_host_port_is_named) {
  Fd holder(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  ASSERT_EQ(bind(holder.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(listen(holder.get(), 1), 0);
  ASSERT_EQ(getsockname(holder.get(), reinterpret_cast<sockaddr*>(&address), &length), 0);
  UserOptions options;
  options.host_forwards.push_back(
      {.host = address.sin_addr, .host_port = ntohs(address.sin_port), .guest_port = 22});
  const auto made = UserBackend::create(loop, options);
  ASSERT_FALSE(made);
  EXPECT_NE(made.error().message().find("hostfwd"), std::string::npos);
  EXPECT_NE(made.error().message().find(std::to_string(ntohs(address.sin_port))), std::string::npos);
}

TEST_F(UserBackendTest, what_could_never_work_is_refused) {
  UserOptions deaf;
  deaf.ipv4 = deaf.ipv6 = false;
  const auto nothing = UserBackend::create(loop, deaf);
  ASSERT_FALSE(nothing);
  EXPECT_NE(nothing.error().message().find("both off"), std::string::npos);
  UserOptions boot;
  boot.tftp = testing::TempDir() + "no/such/folder";
  const auto lost = UserBackend::create(loop, boot);
  ASSERT_FALSE(lost);
  EXPECT_NE(lost.error().message().find("tftp: '" + boot.tftp), std::string::npos);
}

TEST_F(UserBackendTest, bad_addresses_are_refused) {
  for (auto change : std::initializer_list<void (*)(UserOptions&)>{
           [](UserOptions& o) { o.net = "10.0.2.0/33"; }, [](UserOptions& o) { o.net = "hello"; },
           [](UserOptions& o) { o.host = "192.168.1.1"; }, [](UserOptions& o) { o.dns = "10.0.2.2"; },
           [](UserOptions& o) { o.ipv6_prefix = "10.0.0.1"; }}) {
    UserOptions options;
    change(options);
    EXPECT_FALSE(UserBackend::create(loop, options));
  }
}

}  // namespace
}  // namespace ostler::net
