// Threads that nobody waits for.
#include "fs9p/workers.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <memory>
#include <thread>
#include <utility>

namespace ostler::fs9p {
namespace {

// Jobs that wait until they are let go.
struct Gate {
  std::promise<void> opener;
  std::shared_future<void> open = opener.get_future().share();
};

TEST(Workers, a_job_that_waits_delays_no_other) {
  Gate gate;
  Workers workers(2);
  std::promise<void> ran;
  ASSERT_TRUE(workers.run([open = gate.open] { open.wait(); }));
  ASSERT_TRUE(workers.run([&] { ran.set_value(); }));
  ran.get_future().wait();
  gate.opener.set_value();
}

TEST(Workers, their_end_waits_for_no_job_and_leaves_none_out) {
  Gate gate;
  const auto ran = std::make_shared<std::promise<void>>();
  {
    Workers workers(1);
    ASSERT_TRUE(workers.run([open = gate.open] { open.wait(); }));
    ASSERT_TRUE(workers.run([ran] { ran->set_value(); }));
  }
  gate.opener.set_value();
  ran->get_future().wait();
}

TEST(Workers, what_a_job_owns_goes_on_its_thread) {
  std::promise<std::thread::id> gone;
  auto owned = std::shared_ptr<int>(new int, [&](int* value) {
    delete value;
    gone.set_value(std::this_thread::get_id());
  });
  Workers workers(1);
  ASSERT_TRUE(workers.run([last = std::move(owned)] {}));
  EXPECT_NE(gone.get_future().get(), std::this_thread::get_id());
}

TEST(Workers, there_are_no_more_threads_than_was_said) {
  std::atomic<int> at_once{0}, most{0};
  std::promise<void> last;
  Workers workers(2);
  constexpr int kJobs = 100;
  std::atomic<int> left{kJobs};
  for (int i = 0; i < kJobs; ++i)
    ASSERT_TRUE(workers.run([&] {
      const int now = at_once.fetch_add(1) + 1;
      for (int seen = most.load(); seen < now && !most.compare_exchange_weak(seen, now);) continue;
      std::this_thread::yield();
      at_once.fetch_sub(1);
      if (left.fetch_sub(1) == 1) last.set_value();
    }));
  last.get_future().wait();
  EXPECT_LE(most.load(), 2);
}

}  // namespace
}  // namespace ostler::fs9p
