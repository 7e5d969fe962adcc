// Threads for calls into the host's file systems, which may not come back for as long as those hang. So
// nobody waits for them, and a job owns all that it touches.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

namespace ostler::fs9p {

// One thread at a time.
class Workers {
 public:
  using Job = std::function<void()>;

  // `most`: threads. They start as they are needed; idle ones sleep.
  explicit Workers(size_t most);
  // Does not wait for jobs: those that are left are still run, by threads that go on alone and end after the
  // last one.
  ~Workers();
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  // Runs `job` as soon as a thread is free. False, and it is gone: there is no thread and the host has none.
  bool run(Job job);

 private:
  struct State;  // the threads' own
  static void work(const std::shared_ptr<State>& state);
  bool start_one();

  const size_t most_;
  const std::shared_ptr<State> state_;
  std::vector<std::thread> threads_;
};

}  // namespace ostler::fs9p
