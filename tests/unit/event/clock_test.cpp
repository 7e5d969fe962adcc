#include "event/clock.h"

#include <gtest/gtest.h>

#include "state/archive.h"

namespace ostler::event {
namespace {

TEST(VirtualClock, StandsStillUntilResumed) {
  const VirtualClock clock;
  EXPECT_EQ(clock.now(), 0);
  EXPECT_TRUE(clock.paused());
}

TEST(VirtualClock, FollowsTheHostWhileRunning) {
  VirtualClock clock;
  const int64_t before = host_monotonic_ns();
  clock.resume();
  const int64_t start = clock.now();
  while (host_monotonic_ns() < before + 1000) {
  }
  EXPECT_GE(clock.now(), start);
  const int64_t end = clock.now();
  EXPECT_LE(end, host_monotonic_ns() - before);
}

TEST(VirtualClock, LeavesOutThePause) {
  VirtualClock clock;
  clock.resume();
  clock.pause();
  const int64_t stopped = clock.now();
  const int64_t until = host_monotonic_ns() + 100'000;
  while (host_monotonic_ns() < until) {
  }
  EXPECT_EQ(clock.now(), stopped);
  const int64_t before = host_monotonic_ns();
  clock.resume();
  const int64_t advanced = clock.now() - stopped;
  EXPECT_LE(advanced, host_monotonic_ns() - before);
}

TEST(VirtualClock, RestoresItsTime) {
  VirtualClock clock;
  clock.advance(12345);
  state::Saver saver;
  clock.state(saver);
  const auto stream = saver.take();
  VirtualClock other;
  state::Loader loader(stream);
  other.state(loader);
  ASSERT_TRUE(loader.finish());
  EXPECT_EQ(other.now(), 12345);
}

}  // namespace
}  // namespace ostler::event
