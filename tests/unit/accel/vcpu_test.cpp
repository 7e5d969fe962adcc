// A vCPU's thread around an engine that halts at once.
#include "accel/vcpu.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>

#include "x86/state.h"

namespace ostler::accel {
namespace {

using x86::Activity;

// Each run() is one HLT. Runs are counted; the first may find an event on its way.
class HaltingEngine final : public Engine {
 public:
  VcpuExit run() override {
    state_.activity = Activity::kHalted;
    const std::lock_guard lock(mutex_);
    ++runs_;
    if (runs_ == 1 && first_) first_();
    changed_.notify_all();
    return VcpuExit::kHalted;
  }
  void kick() override {}
  void interrupt_changed() override {}
  void nmi() override {}
  x86::CpuState& cpu_state() override { return state_; }
  void reset(bool) override { state_.activity = Activity::kRunning; }
  bool wants_wakeup() override { return false; }
  bool waits_itself() const override { return waits_itself_; }
  void state_loaded() override {}
  void state(state::Archive&) override {}
  void set_debug(const DebugRequest&) override {}
  const DebugStop& debug_stop() const override { return stop_; }
  uint64_t instructions() const override { return 0; }

  void wait_for_runs(unsigned count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return runs_ >= count; });
  }
  unsigned runs() {
    const std::lock_guard lock(mutex_);
    return runs_;
  }
  void on_first(std::function<void()> action) { first_ = std::move(action); }
  void wait_itself() { waits_itself_ = true; }

 private:
  x86::CpuState state_;
  DebugStop stop_;
  std::mutex mutex_;
  std::condition_variable changed_;
  unsigned runs_ = 0;
  std::function<void()> first_;
  bool waits_itself_ = false;
};

class VcpuTest : public ::testing::Test {
 protected:
  VcpuTest() {
    auto engine = std::make_unique<HaltingEngine>();
    engine_ = engine.get();
    vcpu_.set_engine(std::move(engine));
    vcpu_.reset();
  }
  ~VcpuTest() override { vcpu_.stop(); }

  void start() {
    vcpu_.start();
    vcpu_.resume();
  }
  unsigned runs_after_pause() {
    vcpu_.request_pause();
    vcpu_.wait_paused();
    return engine_->runs();
  }

  Vcpu vcpu_{0, [] {}};
  HaltingEngine* engine_;
};

TEST_F(VcpuTest, UnhaltEndsOneHalt) {
  start();
  for (unsigned run = 1; run <= 5; ++run) {
    engine_->wait_for_runs(run);
    vcpu_.unhalt();
  }
  engine_->wait_for_runs(6);
  EXPECT_EQ(runs_after_pause(), 6u);
}

TEST_F(VcpuTest, AnUnhaltBeforeTheHaltIsKept) {
  engine_->on_first([this] { vcpu_.unhalt(); });
  start();
  engine_->wait_for_runs(2);
  EXPECT_EQ(runs_after_pause(), 2u);
}

TEST_F(VcpuTest, AResetForgetsAnUnhalt) {
  vcpu_.unhalt();
  vcpu_.reset();
  start();
  engine_->wait_for_runs(1);
  EXPECT_EQ(runs_after_pause(), 1u);
}

TEST_F(VcpuTest, AnEngineThatWaitsItselfRunsAlthoughItIsHalted) {
  engine_->wait_itself();
  start();
  engine_->wait_for_runs(5);
}

}  // namespace
}  // namespace ostler::accel
