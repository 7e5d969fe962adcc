// -netdev socket, stream and dgram: peers of our own kind and hostile ones, on a loop on its own thread.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "fake_network.h"
#include "net/open.h"
#include "net/socket_options.h"
#include "support/no_descriptors.h"

namespace ostler::net {
namespace {

using test::Card;
using test::frame;
using test::numbered_frame;

std::string packed(const std::string& bytes) {
  const uint32_t length = htonl(static_cast<uint32_t>(bytes.size()));
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + bytes;
}

class SocketTest : public testing::Test {
 protected:
  SocketTest() : folder(testing::TempDir() + "ostler-net-" + std::to_string(getpid())) {
    std::filesystem::remove_all(folder);
    std::filesystem::create_directory(folder);
  }
  ~SocketTest() override {
    thread.stop();
    backends.clear();
    std::filesystem::remove_all(folder);
  }
  std::string path(const std::string& name) const { return folder + "/" + name; }
  // "" or the error. '@' in the options is the folder. Before thread.start().
  std::string try_open(const std::string& type, std::string options, Card* card = nullptr) {
    for (size_t at = options.find('@'); at != std::string::npos; at = options.find('@'))
      options.replace(at, 1, folder);
    const auto values = config::split_options(options);
    auto made = net::open(thread.loop, type, values);
    if (!made) return made.error().message();
    backends.push_back(*std::move(made));
    if (card != nullptr) backends.back()->attach(card);
    return {};
  }
  // A peer that is not ours.
  Fd connect_to(const std::string& name) const {
    Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, path(name).c_str());
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    return fd;
  }
  static void write_all(const Fd& fd, std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
  }
  static std::string read_bytes(const Fd& fd, size_t count) {
    std::string bytes(count, '\0');
    EXPECT_EQ(::recv(fd.get(), bytes.data(), count, MSG_WAITALL), static_cast<ssize_t>(count));
    return bytes;
  }
  // Sends, waiting whenever the network is full.
  static void send_all(Backend& backend, Card& card, const std::vector<std::string>& frames) {
    for (const std::string& each : frames)
      while (true) {
        int seen = 0;
        {
          const std::lock_guard lock(card.mutex);
          seen = card.sendables;
        }
        if (backend.send(frame(each), 0)) break;
        ASSERT_TRUE(card.wait([&] { return card.sendables != seen; }));
      }
  }
  // A port of the host that nobody has.
  static std::string free_port(int type) {
    const Fd probe(::socket(AF_INET, type, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    EXPECT_EQ(::bind(probe.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(::getsockname(probe.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
    return std::to_string(ntohs(address.sin_port));
  }
  static bool wait_for_link(Card& card, size_t changes) {
    return card.wait([&] { return card.links.size() >= changes; });
  }
  const std::string folder;
  Card left, right;
  test::LoopThread thread;
  std::vector<std::unique_ptr<Backend>> backends;
};

TEST_F(SocketTest, two_guests_over_a_unix_stream) {
  ASSERT_EQ(try_open("stream", "server=on,addr.type=unix,addr.path=@/s", &left), "");
  EXPECT_FALSE(backends[0]->link_up());
  ASSERT_EQ(try_open("stream", "server=off,addr.type=unix,addr.path=@/s", &right), "");
  EXPECT_TRUE(backends[1]->link_up());
  thread.start();
  ASSERT_TRUE(wait_for_link(left, 1));
  EXPECT_TRUE(left.links[0]);
  backends[0]->send(frame(numbered_frame(1)), 0);
  ASSERT_TRUE(right.wait_for_frames(1));
  EXPECT_EQ(right.frames[0], numbered_frame(1));
  backends[1]->send(frame(numbered_frame(2, 65554)), 0);
  ASSERT_TRUE(left.wait_for_frames(1));
  EXPECT_EQ(left.frames[0], numbered_frame(2, 65554));
}

TEST_F(SocketTest, on_the_wire_a_frame_follows_its_length) {
  ASSERT_EQ(try_open("stream", "server=on,addr.type=unix,addr.path=@/s", &left), "");
  const Fd peer = connect_to("s");
  thread.start();
  ASSERT_TRUE(wait_for_link(left, 1));
  backends[0]->send(frame(numbered_frame(1, 258)), 0);
  EXPECT_EQ(read_bytes(peer, 262), std::string("\0\0\1\2", 4) + numbered_frame(1, 258));
  write_all(peer, packed(numbered_frame(2)));
  ASSERT_TRUE(left.wait_for_frames(1));
  EXPECT_EQ(left.frames[0], numbered_frame(2));
}

TEST_F(SocketTest, tcp_by_listen_and_connect) {
  const std::string where = "127.0.0.1:" + free_port(SOCK_STREAM);
  ASSERT_EQ(try_open("socket", "listen=" + where, &left), "");
  ASSERT_EQ(try_open("socket", "connect=" + where, &right), "");
  thread.start();
  ASSERT_TRUE(wait_for_link(left, 1));
  backends[1]->send(frame(numbered_frame(7)), 0);
  ASSERT_TRUE(left.wait_for_frames(1));
  EXPECT_EQ(left.frames[0], numbered_frame(7));
}

TEST_F(SocketTest, nothing_is_lost_or_kept_when_the_far_card_is_slow) {
  ASSERT_EQ(try_open("stream", "server=on,addr.type=unix,addr.path=@/s", &left), "");
  ASSERT_EQ(try_open("stream", "server=off,addr.type=unix,addr.path=@/s", &right), "");
  thread.start();
  ASSERT_TRUE(wait_for_link(left, 1));
  right.set_open(false);
  size_t taken = 0;
  while (taken < 1000000 && backends[0]->send(frame(numbered_frame(static_cast<unsigned>(taken), 1514)), 0))
    ++taken;
  EXPECT_LT(taken, 10000u);  // what the sockets' buffers hold
  right.set_open(true);
  backends[1]->receiver_ready(0);
  ASSERT_TRUE(left.wait([&] { return left.sendables > 0; }));
  std::vector<std::string> more;
  for (unsigned i = 0; i < 2000; ++i) more.push_back(numbered_frame(static_cast<unsigned>(taken) + i, 1514));
  send_all(*backends[0], left, more);
  ASSERT_TRUE(right.wait_for_frames(taken + 2000));
  for (unsigned i = 0; i < taken + 2000; ++i) ASSERT_EQ(right.frames[i], numbered_frame(i, 1514));
}

TEST_F(SocketTest, a_flood_waits_in_the_socket) {
  ASSERT_EQ(try_open("stream", "server=on,addr.type=unix,addr.path=@/s", &left), "");
  left.room = 10;
  const Fd peer = connect_to("s");
  thread.start();
  ASSERT_TRUE(wait_for_link(left, 1));
  const std::string one = packed(numbered_frame(1, 1514));
  size_t written = 0;
  for (int idle = 0; idle < 200 && written < 100'000'000;) {
    const ssize_t sent = ::send(peer.get(), one.data(), one.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0) written += static_cast<size_t>(sent);
    if (sent < 0) ++idle;
    if (sent < 0) std::this_thread::yield();
  }
  EXPECT_LT(written, 10'000'000u);
  ASSERT_TRUE(left.wait_for_frames(10));
}

TEST_F(SocketTest, a_false_length_ends_the_connection_and_the_next_peer_may_come) {
  ASSERT_EQ(try_open("stream", "server=on,addr.type=unix,addr.path=@/s", &left), "");
  Fd peer = connect_to("s");
  thread.start();
  ASSERT_TRUE(wait_for_link(left, 1));
  write_all(peer, "\xff\xff\xff\xff garbage");
  ASSERT_TRUE(wait_for_link(left, 2));
  EXPECT_FALSE(left.links[1]);
  char byte = 0;
  EXPECT_LE(::recv(peer.get(), &byte, 1, 0), 0);
  const Fd next = connect_to("s");
  ASSERT_TRUE(wait_for_link(left, 3));
  write_all(next, packed(numbered_frame(1)));
  ASSERT_TRUE(left.wait_for_frames(1));
}

TEST_F(SocketTest, half_a_frame_and_gone) {
  ASSERT_EQ(try_open("stream", "server=on,addr.type=unix,addr.path=@/s", &left), "");
  Fd peer = connect_to("s");
  thread.start();
  ASSERT_TRUE(wait_for_link(left, 1));
  write_all(peer, packed(numbered_frame(1, 1000)).substr(0, 500));
  peer.reset();
  ASSERT_TRUE(wait_for_link(left, 2));
  EXPECT_TRUE(left.frames.empty());
  // The next connection begins with a frame of its own.
  const Fd next = connect_to("s");
  write_all(next, packed(numbered_frame(2)));
  ASSERT_TRUE(left.wait_for_frames(1));
  EXPECT_EQ(left.frames[0], numbered_frame(2));
}

TEST_F(SocketTest, a_peer_that_leaves_a_card_without_room) {
  ASSERT_EQ(try_open("stream", "server=on,addr.type=unix,addr.path=@/s", &left), "");
  left.room = 0;
  Fd peer = connect_to("s");
  thread.start();
  ASSERT_TRUE(wait_for_link(left, 1));
  write_all(peer, packed(numbered_frame(1)) + packed(numbered_frame(2)));
  peer.reset();
  {
    const std::lock_guard lock(left.mutex);
    left.room = 100;
  }
  backends[0]->receiver_ready(0);
  ASSERT_TRUE(wait_for_link(left, 2));
  EXPECT_EQ(left.frames.size(), 2u);
}

TEST_F(SocketTest, without_a_peer_frames_are_lost) {
  ASSERT_EQ(try_open("stream", "server=on,addr.type=unix,addr.path=@/s", &left), "");
  for (unsigned i = 0; i < 5000; ++i) ASSERT_TRUE(backends[0]->send(frame(numbered_frame(i)), 0));
}

TEST_F(SocketTest, a_client_connects_again_though_the_guest_is_paused) {
  thread.clock.pause();
  ASSERT_EQ(try_open("stream", "server=off,reconnect=1,addr.type=unix,addr.path=@/s", &left), "");
  EXPECT_FALSE(backends[0]->link_up());
  thread.start();
  for (size_t round = 1; round <= 2; ++round) {
    test::LoopThread other;
    Card card;
    auto values = config::split_options("server=on,addr.type=unix,addr.path=" + path("s"));
    auto server = net::open(other.loop, "stream", values);
    ASSERT_TRUE(server);
    (*server)->attach(&card);
    other.start();
    ASSERT_TRUE(wait_for_link(left, 2 * round - 1));
    backends[0]->send(frame(numbered_frame(1)), 0);
    ASSERT_TRUE(card.wait_for_frames(1));
    other.stop();
    server->reset();
    ASSERT_TRUE(wait_for_link(left, 2 * round));
  }
}

TEST_F(SocketTest, a_peer_that_comes_to_a_server_without_descriptors_waits) {
  ASSERT_EQ(try_open("stream", "server=on,addr.type=unix,addr.path=@/s", &left), "");
  const Fd peer = connect_to("s");
  const auto turn = [this] {
    thread.loop.post([this] { thread.loop.stop(); });
    thread.loop.run();
  };
  {
    const ostler::test::NoDescriptors limit;
    for (int i = 0; i < 3; ++i) turn();
    EXPECT_TRUE(thread.loop.host_timer_armed()) << "the loop would not sleep";
    EXPECT_FALSE(backends[0]->link_up());
  }
  thread.loop.skip_host_time(1'000'000'000);
  while (!backends[0]->link_up()) turn();
}

TEST_F(SocketTest, whoever_comes_first_waits_for_the_other) {
  StreamOptions options;
  options.address.kind = Endpoint::Kind::kUnix;
  options.address.path = path("s");
  options.role = StreamOptions::Role::kEither;
  for (Card* card : {&left, &right}) {
    auto made = StreamBackend::create(thread.loop, options);
    ASSERT_TRUE(made) << made.error().message();
    (*made)->attach(card);
    backends.push_back(*std::move(made));
  }
  thread.start();
  ASSERT_TRUE(wait_for_link(left, 1));
  backends[1]->send(frame(numbered_frame(1)), 0);
  ASSERT_TRUE(left.wait_for_frames(1));
}

TEST_F(SocketTest, descriptors_of_both_kinds) {
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
  ASSERT_EQ(try_open("socket", "fd=" + std::to_string(pair[0]), &left), "");
  ASSERT_EQ(try_open("stream", "addr.type=fd,addr.str=" + std::to_string(pair[1]), &right), "");
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_DGRAM, 0, pair), 0);
  Card third, fourth;
  ASSERT_EQ(try_open("socket", "fd=" + std::to_string(pair[0]), &third), "");
  ASSERT_EQ(try_open("dgram", "local.type=fd,local.str=" + std::to_string(pair[1]), &fourth), "");
  thread.start();
  backends[0]->send(frame(numbered_frame(1)), 0);
  ASSERT_TRUE(right.wait_for_frames(1));
  backends[2]->send(frame(numbered_frame(2)), 0);
  ASSERT_TRUE(fourth.wait_for_frames(1));
  thread.stop();
  backends.clear();  // before their cards
}

TEST_F(SocketTest, datagrams_over_unix_sockets) {
  ASSERT_EQ(try_open("dgram", "local.type=unix,local.path=@/a,remote.type=unix,remote.path=@/b", &left), "");
  EXPECT_TRUE(backends[0]->send(frame(numbered_frame(0)), 0));  // nobody is there
  ASSERT_EQ(try_open("dgram", "local.type=unix,local.path=@/b,remote.type=unix,remote.path=@/a", &right), "");
  thread.start();
  // Far more than a socket holds: who sends waits.
  std::vector<std::string> frames;
  for (unsigned i = 0; i < 500; ++i) frames.push_back(numbered_frame(i, 1514));
  send_all(*backends[0], left, frames);
  ASSERT_TRUE(right.wait_for_frames(500));
  EXPECT_EQ(right.frames, frames);
}

TEST_F(SocketTest, datagrams_wait_for_a_card_without_room) {
  ASSERT_EQ(try_open("dgram", "local.type=unix,local.path=@/a,remote.type=unix,remote.path=@/b", &left), "");
  ASSERT_EQ(try_open("dgram", "local.type=unix,local.path=@/b,remote.type=unix,remote.path=@/a", &right), "");
  right.room = 1;
  thread.start();
  for (unsigned i = 0; i < 3; ++i) ASSERT_TRUE(backends[0]->send(frame(numbered_frame(i)), 0));
  ASSERT_TRUE(right.wait_for_frames(1));
  {
    const std::lock_guard lock(right.mutex);
    right.room = 100;
  }
  // The card asks whenever it has room, and may do so before the network noticed that it had none.
  for (bool all = false; !all;) {
    backends[1]->receiver_ready(0);
    const std::lock_guard lock(right.mutex);
    all = right.frames.size() == 3;
  }
  EXPECT_EQ(right.frames[2], numbered_frame(2));
}

TEST_F(SocketTest, datagrams_over_udp) {
  const std::string a = free_port(SOCK_DGRAM), b = free_port(SOCK_DGRAM);
  ASSERT_EQ(try_open("socket", "udp=127.0.0.1:" + a + ",localaddr=127.0.0.1:" + b, &left), "");
  ASSERT_EQ(try_open("dgram",
                     "remote.type=inet,remote.host=127.0.0.1,remote.port=" + b +
                         ",local.type=inet,local.host=127.0.0.1,local.port=" + a,
                     &right),
            "");
  thread.start();
  backends[0]->send(frame(numbered_frame(1)), 0);
  ASSERT_TRUE(right.wait_for_frames(1));
  backends[1]->send(frame(numbered_frame(2)), 0);
  ASSERT_TRUE(left.wait_for_frames(1));
}

TEST_F(SocketTest, a_bus_of_guests_by_multicast) {
  const std::string group = "mcast=230.0.0.1:" + free_port(SOCK_DGRAM) + ",localaddr=127.0.0.1";
  for (Card* card : {&left, &right}) ASSERT_EQ(try_open("socket", group, card), "");
  thread.start();
  backends[0]->send(frame(numbered_frame(1)), 0);
  ASSERT_TRUE(right.wait_for_frames(1));
}

TEST_F(SocketTest, mistakes_are_told) {
  EXPECT_NE(try_open("socket", "").find("exactly one of listen"), std::string::npos);
  EXPECT_NE(try_open("socket", "listen=:1,connect=x:1").find("exactly one of listen"), std::string::npos);
  EXPECT_NE(try_open("socket", "connect=1").find("example"), std::string::npos);
  // The system's resolver takes the low 16 bits of such a number: 70000 is 4464 to it.
  EXPECT_NE(try_open("socket", "listen=127.0.0.1:70000").find("up to 65535"), std::string::npos);
  EXPECT_NE(try_open("socket", "udp=127.0.0.1:1,localaddr=127.0.0.1:99999").find("up to 65535"),
            std::string::npos);
  EXPECT_NE(try_open("socket", "udp=127.0.0.1:1").find("localaddr"), std::string::npos);
  EXPECT_NE(try_open("socket", "fd=99").find("99 is not an open socket"), std::string::npos);
  EXPECT_NE(try_open("stream", "server=on").find("addr.type is missing"), std::string::npos);
  EXPECT_NE(try_open("stream", "addr.type=pipe").find("not inet, unix or fd"), std::string::npos);
  EXPECT_NE(try_open("stream", "addr.type=unix,addr.path=@/none").find("cannot connect to " + path("none")),
            std::string::npos);
  EXPECT_NE(try_open("stream", "server=on,addr.type=unix,addr.path=@/no/folder").find("cannot listen"),
            std::string::npos);
  EXPECT_NE(try_open("dgram", "remote.type=unix,remote.path=@/x").find("local is missing"),
            std::string::npos);
  EXPECT_NE(try_open("dgram", "local.type=unix,local.path=@/x").find("remote is missing"), std::string::npos);
  EXPECT_NE(try_open("stream", "addr.typ=unix").find("did you mean 'addr.type'?"), std::string::npos);
}

TEST_F(SocketTest, a_file_in_the_way_is_not_removed) {
  std::filesystem::create_directory(path("s"));
  EXPECT_NE(try_open("stream", "server=on,addr.type=unix,addr.path=@/s").find("cannot listen"),
            std::string::npos);
  EXPECT_TRUE(std::filesystem::exists(path("s")));
}

}  // namespace
}  // namespace ostler::net
