// A host without room for another watched descriptor.
#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "event/loop.h"

namespace {
int refusal = 0;  // of what is to be added
}

// The kernel's, or its refusal.
extern "C" int epoll_ctl(int epoll, int operation, int fd, epoll_event* event) noexcept {
  if (operation == EPOLL_CTL_ADD && refusal != 0) {
    errno = refusal;
    return -1;
  }
  return static_cast<int>(::syscall(SYS_epoll_ctl, epoll, operation, fd, event));
}

namespace ostler::event {
namespace {

struct LoopRoomTest : ::testing::TestWithParam<int> {
  ~LoopRoomTest() override { refusal = 0; }
  void turns() {
    for (int i = 0; i < 3; ++i) {
      loop.post([this] { loop.stop(); });
      loop.run();
    }
  }
  void pass_time() {
    loop.skip_host_time(1'000'000'000);
    turns();
  }
  bool watch(const Fd& fd, uint32_t events) {
    return loop.watch(fd.get(), events, [this](uint32_t) { ++calls; });
  }
  VirtualClock clock;
  Loop loop{clock};
  unsigned calls = 0;
  const Fd ready{::eventfd(1, EFD_CLOEXEC)}, other{::eventfd(1, EFD_CLOEXEC)};
};

TEST_P(LoopRoomTest, WhatIsWatchedIsHeardOfWhenThereIsRoom) {
  ::testing::internal::CaptureStderr();
  refusal = GetParam();
  ASSERT_TRUE(watch(ready, EPOLLIN));
  ASSERT_TRUE(watch(other, EPOLLIN));
  for (int i = 0; i < 3; ++i) pass_time();
  EXPECT_EQ(calls, 0u);
  refusal = 0;
  pass_time();
  EXPECT_GE(calls, 2u);
  EXPECT_FALSE(loop.host_timer_armed());
  loop.unwatch(ready.get());
  loop.unwatch(other.get());
  const std::string told = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::ranges::count(told, '\n'), 1) << told;
  EXPECT_NE(told.find("fs.epoll.max_user_watches"), std::string::npos) << told;
}

TEST_P(LoopRoomTest, AnInterestThatComesLaterIsKeptToo) {
  ASSERT_TRUE(watch(ready, 0));
  refusal = GetParam();
  ASSERT_TRUE(watch(other, 0));
  pass_time();
  EXPECT_FALSE(loop.host_timer_armed()) << "nothing is waited for";
  loop.rewatch(ready.get(), EPOLLIN);
  loop.rewatch(other.get(), EPOLLIN);
  pass_time();
  EXPECT_EQ(calls, 0u);
  loop.rewatch(other.get(), 0);
  refusal = 0;
  pass_time();
  EXPECT_GE(calls, 1u);
  loop.unwatch(ready.get());
  calls = 0;
  turns();
  EXPECT_EQ(calls, 0u) << "nobody wants to hear of the other";
  loop.unwatch(other.get());
}

TEST_P(LoopRoomTest, WhatIsWatchedNoMoreIsForgotten) {
  refusal = GetParam();
  ASSERT_TRUE(watch(ready, EPOLLIN));
  loop.unwatch(ready.get());
  refusal = 0;
  pass_time();
  EXPECT_EQ(calls, 0u);
  EXPECT_FALSE(loop.host_timer_armed());
}

INSTANTIATE_TEST_SUITE_P(Errors, LoopRoomTest, ::testing::Values(ENOSPC, ENOMEM));

}  // namespace
}  // namespace ostler::event
