#include "accel/vcpu.h"

#include <pthread.h>

#include <utility>

#include "base/assert.h"
#include "base/log.h"
#include "state/archive.h"
#include "x86/state.h"

namespace ostler::accel {

using x86::Activity;

Vcpu::Vcpu(unsigned index, std::function<void()> triple_fault)
    : index_(index), triple_fault_(std::move(triple_fault)) {}

Vcpu::~Vcpu() {
  stop();
}

void Vcpu::start() {
  ASSERT(engine_ != nullptr && !thread_.joinable(), "the machine starts each vCPU once, complete");
  thread_ = std::thread([this] { thread_main(); });
  pthread_setname_np(thread_.native_handle(), ("vcpu " + std::to_string(index_)).c_str());
}

void Vcpu::request_pause() {
  pause_.store(true);
  engine_->kick();
  wake();
}

void Vcpu::wait_paused() {
  std::unique_lock lock(mutex_);
  paused_cv_.wait(lock, [&] { return paused_ || !thread_.joinable(); });
}

void Vcpu::resume() {
  if (held_) return;
  {
    const std::lock_guard lock(mutex_);
    at_debug_stop_ = false;
    pause_.store(false);
    paused_ = false;
  }
  wake_.notify_all();
}

std::optional<DebugStop> Vcpu::take_debug_stop() {
  const std::lock_guard lock(mutex_);
  if (!std::exchange(at_debug_stop_, false)) return std::nullopt;
  return engine_->debug_stop();
}

void Vcpu::stop() {
  if (!thread_.joinable()) return;
  quit_.store(true);
  request_pause();
  thread_.join();
}

void Vcpu::reset() {
  events_.store(kNothing);
  unhalt_.store(false);
  engine_->reset(false);
  if (index_ != 0) engine_->cpu_state().activity = Activity::kWaitForSipi;
}

void Vcpu::state(state::Archive& archive) {
  archive.section("vcpu", 1);
  uint32_t events = events_.load();
  archive.field("events", events);
  events_.store(events);
  bool unhalt = unhalt_.load();
  archive.field("unhalt", unhalt);
  unhalt_.store(unhalt);
  engine_->state(archive);
}

void Vcpu::interrupt_changed() {
  engine_->interrupt_changed();
  if (sleeping_.load()) wake();
}

void Vcpu::nmi() {
  engine_->nmi();
  if (sleeping_.load()) wake();
}

void Vcpu::smi() {
  // There is no system-management mode: firmware that would use it is not loaded.
  log::guest_error("vcpu {}: SMI ignored", index_);
}

void Vcpu::init() {
  // INIT overrides a SIPI that came before it.
  events_.store(kInit);
  engine_->kick();
  if (sleeping_.load()) wake();
}

void Vcpu::sipi(uint8_t vector) {
  // Keeps a pending INIT; of two SIPIs the last counts, and only a vCPU that waits for one takes it.
  uint32_t old = events_.load();
  while (!events_.compare_exchange_weak(old, (old & kInit) | kSipi | vector)) {
  }
  engine_->kick();
  if (sleeping_.load()) wake();
}

void Vcpu::unhalt() {
  unhalt_.store(true);
  if (sleeping_.load()) wake();
}

void Vcpu::wake() {
  { const std::lock_guard lock(mutex_); }  // not between the sleeper's last look and its wait
  wake_.notify_all();
}

bool Vcpu::has_reason_to_wake() {
  if (pause_.load() || quit_.load() || events_.load() != kNothing) return true;
  return wakes_from_halt();
}

bool Vcpu::wakes_from_halt() {
  const Activity activity = engine_->cpu_state().activity;
  if (engine_->waits_itself()) return activity != Activity::kShutdown;
  return activity == Activity::kHalted && (unhalt_.load() || engine_->wants_wakeup());
}

void Vcpu::wait_for_wake() {
  if (engine_->cpu_state().activity != Activity::kHalted) return sleep_until_woken();
  if (!halt_poll_.look([this] { return has_reason_to_wake(); })) sleep_until_woken();
  halt_poll_.end();
}

void Vcpu::sleep_until_woken() {
  std::unique_lock lock(mutex_);
  sleeping_.store(true);
  wake_.wait(lock, [&] { return has_reason_to_wake(); });
  sleeping_.store(false);
}

void Vcpu::take_events() {
  const uint32_t events = events_.exchange(kNothing);
  x86::CpuState& state = engine_->cpu_state();
  if ((events & kInit) != 0) {
    engine_->reset(true);
    // The bootstrap processor starts at the reset vector again, the others wait (SDM 3A §9.4.2).
    if (index_ != 0) state.activity = Activity::kWaitForSipi;
  }
  if ((events & kSipi) != 0 && state.activity == Activity::kWaitForSipi) {
    const auto vector = static_cast<uint8_t>(events);
    state.seg[x86::kCs].selector = static_cast<uint16_t>(vector << 8);
    state.seg[x86::kCs].base = uint64_t{vector} << 12;
    state.rip = 0;
    state.activity = Activity::kRunning;
    engine_->state_loaded();
  }
}

void Vcpu::pause_for_debugger() {
  {
    const std::lock_guard lock(mutex_);
    at_debug_stop_ = true;
    pause_.store(true);
  }
  if (debug_stopped_) debug_stopped_();
}

void Vcpu::thread_main() {
  for (;;) {
    if (pause_.load()) {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] {
        if (quit_.load() || !pause_.load()) return true;
        // Said again each time: a resume() may be followed by a pause before this thread has seen either.
        paused_ = true;
        paused_cv_.notify_all();
        return false;
      });
      if (quit_.load()) return;
    }
    if (events_.load() != kNothing) take_events();
    x86::CpuState& state = engine_->cpu_state();
    if (state.activity == Activity::kHalted && unhalt_.exchange(false)) state.activity = Activity::kRunning;
    if (state.activity != Activity::kRunning && !wakes_from_halt()) {
      wait_for_wake();
      continue;
    }
    const VcpuExit exit = engine_->run();
    if (exit == VcpuExit::kShutdown && state.activity == Activity::kShutdown) triple_fault_();
    if (exit == VcpuExit::kDebug) pause_for_debugger();
  }
}

}  // namespace ostler::accel
