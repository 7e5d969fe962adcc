// The two ends of a cable for tests: a card that keeps what it gets, and a back end that keeps what it is
// sent.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <vector>

#include "net/backend.h"
#include "support/loop_thread.h"

namespace ostler::net::test {

inline Frame frame(const std::string& bytes) {
  return {std::as_bytes(std::span(bytes))};
}

inline std::string text(const Frame& frame) {
  return {reinterpret_cast<const char*>(frame.bytes.data()), frame.bytes.size()};
}

// A frame of `size` bytes that begins with broadcast addresses and a type nobody uses; `mark` tells it from
// others.
inline std::string numbered_frame(unsigned mark, size_t size = 60) {
  std::string bytes = std::string(12, '\xff') + "\x88\xb5" + std::to_string(mark) + ";";
  bytes.resize(std::max(size, bytes.size()), '.');
  return bytes;
}

struct Card : Receiver {
  bool receive(const Frame& frame, unsigned queue) override {
    const std::lock_guard lock(mutex);
    if (!open || room == 0) return false;
    --room;
    last_queue = queue;
    headers.push_back(frame.header);
    frames.push_back(text(frame));
    changed.notify_all();
    return true;
  }
  void received_all(unsigned) override {
    const std::lock_guard lock(mutex);
    ++flushes;
  }
  void sendable(unsigned) override {
    const std::lock_guard lock(mutex);
    ++sendables;
    changed.notify_all();
  }
  void link_changed(bool up) override {
    const std::lock_guard lock(mutex);
    links.push_back(up);
    changed.notify_all();
  }

  void set_open(bool value) {
    const std::lock_guard lock(mutex);
    open = value;
  }
  // Waits until `condition`, which is called with the mutex held. False: it took half a minute.
  template <class Condition>
  bool wait(Condition condition) {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, std::chrono::seconds(30), condition);
  }
  bool wait_for_frames(size_t count) {
    return wait([&] { return frames.size() >= count; });
  }
  // The first frame that is `wanted`; "" when none came.
  template <class Wanted>
  std::string wait_for(Wanted wanted) {
    std::string found;
    wait([&] {
      for (const auto& each : frames) {
        if (!wanted(each)) continue;
        found = each;
        return true;
      }
      return false;
    });
    return found;
  }

  std::mutex mutex;
  std::condition_variable changed;
  bool open = true;
  size_t room = SIZE_MAX;
  int sendables = 0, flushes = 0;
  unsigned last_queue = 0;
  std::vector<bool> links;
  std::vector<std::string> frames;
  std::vector<VnetHeader> headers;
};

// What is sent stays in `frames` until `room` is used up.
struct FakeBackend : Backend {
  void attach(Receiver* next) override { receiver = next; }
  bool send(const Frame& frame, unsigned) override {
    if (room == 0) return false;
    --room;
    frames.push_back(text(frame));
    return true;
  }
  void receiver_ready(unsigned) override { ++ready; }
  void wake_sender(unsigned) override { ++wakes; }
  bool link_up() const override { return up; }
  Receiver* receiver = nullptr;
  size_t room = SIZE_MAX;
  int ready = 0, wakes = 0;
  bool up = true;
  std::vector<std::string> frames;
};

using ostler::test::LoopThread;

}  // namespace ostler::net::test
