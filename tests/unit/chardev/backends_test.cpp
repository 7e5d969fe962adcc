#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <fstream>
#include <sstream>

#include "base/fd.h"
#include "chardev/open.h"
#include "fixtures.h"
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
}

TEST_F(BackendsTest, TcpServer) {
  const auto backend = open({.kind = Kind::kTcpSocket, .host = "127.0.0.1", .port = "0", .server = true});
  EXPECT_FALSE(backend->connected());
}

TEST_F(BackendsTest, PtyConnectsWhenItsSlaveIsOpened) {
  clock.resume();
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

}  // namespace
}  // namespace ostler::chardev
