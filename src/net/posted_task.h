// A task for the event loop's thread that any thread may ask for, however often: it waits there at most once.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <utility>

#include "event/loop.h"

namespace ostler::net {

class PostedTask {
 public:
  // `task` runs on the loop's thread; so does the destructor, unless the loop does not run any more.
  PostedTask(event::Loop& loop, std::function<void()> task)
      : loop_(loop), shared_(std::make_shared<Shared>(std::move(task))) {}
  ~PostedTask() { shared_->task = nullptr; }
  PostedTask(const PostedTask&) = delete;
  PostedTask& operator=(const PostedTask&) = delete;

  void post() {
    if (shared_->posted.exchange(true)) return;
    loop_.post([shared = shared_] {
      shared->posted.store(false);
      if (shared->task) shared->task();
    });
  }

 private:
  struct Shared {
    explicit Shared(std::function<void()> work) : task(std::move(work)) {}
    std::function<void()> task;  // null after destruction
    std::atomic<bool> posted{false};
  };
  event::Loop& loop_;
  const std::shared_ptr<Shared> shared_;
};

}  // namespace ostler::net
