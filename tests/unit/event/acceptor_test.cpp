#include "event/acceptor.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <optional>
#include <vector>

#include "support/no_descriptors.h"

namespace ostler::event {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

struct AcceptorTest : ::testing::Test {
  AcceptorTest() {
    name.sun_family = AF_UNIX;  // the kernel chooses it: autobind
    EXPECT_EQ(::bind(listener.get(), address(), sizeof(sa_family_t)), 0);
    socklen_t size = sizeof name;
    EXPECT_EQ(::getsockname(listener.get(), address(), &size), 0);
    name_size = size;
    EXPECT_EQ(::listen(listener.get(), 8), 0);
    acceptor.start(listener.get());
  }
  sockaddr* address() { return reinterpret_cast<sockaddr*>(&name); }
  Fd come() {
    Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::connect(fd.get(), address(), name_size), 0);
    return fd;
  }
  void turn() {
    loop.post([this] { loop.stop(); });
    loop.run();
  }

  VirtualClock clock;  // paused: it must not matter
  Loop loop{clock};
  sockaddr_un name{};
  socklen_t name_size = 0;
  const Fd listener{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
  unsigned called = 0;
  std::vector<Fd> accepted;
  Acceptor acceptor{loop, "the door", [this] {
                      ++called;
                      if (Fd peer = acceptor.accept()) accepted.push_back(std::move(peer));
                    }};
};

TEST_F(AcceptorTest, WhoComesIsAccepted) {
  const Fd first = come(), second = come();
  turn();
  EXPECT_EQ(accepted.size(), 1u) << "one at a time";
  turn();
  EXPECT_EQ(accepted.size(), 2u);
  EXPECT_FALSE(acceptor.accept()) << "nobody";
  EXPECT_FALSE(loop.host_timer_armed());
}

TEST_F(AcceptorTest, WhoComesWaitsWhileItIsStopped) {
  const Fd peer = come();
  acceptor.stop();
  turn();
  EXPECT_EQ(called, 0u);
  acceptor.start(listener.get());
  acceptor.start(listener.get());
  turn();
  EXPECT_EQ(accepted.size(), 1u);
}

TEST_F(AcceptorTest, WithoutDescriptorsTheLoopSleepsAndLooksAgainLater) {
  const Fd peer = come();
  ::testing::internal::CaptureStderr();
  {
    const test::NoDescriptors limit;
    for (unsigned looks = 1; looks <= 3; ++looks) {
      for (int i = 0; i < 5; ++i) turn();
      EXPECT_EQ(called, looks);
      EXPECT_TRUE(loop.host_timer_armed());
      loop.skip_host_time(kSecond);
      loop.run_due();
    }
  }
  turn();
  EXPECT_EQ(accepted.size(), 1u);
  const std::string told = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::ranges::count(told, '\n'), 1) << told;
  EXPECT_NE(told.find("the door: "), std::string::npos) << told;
  EXPECT_NE(told.find("ulimit -n"), std::string::npos) << told;
}

TEST_F(AcceptorTest, MayStopAndStartWhileItRests) {
  const Fd peer = come();
  {
    const test::NoDescriptors limit;
    turn();
  }
  ASSERT_EQ(called, 1u);
  acceptor.stop();
  EXPECT_FALSE(loop.host_timer_armed());
  acceptor.start(listener.get());
  turn();
  EXPECT_EQ(accepted.size(), 1u);
}

TEST_F(AcceptorTest, OnlyAShortageMakesItRest) {
  for (const int error : {EAGAIN, ECONNABORTED, EINTR, EPERM}) {
    acceptor.failed(error);
    EXPECT_FALSE(loop.host_timer_armed()) << error;
  }
  for (const int error : {EMFILE, ENFILE, ENOMEM, ENOBUFS}) {
    acceptor.stop();
    acceptor.start(listener.get());
    acceptor.failed(error);
    EXPECT_TRUE(loop.host_timer_armed()) << error;
  }
}

}  // namespace
}  // namespace ostler::event
