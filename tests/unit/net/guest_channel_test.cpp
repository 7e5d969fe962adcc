// A character device behind a port of the user network, and a guest that speaks TCP to it.
#include "net/guest_channel.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <optional>

#include "event/clock.h"
#include "event/loop.h"
#include "fake_network.h"
#include "net/user_backend.h"

namespace {
int refusal = 0;  // of who is to be accepted
}

// The kernel's, or its refusal.
extern "C" int accept4(int listener, sockaddr* address, socklen_t* size, int flags) {
  if (refusal != 0) {
    errno = refusal;
    return -1;
  }
  return static_cast<int>(::syscall(SYS_accept4, listener, address, size, flags));
}

namespace ostler::net {
namespace {

using test::Card;
using test::frame;

struct Device final : chardev::CharBackend {
  void attach(chardev::CharFrontend* to) override { frontend = to; }
  size_t write(std::span<const std::byte> bytes) override {
    const size_t taken = std::min(bytes.size(), room);
    room -= taken;
    written.append(reinterpret_cast<const char*>(bytes.data()), taken);
    return taken;
  }
  void accept_input() override { ++accepted; }
  chardev::CharFrontend* frontend = nullptr;
  size_t room = SIZE_MAX;
  std::string written;
  unsigned accepted = 0;
};

template <class T>
void put(std::string& to, T big_endian) {
  for (size_t i = sizeof(T); i-- != 0;) to.push_back(static_cast<char>(big_endian >> 8 * i));
}

// RFC 1071.
uint16_t checksum(std::string_view bytes) {
  uint32_t sum = 0;
  for (size_t i = 0; i < bytes.size(); ++i) sum += static_cast<uint8_t>(bytes[i]) << (i % 2 == 0 ? 8 : 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(~sum);
}

constexpr uint32_t kGuest = 0x0a00020f, kServer = 0x0a000264;
constexpr uint16_t kServerPort = 1234;
constexpr uint8_t kFin = 1, kSyn = 2, kAck = 16;

struct Segment {
  uint32_t sequence = 0, acknowledged = 0;
  uint8_t flags = kAck;
  std::string data = {};
};

std::string ethernet(uint16_t type, std::string_view content) {
  std::string bytes("\x52\x55\x0a\x00\x02\x64\x52\x54\x00\x12\x34\x56", 12);
  put(bytes, type);
  return bytes.append(content);
}

std::string ip_frame(const Segment& segment, uint16_t guest_port) {
  std::string tcp;
  put(tcp, guest_port);
  put(tcp, kServerPort);
  put(tcp, segment.sequence);
  put(tcp, segment.acknowledged);
  put(tcp, static_cast<uint16_t>(0x5000 | segment.flags));
  put(tcp, uint16_t{0xffff});  // window
  put(tcp, uint32_t{0});       // checksum, urgent pointer
  tcp += segment.data;
  std::string pseudo;
  put(pseudo, kGuest);
  put(pseudo, kServer);
  put(pseudo, uint16_t{6});
  put(pseudo, static_cast<uint16_t>(tcp.size()));
  std::string sum;
  put(sum, checksum(pseudo + tcp));
  tcp.replace(16, 2, sum);
  std::string ip("\x45\x00", 2);
  put(ip, static_cast<uint16_t>(20 + tcp.size()));
  put(ip, uint16_t{1});
  put(ip, uint16_t{0});
  put(ip, uint32_t{0x40060000});  // TTL, TCP, checksum
  put(ip, kGuest);
  put(ip, kServer);
  sum.clear();
  put(sum, checksum(ip));
  ip.replace(10, 2, sum);
  return ethernet(0x0800, ip + tcp);
}

// A guest whose frames are handled one by one, on this thread.
class GuestChannelTest : public testing::Test {
 protected:
  GuestChannelTest() {
    UserOptions options;
    options.guest_forwards.push_back(
        {.server = {htonl(kServer)}, .port = kServerPort, .command = {}, .chardev = "c", .device = &device});
    auto made = UserBackend::create(loop, options);
    EXPECT_TRUE(made);
    backend = *std::move(made);
    backend->attach(&card);
    // Who has 10.0.2.2? libslirp learns where we are.
    std::string arp("\x00\x01\x08\x00\x06\x04\x00\x01\x52\x54\x00\x12\x34\x56", 14);
    put(arp, kGuest);
    arp.append(6, '\0');
    put(arp, uint32_t{0x0a000202});
    send(ethernet(0x0806, arp));
  }
  // What is ready is done.
  void pump() {
    loop.post([this] { loop.stop(); });
    loop.run();
  }
  void send(const std::string& bytes) {
    ASSERT_TRUE(backend->send(frame(bytes), 0));
    pump();
  }
  // The last TCP segment from the server; none: there was none since the last call.
  std::optional<Segment> answer() {
    std::optional<Segment> found;
    for (const std::string& each : card.frames) {
      if (each.size() < 54 || each.substr(12, 2) != std::string("\x08\x00", 2) || each[23] != 6) continue;
      const auto* const bytes = reinterpret_cast<const uint8_t*>(each.data());
      const auto word = [&](size_t at) {
        return uint32_t{bytes[at]} << 24 | uint32_t{bytes[at + 1]} << 16 | uint32_t{bytes[at + 2]} << 8 |
               bytes[at + 3];
      };
      const size_t end = 14u + (size_t{bytes[16]} << 8 | bytes[17]);
      found = Segment{.sequence = word(38),
                      .acknowledged = word(42),
                      .flags = bytes[47],
                      .data = each.substr(34 + 4 * (bytes[46] >> 4), end - 34 - 4 * (bytes[46] >> 4))};
    }
    card.frames.clear();
    return found;
  }
  // A connection from `port` of the guest.
  void shake_hands(uint16_t port = 5000) {
    guest_port = port;
    next = 1000;
    answer();
    send(ip_frame({.sequence = 999, .flags = kSyn}, port));
    auto reply = answer();
    for (; !reply; reply = answer()) pump();
    ASSERT_EQ(reply->flags, kSyn | kAck);
    server = reply->sequence + 1;
    send(ip_frame({.sequence = next, .acknowledged = server}, port));
  }
  void say(const std::string& text, uint8_t flags = kAck) {
    send(ip_frame({.sequence = next, .acknowledged = server, .flags = flags, .data = text}, guest_port));
    next += static_cast<uint32_t>(text.size());
  }
  // What the server says next.
  std::string heard() {
    for (;;) {
      pump();
      if (const auto reply = answer(); reply && (!reply->data.empty() || (reply->flags & kFin) != 0))
        return reply->data + ((reply->flags & kFin) != 0 ? "FIN" : "");
    }
  }
  void await_written(const std::string& text) {
    while (device.written.size() < text.size()) pump();
    EXPECT_EQ(device.written, text);
  }
  // When the guest is joined with the device.
  void answer_from_device(const std::string& text) {
    while (device.frontend->can_receive() == 0) pump();
    device.frontend->receive(std::as_bytes(std::span(text)));
  }

  Device device;
  event::VirtualClock clock;  // paused
  event::Loop loop{clock};
  Card card;
  std::unique_ptr<UserBackend> backend;
  uint16_t guest_port = 0;
  uint32_t next = 0, server = 0;  // the next bytes of the guest and of the server
};

TEST_F(GuestChannelTest, bytes_go_both_ways) {
  ASSERT_NE(device.frontend, nullptr);
  EXPECT_EQ(device.frontend->can_receive(), 0u) << "nobody is connected";
  shake_hands();
  say("hello");
  await_written("hello");
  EXPECT_GT(device.accepted, 0u) << "the device is told that somebody is there";
  answer_from_device("good day");
  EXPECT_EQ(heard(), "good day");
}

TEST_F(GuestChannelTest, a_guest_that_has_said_all_still_hears) {
  shake_hands();
  say("question", kAck | kFin);
  await_written("question");
  answer_from_device("answer");
  EXPECT_EQ(heard(), "answer");
}

TEST_F(GuestChannelTest, the_latest_connection_has_the_device) {
  shake_hands(5000);
  say("one");
  await_written("one");
  shake_hands(5001);
  EXPECT_EQ(heard(), "FIN") << "the first is closed";
  say("two");
  await_written("onetwo");
}

TEST_F(GuestChannelTest, a_device_that_takes_nothing_makes_the_guest_wait) {
  shake_hands();
  device.room = 0;
  const std::string data(1400, 'x');
  for (unsigned i = 0; i < 2000; ++i) {
    const uint32_t before = next;
    say(data);
    const auto reply = answer();
    next = reply ? reply->acknowledged : before;
  }
  const uint32_t taken = next - 1000;
  EXPECT_LT(taken, 1024u * 1024) << "2800000 bytes were sent";
  device.room = SIZE_MAX;
  device.frontend->writable();
  await_written(std::string(taken, 'x'));
}

TEST_F(GuestChannelTest, many_connections_at_once_do_not_wait_for_us) {
  for (uint16_t port = 2000; port < 2400; ++port)
    ASSERT_TRUE(backend->send(frame(ip_frame({.sequence = 999, .flags = kSyn}, port)), 0));
  pump();
  shake_hands();
  say("last");
  await_written("last");
}

TEST_F(GuestChannelTest, a_connection_waits_while_the_host_has_no_descriptors) {
  refusal = ENFILE;
  shake_hands();
  for (int i = 0; i < 3; ++i) pump();
  EXPECT_TRUE(loop.host_timer_armed()) << "the loop would not sleep";
  refusal = 0;
  loop.skip_host_time(1'000'000'000);
  say("late");
  await_written("late");
}

TEST_F(GuestChannelTest, the_device_is_let_go) {
  backend.reset();
  EXPECT_EQ(device.frontend, nullptr);
}

}  // namespace
}  // namespace ostler::net
