// What KVM cannot run, the interpreter does (fallback.h).
#include <fmt/format.h>
#include <time.h>

#include "accel/kvm/fallback.h"
#include "accel/kvm/kvm_engine.h"
#include "base/log.h"

namespace ostler::accel::kvm {

using x86::Activity;

namespace {

int64_t monotonic_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

}  // namespace

std::optional<VcpuExit> KvmEngine::run_fallback() {
  if (!settle() || !load_state()) return shut_down();
  if (fallback_ == nullptr)
    fallback_ =
        std::make_unique<Fallback>(state_, Fallback::Context{.index = context_.index,
                                                             .model = context_.model,
                                                             .memory = context_.memory,
                                                             .code = context_.code,
                                                             .machine = {.ports = context_.ports,
                                                                         .interrupts = context_.interrupts,
                                                                         .paravirt = context_.paravirt,
                                                                         .fpu_error = {},
                                                                         .info = context_.info}});
  // With the kernel's local APIC no more than what must be: of its registers the interpreter knows nothing.
  const int64_t wanted = waits_itself() || debug_.single_step ? 1 : stretch_.next(monotonic_ns());
  log::trace(log::Subject::kKvm, "kvm: vCPU {}: {} instructions from {:#x} on are interpreted",
             context_.index, wanted, state_.rip);
  Fallback::Outcome outcome = fallback_->run_one(debug_);
  if (outcome == Fallback::Outcome::kNotKnown) {
    tell_unknown();
    return shut_down();
  }
  if (outcome == Fallback::Outcome::kDone && wanted > 1 && state_.activity == Activity::kRunning) {
    interpreting_.store(true);
    if (pending_.load() == 0) outcome = fallback_->run_on(debug_, wanted - 1);
    interpreting_.store(false);
  }
  stretch_.ended(monotonic_ns());
  if (state_.activity == Activity::kShutdown) {
    changed_ = true;
    return VcpuExit::kShutdown;
  }
  const bool was_halted = state_.activity == Activity::kHalted && !waits_itself();
  if (!store_state()) return shut_down();
  store_tsc();
  if (outcome == Fallback::Outcome::kDebug) {
    debug_stop_ = fallback_->debug_stop();
    return VcpuExit::kDebug;
  }
  if (!was_halted) return std::nullopt;
  return halted(state_.flag(x86::rflags::kIf));
}

// At most once a second, as a guest may try again for ever.
void KvmEngine::tell_unknown() {
  constexpr int64_t kSecond = 1'000'000'000;
  ++untold_;
  const int64_t now = monotonic_ns();
  if (now - told_unknown_ < kSecond) return;
  told_unknown_ = now;
  log::warning(
      fmt::format("vCPU {}: neither KVM nor the interpreter can run the instruction at {:#x} "
                  "(KVM_EXIT_INTERNAL_ERROR, {} times)",
                  context_.index, state_.rip, std::exchange(untold_, 0)));
}

}  // namespace ostler::accel::kvm
