#include "event/loop.h"

#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <future>

namespace ostler::event {
namespace {

struct LoopTest : ::testing::Test {
  VirtualClock clock;
  Loop loop{clock};
};

TEST_F(LoopTest, StopBeforeRunReturnsAtOnce) {
  loop.stop();
  loop.run();
}

TEST_F(LoopTest, RunsPostedTasksInOrderOnItsThread) {
  std::vector<int> order;
  bool on_thread = false;
  loop.post([&] { order.push_back(1); });
  loop.post([&] {
    order.push_back(2);
    on_thread = loop.on_loop_thread();
    loop.post([&] {
      order.push_back(3);
      loop.stop();
    });
  });
  loop.run();
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3}));
  EXPECT_TRUE(on_thread);
  EXPECT_FALSE(loop.on_loop_thread());
}

TEST_F(LoopTest, AcceptsTasksFromManyThreads) {
  constexpr int kThreads = 4, kEach = 500;
  int count = 0;  // only touched on the loop's thread
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < kEach; ++i)
        loop.post([&] {
          if (++count == kThreads * kEach) loop.stop();
        });
    });
  loop.run();
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(count, kThreads * kEach);
}

TEST_F(LoopTest, RunsTimersInOrderOfTheirDeadlines) {
  std::vector<int> order;
  Timer late(loop, [&] {
    order.push_back(2);
    loop.stop();
  });
  Timer early(loop, [&] { order.push_back(1); });
  late.set(2'000'000);
  early.set(1'000'000);
  clock.resume();
  loop.clock_changed();
  loop.run();
  EXPECT_EQ(order, (std::vector<int>{1, 2}));
  EXPECT_GE(clock.now(), 2'000'000);
  EXPECT_FALSE(late.armed());
}

TEST_F(LoopTest, TimerSetFromAnotherThreadFires) {
  clock.resume();
  Timer timer(loop, [&] { loop.stop(); });
  std::thread other([&] { timer.set(clock.now() + 1'000'000); });
  loop.run();
  other.join();
}

TEST_F(LoopTest, CancelledTimerDoesNotFire) {
  bool fired = false;
  Timer timer(loop, [&] { fired = true; });
  timer.set(10);
  timer.cancel();
  clock.advance(100);
  loop.run_due();
  EXPECT_FALSE(fired);
}

TEST_F(LoopTest, PausedClockHoldsTimersBack) {
  bool fired = false;
  Timer timer(loop, [&] {
    fired = true;
    loop.stop();
  });
  timer.set(1);
  loop.post([&] { loop.stop(); });
  loop.run();
  EXPECT_FALSE(fired);
  std::thread control([&] {
    clock.resume();
    loop.clock_changed();
  });
  loop.run();
  control.join();
  EXPECT_TRUE(fired);
}

TEST_F(LoopTest, ClockMovedByHandRunsWhatIsDue) {
  int fired = 0;
  Timer timer(loop, [&] {
    ++fired;
    if (fired < 3) timer.set(clock.now() + 10);
  });
  timer.set(10);
  while (loop.next_deadline()) {
    clock.advance(*loop.next_deadline() - clock.now());
    loop.run_due();
  }
  EXPECT_EQ(fired, 3);
  EXPECT_EQ(clock.now(), 30);
}

TEST_F(LoopTest, HostTimersFireWhileTheGuestIsPaused) {
  Timer guests(loop, [] { FAIL() << "its clock stands"; });
  HostTimer hosts(loop, [&] { loop.stop(); });
  guests.set(0);
  hosts.start(1'000'000);
  EXPECT_TRUE(hosts.armed());
  loop.run();
  EXPECT_FALSE(hosts.armed());
  EXPECT_FALSE(loop.host_timer_armed());
  guests.cancel();
}

