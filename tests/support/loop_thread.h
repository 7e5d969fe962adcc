// An event loop for tests, on a thread of its own.
#pragma once

#include <thread>

#include "event/clock.h"
#include "event/loop.h"

namespace ostler::test {

class LoopThread {
 public:
  LoopThread() { clock.resume(); }
  ~LoopThread() { stop(); }
  void start() {
    thread_ = std::thread([this] { loop.run(); });
  }
  void stop() {
    if (!thread_.joinable()) return;
    loop.stop();
    thread_.join();
  }
  event::VirtualClock clock;
  event::Loop loop{clock};

 private:
  std::thread thread_;
};

}  // namespace ostler::test
