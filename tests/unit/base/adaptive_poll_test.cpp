#include "base/adaptive_poll.h"

#include <gtest/gtest.h>

namespace ostler {
namespace {

constexpr uint64_t kMost = 100'000;

TEST(AdaptivePoll, the_window_opens_by_short_sleeps_up_to_its_limit_and_closes_by_a_long_one) {
  AdaptivePoll poll(kMost);
  EXPECT_EQ(poll.window(), 0u) << "who never sleeps shortly never looks";
  poll.waited(kMost + 1);
  EXPECT_EQ(poll.window(), 0u);
  uint64_t before = 0;
  for (int i = 0; i < 3; ++i) {
    poll.waited(poll.window() + 1);
    EXPECT_GT(poll.window(), before);
    before = poll.window();
  }
  poll.waited(before);
  EXPECT_EQ(poll.window(), before) << "it was wide enough";
  for (int i = 0; i < 10; ++i) poll.waited(kMost);
  EXPECT_EQ(poll.window(), kMost);
  poll.waited(kMost + 1);
  EXPECT_EQ(poll.window(), 0u);
}

TEST(AdaptivePoll, nothing_is_looked_for_while_the_window_is_closed) {
  AdaptivePoll poll(kMost), never(0);
  int looks = 0;
  const auto found = [&] { return ++looks > 0; };
  EXPECT_FALSE(poll.look(found));
  never.waited(1);
  EXPECT_FALSE(never.look(found));
  EXPECT_EQ(never.window(), 0u);
  EXPECT_EQ(looks, 0);
  poll.waited(1);
  EXPECT_TRUE(poll.look(found));
  EXPECT_EQ(looks, 1);
}

TEST(AdaptivePoll, looking_ends_when_nothing_comes) {
  AdaptivePoll poll(kMost);
  for (int i = 0; i < 10; ++i) poll.waited(kMost);
  int looks = 0;
  EXPECT_FALSE(poll.look([&] { return ++looks < 0; }));
  EXPECT_GT(looks, 0);
}

}  // namespace
}  // namespace ostler