TEST_F(LoopTest, HostTimersFireInOrderAndOnlyWhenTheyAreDue) {
  std::vector<int> order;
  HostTimer late(loop, [&] { order.push_back(2); });
  HostTimer early(loop, [&] { order.push_back(1); });
  late.start(int64_t{7200} * 1'000'000'000);
  early.start(int64_t{3600} * 1'000'000'000);
  clock.advance(int64_t{86400} * 1'000'000'000);
  loop.run_due();
  EXPECT_TRUE(order.empty());
  loop.skip_host_time(int64_t{3600} * 1'000'000'000);
  loop.run_due();
  EXPECT_EQ(order, std::vector<int>{1});
  loop.skip_host_time(int64_t{3600} * 1'000'000'000);
  loop.post([&] { loop.stop(); });
  loop.run();
  EXPECT_EQ(order, (std::vector<int>{1, 2})) << "the loop sees it too";
}

TEST_F(LoopTest, HostTimerMayBeCancelledOrStartItself) {
  int fired = 0;
  HostTimer timer(loop, [&] {
    if (++fired < 3) timer.start(1);
  });
  timer.start(1);
  timer.cancel();
  EXPECT_FALSE(loop.host_timer_armed());
  timer.start(1);
  while (loop.host_timer_armed()) loop.run_due();
  EXPECT_EQ(fired, 3);
}

TEST_F(LoopTest, DestroyingATimerWaitsForItsCallback) {
  std::promise<void> entered;
  std::atomic<bool> finished{false};
  auto timer = std::make_unique<Timer>(loop, [&] {
    entered.set_value();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    finished = true;
  });
  clock.resume();
  timer->set(0);
  std::thread runner([&] { loop.run(); });
  entered.get_future().wait();
  timer.reset();
  EXPECT_TRUE(finished);
  loop.stop();
  runner.join();
}

// epoll itself tells of a hang-up for as long as there is one.
TEST_F(LoopTest, WhatNobodyWantsToHearOfIsSilentThoughItsPeerIsGone) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  unsigned calls = 0;
  uint32_t seen = 0;
  ASSERT_TRUE(loop.watch(ends[1], 0, [&](uint32_t events) {
    ++calls;
    seen = events;
    loop.rewatch(ends[1], 0);
    loop.post([&] { loop.stop(); });
  }));
  ::close(ends[0]);
  unsigned rounds = 0;
  const std::function<void()> round = [&] {
    if (++rounds < 10)
      loop.post(round);
    else
      loop.rewatch(ends[1], EPOLLOUT);
  };
  loop.post([&] {
    EXPECT_EQ(calls, 0u);
    round();
  });
  loop.run();
  EXPECT_EQ(rounds, 10u);
  EXPECT_EQ(calls, 1u);
  EXPECT_NE(seen & EPOLLERR, 0u);
  loop.unwatch(ends[1]);
  ::close(ends[1]);
}

TEST_F(LoopTest, ReportsReadableDescriptors) {
  const Fd fd(eventfd(1, EFD_CLOEXEC));
  loop.watch(fd.get(), EPOLLIN, [&](uint32_t events) {
    EXPECT_TRUE(events & EPOLLIN);
    loop.unwatch(fd.get());
    loop.stop();
  });
  loop.run();
}

TEST_F(LoopTest, UnwatchedDescriptorGetsNoEventOfTheSameTurn) {
  const Fd first(eventfd(1, EFD_CLOEXEC)), second(eventfd(1, EFD_CLOEXEC));
  int calls = 0;
  const auto watch = [&](const Fd& mine, const Fd& other) {
    loop.watch(mine.get(), EPOLLIN, [&](uint32_t) {
      ++calls;
      loop.unwatch(other.get());
      loop.unwatch(mine.get());
      loop.stop();
    });
  };
  watch(first, second);
  watch(second, first);
  loop.run();
  EXPECT_EQ(calls, 1);
}

TEST_F(LoopTest, RegularFileCannotBeWatched) {
  const Fd file(memfd_create("test", MFD_CLOEXEC));
  EXPECT_FALSE(loop.watch(file.get(), EPOLLIN, [](uint32_t) {}));
}

TEST_F(LoopTest, ManyThreadsProgramTimersAtOnce) {
  constexpr int kThreads = 4, kEach = 200;
  clock.resume();
  std::atomic<int> fired{0};
  std::vector<std::unique_ptr<Timer>> timers;
  for (int t = 0; t < kThreads; ++t)
    timers.push_back(std::make_unique<Timer>(loop, [&] { fired.fetch_add(1); }));
  std::vector<std::thread> threads;
  for (auto& timer : timers)
    threads.emplace_back([&, mine = timer.get()] {
      for (int i = 0; i < kEach; ++i) {
        if (i % 3 == 2)
          mine->cancel();
        else
          mine->set(clock.now() + i * 100);
      }
      mine->set(clock.now());
    });
  std::thread runner([&] { loop.run(); });
  for (auto& thread : threads) thread.join();
  while (fired.load() < kThreads) std::this_thread::yield();
  loop.stop();
  runner.join();
  for (auto& timer : timers) EXPECT_FALSE(timer->armed());
}

}  // namespace
}  // namespace ostler::event
