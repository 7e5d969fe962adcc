// Coroutines, contexts, locks among contexts, the worker pool.
#include "block/io_context.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>

#include "block/mutex.h"

namespace ostler::block {
namespace {

Task<int> number(int value) {
  co_return value;
}

Task<int> sum_of_many(int count) {
  int sum = 0;
  for (int i = 0; i < count; ++i) sum += co_await number(1);
  co_return sum;
}

TEST(TaskTest, a_loop_of_tasks_that_never_wait_needs_no_stack) {
  IoContext context;
  EXPECT_EQ(context.run_until(sum_of_many(1'000'000)), 1'000'000);
}

Task<int> deep(int depth) {
  if (depth == 0) {
    IoContext& context = *IoContext::current();
    co_await context.sleep_until(0);
    co_return 0;
  }
  co_return 1 + co_await deep(depth - 1);
}

TEST(TaskTest, tasks_within_tasks_resume_outwards) {
  IoContext context;
  EXPECT_EQ(context.run_until(deep(1000)), 1000);
}

struct Counted {
  explicit Counted(int& alive) : alive_(&alive) { ++*alive_; }
  Counted(const Counted& other) : alive_(other.alive_) { ++*alive_; }
  Counted& operator=(const Counted&) = delete;
  ~Counted() { --*alive_; }
  int* alive_;
};

Task<int> holding(Counted) {
  co_return co_await deep(3);
}

TEST(TaskTest, frames_are_freed_once_whether_they_ran_or_not) {
  int alive = 0;
  {
    IoContext context;
    EXPECT_EQ(context.run_until(holding(Counted(alive))), 3);
    const Task<int> never_started = holding(Counted(alive));
    EXPECT_GT(alive, 0);
  }
  EXPECT_EQ(alive, 0);
}

class ContextTest : public testing::TestWithParam<Aio> {};
INSTANTIATE_TEST_SUITE_P(Ways, ContextTest, testing::Values(Aio::kIoUring, Aio::kThreads),
                         [](const auto& way) { return way.param == Aio::kIoUring ? "ring" : "threads"; });

Task<void> note_thread(std::promise<std::thread::id>& result) {
  result.set_value(std::this_thread::get_id());
  co_return;
}

TEST_P(ContextTest, tasks_run_on_the_thread_of_their_context) {
  IoThread thread(GetParam());
  std::promise<std::thread::id> first, second;
  thread.context().spawn(note_thread(first));
  const auto id = first.get_future().get();
  EXPECT_NE(id, std::this_thread::get_id());
  thread.context().spawn(note_thread(second));
  EXPECT_EQ(second.get_future().get(), id);
}

Task<int> offloaded(IoContext& context) {
  std::thread::id elsewhere;
  co_await context.offload([&] { elsewhere = std::this_thread::get_id(); });
  co_return elsewhere != std::this_thread::get_id() && IoContext::current() == &context ? 0 : 1;
}

TEST_P(ContextTest, offloaded_work_runs_elsewhere_and_comes_back) {
  IoContext context(GetParam());
  EXPECT_EQ(context.run_until(offloaded(context)), 0);
}

Task<int> sleepers(IoContext& context, std::vector<int>& order) {
  TaskGroup group(3);
  const auto sleep = [](IoContext& loop, uint64_t until, int name, std::vector<int>& names) -> Task<int> {
    co_await loop.sleep_until(until);
    names.push_back(name);
    co_return 0;
  };
  const uint64_t now = IoContext::now();
  co_await group.start(sleep(context, now + 3'000'000, 3, order));
  co_await group.start(sleep(context, now + 1'000'000, 1, order));
  co_await group.start(sleep(context, now + 2'000'000, 2, order));
  co_return co_await group.wait();
}

TEST_P(ContextTest, timers_fire_in_order) {
  IoContext context(GetParam());
  std::vector<int> order;
  EXPECT_EQ(context.run_until(sleepers(context, order)), 0);
  EXPECT_EQ(order, (std::vector{1, 2, 3}));
}

// Contexts of four threads add to a plain integer under one lock, which is held over a wait.
Task<int> add_many(Mutex& mutex, int& total, int count) {
  for (int i = 0; i < count; ++i) {
    const Mutex::Guard guard = co_await mutex.lock();
    const int before = total;
    IoContext& context = *IoContext::current();
    co_await context.sleep_until(0);
    total = before + 1;
  }
  co_return 0;
}

TEST_P(ContextTest, mutex_excludes_across_contexts) {
  Mutex mutex;
  int total = 0;
  {
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i)
      threads.emplace_back([&] {
        IoContext context(GetParam());
        EXPECT_EQ(context.run_until(add_many(mutex, total, 200)), 0);
      });
    for (auto& thread : threads) thread.join();
  }
  EXPECT_EQ(total, 800);
}

Task<int> read_or_write(SharedMutex& mutex, std::atomic<int>& readers, std::atomic<int>& writers, int count) {
  int bad = 0;
  IoContext& context = *IoContext::current();
  for (int i = 0; i < count; ++i) {
    if (i % 5 == 0) {
      const SharedMutex::Exclusive guard = co_await mutex.lock();
      if (++writers != 1 || readers != 0) ++bad;
      co_await context.sleep_until(0);
      --writers;
    } else {
      const SharedMutex::Shared guard = co_await mutex.lock_shared();
      ++readers;
      if (writers != 0) ++bad;
      co_await context.sleep_until(0);
      --readers;
    }
  }
  co_return bad;
}

TEST_P(ContextTest, shared_mutex_lets_readers_together_and_writers_alone) {
  SharedMutex mutex;
  std::atomic<int> readers{0}, writers{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      IoContext context(GetParam());
      EXPECT_EQ(context.run_until(read_or_write(mutex, readers, writers, 200)), 0);
    });
  for (auto& thread : threads) thread.join();
}

