#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <sstream>

#include "base/fd.h"
#include "chardev/open.h"
#include "fixtures.h"
#include "support/no_descriptors.h"
#include "support/temp_folder.h"

namespace ostler::chardev {
namespace {

struct BackendsTest : ::testing::Test {
  event::VirtualClock clock;
  event::Loop loop{clock};
  FakeFrontend frontend;
  const test::TempFolder own_folder;
  const std::string folder = own_folder.path();

  std::unique_ptr<CharBackend> open(const Options& options) {
    auto backend = chardev::open(loop, options);
    if (!backend) {
      ADD_FAILURE() << backend.error().message();
      return nullptr;
    }
    return *std::move(backend);
  }
  static std::string contents(const std::string& path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
  }
  static Fd connect_to(const std::string& path) {
    Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    return fd;
  }
};

TEST_F(BackendsTest, NullTakesEverything) {
  const auto backend = open({});
  EXPECT_EQ(backend->write(bytes_of("nothing")), 7u);
}

TEST_F(BackendsTest, FileIsTruncatedOrAppendedTo) {
  const std::string path = folder + "/log";
  std::ofstream(path) << "old ";
  {
    const auto backend = open({.kind = Kind::kFile, .path = path, .append = true});
    backend->write(bytes_of("new"));
  }
  EXPECT_EQ(contents(path), "old new");
  {
    const auto backend = open({.kind = Kind::kFile, .path = path});
    backend->write(bytes_of("fresh"));
    EXPECT_TRUE(run_until(loop, [&] { return contents(path) == "fresh"; }));
  }
}

TEST_F(BackendsTest, FileErrorNamesThePath) {
  const auto backend = chardev::open(loop, {.kind = Kind::kFile, .path = folder + "/no/such"});
  ASSERT_FALSE(backend);
  EXPECT_EQ(backend.error().kind(), ErrorKind::kNotFound);
  EXPECT_NE(backend.error().message().find(folder + "/no/such"), std::string::npos);
}

TEST_F(BackendsTest, SocketServerServesOneClientAfterAnother) {
  const std::string path = folder + "/socket";
  const auto backend = open({.kind = Kind::kUnixSocket, .path = path, .server = true});
  backend->attach(&frontend);
  EXPECT_FALSE(backend->connected());
  EXPECT_EQ(backend->write(bytes_of("unheard")), 7u);
  for (int client = 1; client <= 2; ++client) {
    const Fd fd = connect_to(path);
    EXPECT_TRUE(run_until(loop, [&] { return frontend.opened == client; }));
    backend->write(bytes_of("hello"));
    std::array<char, 16> buffer{};
    EXPECT_TRUE(
        run_until(loop, [&] { return ::recv(fd.get(), buffer.data(), buffer.size(), MSG_DONTWAIT) == 5; }));
    EXPECT_STREQ(buffer.data(), "hello");
    EXPECT_EQ(::write(fd.get(), "k", 1), 1);
    EXPECT_TRUE(run_until(loop, [&] { return frontend.input.size() == static_cast<size_t>(client); }));
    ::shutdown(fd.get(), SHUT_RDWR);
    EXPECT_TRUE(run_until(loop, [&] { return frontend.closed == client; }));
  }
}

TEST_F(BackendsTest, SocketServerRemovesItsPath) {
  const std::string path = folder + "/socket";
  open({.kind = Kind::kUnixSocket, .path = path, .server = true}).reset();
  struct stat status {};
  EXPECT_NE(::stat(path.c_str(), &status), 0);
}

TEST_F(BackendsTest, SocketClientConnects) {
  const std::string path = folder + "/socket";
  const auto server = open({.kind = Kind::kUnixSocket, .path = path, .server = true});
  server->attach(&frontend);
  FakeFrontend client_frontend;
  const auto client = open({.kind = Kind::kUnixSocket, .path = path});
  client->attach(&client_frontend);
  client->write(bytes_of("ping"));
  EXPECT_TRUE(run_until(loop, [&] { return frontend.input == "ping"; }));
}

TEST_F(BackendsTest, SocketErrorsNameTheAddress) {
  const auto none = chardev::open(loop, {.kind = Kind::kUnixSocket, .path = folder + "/nobody"});
  ASSERT_FALSE(none);
  EXPECT_NE(none.error().message().find("nobody"), std::string::npos);
  const auto longest =
      chardev::open(loop, {.kind = Kind::kUnixSocket, .path = std::string(200, 'p'), .server = true});
  ASSERT_FALSE(longest);
  EXPECT_EQ(longest.error().kind(), ErrorKind::kInvalidArgument);
  // The system's resolver would take it for 65536 less.
  const auto beyond =
      chardev::open(loop, {.kind = Kind::kTcpSocket, .host = "127.0.0.1", .port = "70000", .server = true});
  ASSERT_FALSE(beyond);
  EXPECT_NE(beyond.error().message().find("up to 65535"), std::string::npos) << beyond.error().message();
}

TEST_F(BackendsTest, TcpServer) {
  const auto backend = open({.kind = Kind::kTcpSocket, .host = "127.0.0.1", .port = "0", .server = true});
  EXPECT_FALSE(backend->connected());
}

TEST_F(BackendsTest, ClientsOfAServerWithoutDescriptorsWaitAndTheLoopSleeps) {
  const std::string path = folder + "/socket";
  const auto backend = open({.kind = Kind::kUnixSocket, .path = path, .server = true});
  const Fd client = connect_to(path);
  {
    const test::NoDescriptors limit;
    EXPECT_TRUE(run_until(loop, [&] { return loop.host_timer_armed(); }));
    EXPECT_FALSE(backend->connected());
  }
  loop.skip_host_time(1'000'000'000);
  EXPECT_TRUE(run_until(loop, [&] { return backend->connected(); }));
}

TEST_F(BackendsTest, PtyConnectsWhenItsSlaveIsOpenedThoughTheGuestIsPaused) {
  const auto backend = open({.kind = Kind::kPty});
  backend->attach(&frontend);
  const std::string path = pty_path(*backend);
  ASSERT_FALSE(path.empty());
  EXPECT_FALSE(backend->connected());
  const Fd slave(::open(path.c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC));
  ASSERT_TRUE(slave);
  EXPECT_TRUE(run_until(loop, [&] { return backend->connected(); }));
  EXPECT_EQ(::write(slave.get(), "p", 1), 1);
  EXPECT_TRUE(run_until(loop, [&] { return frontend.input == "p"; }));
}

TEST_F(BackendsTest, NamedPipes) {
  const std::string path = folder + "/pipe";
  ASSERT_EQ(mkfifo((path + ".in").c_str(), 0600), 0);
  ASSERT_EQ(mkfifo((path + ".out").c_str(), 0600), 0);
  const auto backend = open({.kind = Kind::kPipe, .path = path});
  backend->attach(&frontend);
  const Fd writer(::open((path + ".in").c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC));
  const Fd reader(::open((path + ".out").c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  backend->write(bytes_of("out"));
  ASSERT_EQ(::write(writer.get(), "in", 2), 2);
  std::array<char, 16> buffer{};
  EXPECT_TRUE(run_until(loop, [&] { return ::read(reader.get(), buffer.data(), buffer.size()) == 3; }));
  EXPECT_TRUE(run_until(loop, [&] { return frontend.input == "in"; }));
}

// A socket at a port of 127.0.0.1, and which.
std::pair<Fd, std::string> socket_at_port(int type) {
  Fd made(::socket(AF_INET, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  EXPECT_EQ(::bind(made.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(::getsockname(made.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  return {std::move(made), std::to_string(ntohs(address.sin_port))};
}

TEST_F(BackendsTest, UdpCarriesDatagramsBothWays) {
  const auto [peer, port] = socket_at_port(SOCK_DGRAM);
  const auto backend = open({.kind = Kind::kUdp, .host = "127.0.0.1", .port = port});
  backend->attach(&frontend);
  EXPECT_EQ(frontend.opened, 1);
  EXPECT_EQ(backend->write(bytes_of("out")), 3u);
  std::array<char, 16> buffer{};
  sockaddr_in from{};
  socklen_t size = sizeof from;
  EXPECT_TRUE(run_until(loop, [&] {
    return ::recvfrom(peer.get(), buffer.data(), buffer.size(), 0, reinterpret_cast<sockaddr*>(&from),
                      &size) == 3;
  }));
  EXPECT_STREQ(buffer.data(), "out");
  // More than the guest has room for; an empty one is nobody's end.
  frontend.room = 4;
  for (const std::string_view text : {"", "abcdef", "gh"})
    EXPECT_EQ(::sendto(peer.get(), text.data(), text.size(), 0, reinterpret_cast<sockaddr*>(&from), size),
              static_cast<ssize_t>(text.size()));
  EXPECT_TRUE(run_until(loop, [&] { return frontend.input == "abcd"; }));
  for (int turn = 0; turn < 5; ++turn) run_until(loop, [turns = 0]() mutable { return ++turns > 1; });
  EXPECT_EQ(frontend.input, "abcd");
  frontend.room = 100;
  backend->accept_input();
  EXPECT_TRUE(run_until(loop, [&] { return frontend.input == "abcdefgh"; }));
}

TEST_F(BackendsTest, UdpIsDeafToOthersAndOutlivesItsPeer) {
  auto [peer, port] = socket_at_port(SOCK_DGRAM);
  auto [stranger, strangers_port] = socket_at_port(SOCK_DGRAM);
  auto [own, own_port] = socket_at_port(SOCK_DGRAM);
  own.reset();
  const auto backend = open({.kind = Kind::kUdp,
                             .host = "127.0.0.1",
                             .port = port,
                             .local_host = "127.0.0.1",
                             .local_port = own_port});
  backend->attach(&frontend);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(std::stoi(own_port)));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const auto say = [&](const Fd& fd, std::string_view text) {
    EXPECT_EQ(::sendto(fd.get(), text.data(), text.size(), 0, reinterpret_cast<sockaddr*>(&to), sizeof to),
              static_cast<ssize_t>(text.size()));
  };
  say(stranger, "strange");
  say(peer, "known");
  EXPECT_TRUE(run_until(loop, [&] { return frontend.input == "known"; }));
  const int peers_port = std::stoi(port);
  peer.reset();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(backend->write(bytes_of("unheard")), 7u);
  for (int turn = 0; turn < 5; ++turn) run_until(loop, [turns = 0]() mutable { return ++turns > 1; });
  peer = Fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_in again = to;
  again.sin_port = htons(static_cast<uint16_t>(peers_port));
  ASSERT_EQ(::bind(peer.get(), reinterpret_cast<sockaddr*>(&again), sizeof again), 0);
  say(peer, "!");
  EXPECT_TRUE(run_until(loop, [&] { return frontend.input == "known!"; }));
  EXPECT_EQ(frontend.closed, 0);
}

TEST_F(BackendsTest, UdpErrorsNameTheAddress) {
  const auto [peer, port] = socket_at_port(SOCK_DGRAM);
  const auto taken = chardev::open(
      loop,
      {.kind = Kind::kUdp, .host = "127.0.0.1", .port = "9", .local_host = "127.0.0.1", .local_port = port});
  ASSERT_FALSE(taken);
  EXPECT_NE(taken.error().message().find("127.0.0.1:" + port), std::string::npos) << taken.error().message();
  EXPECT_FALSE(chardev::open(loop, {.kind = Kind::kUdp, .port = "no-such-service"}));
}

TEST_F(BackendsTest, RingBufferKeepsTheLastBytes) {
  const auto backend = open({.kind = Kind::kRingBuffer, .ring_size = 8});
  backend->write(bytes_of("0123456789"));
  EXPECT_EQ(read_ring(*backend, 3), "234");
  EXPECT_EQ(read_ring(*backend, 100), "56789");
  EXPECT_EQ(read_ring(*backend, 100), "");
}

TEST_F(BackendsTest, RingBufferSizeIsAPowerOfTwo) {
  EXPECT_FALSE(chardev::open(loop, {.kind = Kind::kRingBuffer, .ring_size = 9}));
}

TEST_F(BackendsTest, LogGetsWhatTheGuestWrites) {
  const std::string log = folder + "/log", path = folder + "/socket";
  std::ofstream(log) << "old ";
  {
    // Nobody listens: it is in the log all the same.
    const auto backend =
        open({.kind = Kind::kUnixSocket, .path = path, .server = true, .log_path = log, .log_append = true});
    backend->attach(&frontend);
    EXPECT_EQ(backend->write(bytes_of("unheard ")), 8u);
    const Fd fd = connect_to(path);
    EXPECT_TRUE(run_until(loop, [&] { return frontend.opened == 1 && backend->connected(); }));
    backend->write(bytes_of("heard"));
    EXPECT_EQ(::write(fd.get(), "in", 2), 2);
    EXPECT_TRUE(run_until(loop, [&] { return frontend.input == "in"; }));
    backend->attach(nullptr);
  }
  EXPECT_EQ(contents(log), "old unheard heard");
  const auto backend = open({.log_path = log});
  EXPECT_EQ(contents(log), "");
  backend->write(bytes_of("fresh"));
  EXPECT_TRUE(run_until(loop, [&] { return contents(log) == "fresh"; }));
}

TEST_F(BackendsTest, LogNeitherLosesNorAddsWhatItsBackEndHasNoRoomFor) {
  const std::string log = folder + "/log", path = folder + "/socket", block(100'000, 'x');
  const auto backend = open({.kind = Kind::kUnixSocket, .path = path, .server = true, .log_path = log});
  backend->attach(&frontend);
  const Fd fd = connect_to(path);
  EXPECT_TRUE(run_until(loop, [&] { return frontend.opened == 1; }));
  const size_t taken = backend->write(bytes_of(block));
  EXPECT_LT(taken, block.size());
  EXPECT_TRUE(run_until(loop, [&] { return frontend.writables != 0 && contents(log).size() >= taken; }));
  EXPECT_EQ(contents(log), block.substr(0, taken));
}

TEST_F(BackendsTest, FasterGuestThanTheLogIsToldWhenThereIsRoom) {
  const std::string log = folder + "/log", block(100'000, 'x');
  const auto backend = open({.log_path = log});  // which takes all
  backend->attach(&frontend);
  const size_t taken = backend->write(bytes_of(block));
  EXPECT_LT(taken, block.size());
  EXPECT_EQ(backend->write(bytes_of(block)), 0u);
  EXPECT_TRUE(run_until(loop, [&] { return frontend.writables == 1; }));
  EXPECT_EQ(contents(log).size(), taken);
  EXPECT_EQ(backend->write(bytes_of("y")), 1u);
}

TEST_F(BackendsTest, LogOnAFullDiskIsToldOnceAndStopsNothing) {
  const auto backend = open({.kind = Kind::kRingBuffer, .log_path = "/dev/full"});
  FakeFrontend front;
  backend->attach(&front);
  ::testing::internal::CaptureStderr();
  int rounds = 0;
  for (; rounds < 3; ++rounds) {
    EXPECT_EQ(backend->write(bytes_of("text")), 4u);
    bool flushed = false;
    loop.post([&] { flushed = true; });
    EXPECT_TRUE(run_until(loop, [&] { return flushed; }));
  }
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(read_ring(*backend, 100), "texttexttext");
  EXPECT_NE(said.find("logfile '/dev/full' cannot be written: No space left"), std::string::npos) << said;
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
}

TEST_F(BackendsTest, LogInAPipeThatNobodyReadsStopsNothing) {
  const std::string log = folder + "/fifo", block(60'000, 'x');
  ASSERT_EQ(mkfifo(log.c_str(), 0600), 0);
  const Fd reader(::open(log.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  const auto backend = open({.log_path = log});
  ::testing::internal::CaptureStderr();
  for (int round = 0; round < 5; ++round) {
    EXPECT_EQ(backend->write(bytes_of(block)), block.size());
    bool flushed = false;
    loop.post([&] { flushed = true; });
    EXPECT_TRUE(run_until(loop, [&] { return flushed; }));
  }
  EXPECT_NE(::testing::internal::GetCapturedStderr().find("cannot be written"), std::string::npos);
}

TEST_F(BackendsTest, LogErrorNamesThePath) {
  const auto backend = chardev::open(loop, {.log_path = folder + "/no/such"});
  ASSERT_FALSE(backend);
  EXPECT_NE(backend.error().message().find("logfile: cannot open '" + folder + "/no/such"),
            std::string::npos);
}

TEST_F(BackendsTest, LoggedTerminalHasItsName) {
  const auto backend = open({.kind = Kind::kPty, .log_path = folder + "/log"});
  EXPECT_NE(pty_path(*backend), "");
}

// A client of a server that comes, goes and comes back, while the guest is paused.
struct ReconnectingTest : BackendsTest {
  static constexpr int64_t kSecond = 1'000'000'000;
  const std::string path = folder + "/socket";

  void pass(int64_t time) {
    loop.skip_host_time(time);
    loop.run_due();
  }
  // Everything that is due happens.
  void settle() {
    for (int turn = 0; turn < 5; ++turn) {
      bool done = false;
      loop.post([&] { done = true; });
      EXPECT_TRUE(run_until(loop, [&] { return done; }));
    }
  }
  Fd listen() const {
    Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    EXPECT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(::listen(fd.get(), 4), 0);
    return fd;
  }
  static Fd accept(const Fd& listener) {
    return Fd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  }
};

TEST_F(ReconnectingTest, FindsAServerThatComesLater) {
  ::testing::internal::CaptureStderr();
  const auto backend = open({.kind = Kind::kUnixSocket, .path = path, .reconnect_seconds = 3});
  backend->attach(&frontend);
  for (int tries = 0; tries < 3; ++tries) {
    pass(3 * kSecond);
    settle();
  }
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
  EXPECT_NE(said.find(path + "': No such file or directory; it is tried every 3 s"), std::string::npos)
      << said;
  EXPECT_FALSE(backend->connected());
  EXPECT_EQ(backend->write(bytes_of("unheard")), 7u);

  const Fd listener = listen();
  pass(2 * kSecond);
  settle();
  EXPECT_FALSE(accept(listener));
  pass(kSecond);
  EXPECT_TRUE(run_until(loop, [&] { return frontend.opened == 1; }));
  const Fd peer = accept(listener);
  ASSERT_TRUE(peer);
  backend->write(bytes_of("heard"));
  std::array<char, 64> buffer{};
  EXPECT_TRUE(run_until(loop, [&] { return ::read(peer.get(), buffer.data(), buffer.size()) == 5; }));
  EXPECT_STREQ(buffer.data(), "heard");
}

TEST_F(ReconnectingTest, FindsAServerThatHasGoneAgain) {
  Fd listener = listen();
  const auto backend = open({.kind = Kind::kUnixSocket, .path = path, .reconnect_seconds = 1});
  backend->attach(&frontend);
  EXPECT_EQ(frontend.opened, 1);
  for (int round = 1; round <= 3; ++round) {
    Fd peer = accept(listener);
    ASSERT_TRUE(peer);
    EXPECT_EQ(::write(peer.get(), "k", 1), 1);
    EXPECT_TRUE(run_until(loop, [&] { return frontend.input.size() == static_cast<size_t>(round); }));
    peer.reset();
    EXPECT_TRUE(run_until(loop, [&] { return frontend.closed == round; }));
    // Not at once: a server that lets everybody in and out would keep us busy.
    settle();
    EXPECT_FALSE(accept(listener));
    if (round == 2) {
      listener.reset();
      ::unlink(path.c_str());
      pass(kSecond);
      settle();
      listener = listen();
    }
    pass(kSecond);
    EXPECT_TRUE(run_until(loop, [&] { return frontend.opened == round + 1; }));
  }
}

TEST_F(ReconnectingTest, TcpServerThatRefusesIsTriedAgain) {
  auto [taken, port] = socket_at_port(SOCK_STREAM);
  ::testing::internal::CaptureStderr();
  const auto backend =
      open({.kind = Kind::kTcpSocket, .host = "127.0.0.1", .port = port, .reconnect_seconds = 1});
  backend->attach(&frontend);
  settle();
  EXPECT_EQ(frontend.opened, 0);
  ASSERT_EQ(::listen(taken.get(), 1), 0);
  EXPECT_TRUE(run_until(loop, [&] {
    pass(kSecond);
    return frontend.opened == 1;
  }));
  EXPECT_NE(::testing::internal::GetCapturedStderr().find("refused; it is tried every 1 s"),
            std::string::npos);
}

TEST_F(ReconnectingTest, MayEndInEveryState) {
  ::testing::internal::CaptureStderr();
  open({.kind = Kind::kUnixSocket, .path = path, .reconnect_seconds = 1}).reset();
  const Fd listener = listen();
  const auto connected = open({.kind = Kind::kUnixSocket, .path = path, .reconnect_seconds = 1});
  EXPECT_TRUE(connected->connected());
  ::testing::internal::GetCapturedStderr();
}

}  // namespace
}  // namespace ostler::chardev
