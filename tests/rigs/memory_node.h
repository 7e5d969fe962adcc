// A disk in memory for tests. It completes at once, or, when held, on release(); it counts what it is asked,
// and fails when told to.
#pragma once

#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "block/backend.h"
#include "block/buffers.h"

namespace ostler::rigs {

class MemoryNode final : public block::Backend {
 public:
  static constexpr uint64_t kBytes = 64 * 1024;

  const std::string& name() const override { return name_; }
  uint64_t size() const override { return data.size(); }
  bool read_only() const override { return is_read_only; }
  void read(uint64_t offset, std::vector<iovec> iov, block::Done done) override {
    perform([this, offset, iov, done] {
      block::copy_to(iov, data.data() + offset);
      done(fail_with);
    });
  }
  void write(uint64_t offset, std::vector<iovec> iov, block::Done done) override {
    perform([this, offset, iov, done] {
      if (fail_with == 0) block::copy_from(iov, data.data() + offset);
      done(fail_with);
    });
  }
  void flush(block::Done done) override {
    ++flushes;
    perform([this, done] { done(fail_with); });
  }
  void discard(uint64_t offset, uint64_t length, block::Done done) override {
    discarded.push_back({offset, length});
    perform([this, done] { done(fail_with); });
  }
  void write_zeroes(uint64_t offset, uint64_t length, bool, block::Done done) override {
    std::memset(data.data() + offset, 0, length);
    perform([this, done] { done(fail_with); });
  }
  void defer(std::function<void()> task) override { held_tasks.push_back(std::move(task)); }
  block::Verdict judge(bool, int) override { return verdict; }
  void pause_guest(int error) override { paused_for = error; }
  void on_resume(std::function<void()> handler) override { resume = std::move(handler); }
  void on_resize(std::function<void()> handler) override { resized = std::move(handler); }
  bool writes_through() const override { return writes_are_stable; }

  void release() {
    auto tasks = std::move(held_tasks);
    held_tasks.clear();
    for (auto& task : tasks) task();
  }

  std::string data = std::string(kBytes, '\0');
  bool is_read_only = false;
  bool hold = false;
  int fail_with = 0;
  int flushes = 0;
  block::Verdict verdict = block::Verdict::kReport;
  int paused_for = 0;
  bool writes_are_stable = false;
  std::function<void()> resume, resized;
  std::vector<std::pair<uint64_t, uint64_t>> discarded;
  std::vector<std::function<void()>> held_tasks;

 private:
  void perform(std::function<void()> task) {
    if (hold)
      held_tasks.push_back(std::move(task));
    else
      task();
  }
  const std::string name_ = "memory";
};

}  // namespace ostler::rigs