Task<int> ran(int& runs) {
  ++runs;
  co_return 0;
}

Task<int> late_failure(IoContext& context) {
  co_await context.sleep_until(0);
  co_return -5;
}

Task<int> group_that_fails_while_it_is_full(IoContext& context, int& runs) {
  TaskGroup group(1);
  int error = co_await group.start(late_failure(context));
  if (error == 0) error = co_await group.start(ran(runs));
  const int first = co_await group.wait();
  co_return error == -5 ? first : 0;
}

TEST_P(ContextTest, group_runs_what_it_is_given_even_after_an_error) {
  IoContext context(GetParam());
  int runs = 0;
  EXPECT_EQ(context.run_until(group_that_fails_while_it_is_full(context, runs)), -5);
  EXPECT_EQ(runs, 1);
}

Task<int> group_with_an_error() {
  TaskGroup group(2);
  for (int i = 0; i < 10; ++i) {
    Task<int> part = deep(0);
    if (i == 3) part = number(-5);
    const int error = co_await group.start(std::move(part));
    if (error < 0) break;
  }
  co_return co_await group.wait();
}

TEST_P(ContextTest, group_gives_the_first_error) {
  IoContext context(GetParam());
  EXPECT_EQ(context.run_until(group_with_an_error()), -5);
}

TEST(WorkerPool, runs_every_task_before_it_ends) {
  std::atomic<int> count{0};
  {
    WorkerPool pool(2);
    for (int i = 0; i < 100; ++i) pool.run([&] { ++count; });
  }
  EXPECT_EQ(count, 100);
}

TEST(WorkerPool, task_that_waits_for_a_task_does_not_starve) {
  WorkerPool pool(1);
  std::promise<void> outer;
  pool.run([&] {
    std::promise<void> inner;
    pool.run([&] { inner.set_value(); });
    inner.get_future().wait();
    outer.set_value();
  });
  outer.get_future().wait();
}

}  // namespace
}  // namespace ostler::block
