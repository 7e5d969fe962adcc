#include "accel/kvm/fallback.h"

#include <fmt/format.h>

#include <numeric>
#include <utility>
#include <vector>

#include "accel/soft/interpreter_debug.h"
#include "base/log.h"
#include "interp/block.h"
#include "interp/delivery.h"

namespace ostler::accel::kvm {
namespace {

constexpr size_t kDecodedCode = size_t{256} << 10;  // bytes; forgotten with each call

}  // namespace

Fallback::Fallback(x86::CpuState& state, Context context)
    : index_(context.index),
      state_(state),
      mmu_(state, context.memory, context.code,
           {.phys_bits = context.model.physical_bits(),
            .gib_pages = context.model.has(x86::Feature::kPdpe1gb)}),
      environment_(state, mmu_, std::move(context.machine)),
      interpreter_(state, mmu_, environment_, context.model, kDecodedCode) {}

Fallback::~Fallback() {
  log::trace(log::Subject::kStats,
             "vCPU {}: KVM could not run {} instructions; the interpreter ran {}; first of all: {}", index_,
             calls_, interpreter_.retired(), most());
}

std::string Fallback::most() const {
  std::vector<unsigned> order(failed_.size());
  std::iota(order.begin(), order.end(), 0u);
  constexpr size_t kShown = 12;
  std::partial_sort(order.begin(), order.begin() + kShown, order.end(),
                    [this](unsigned a, unsigned b) { return failed_[a] > failed_[b]; });
  std::string text;
  for (size_t i = 0; i < kShown && failed_[order[i]] != 0; ++i)
    text += fmt::format("{}{} {}", i == 0 ? "" : ", ", x86::mnemonic(static_cast<x86::Opcode>(order[i])),
                        failed_[order[i]]);
  return text;
}

Fallback::Outcome Fallback::run_one(const DebugRequest& debug) {
  ++calls_;
  interpreter_.state_changed();
  interp::DebugRequest step = interpreter_request(debug);
  step.step = true;
  interpreter_.set_debug(std::move(step));
  interpreter_.stop_on_exceptions(true);
  interp::Exit exit = interp::Exit::kStop;
  // A stop that was asked for belongs to what comes after this instruction.
  while (exit == interp::Exit::kStop) exit = interpreter_.run();
  interpreter_.stop_on_exceptions(false);
  const interp::Block* block = interpreter_.cpu().block;
  const x86::Opcode opcode = block == nullptr ? x86::Opcode::kInvalid : block->ops()->insn.opcode;
  if (exit == interp::Exit::kException) {
    // As KVM does it: user code gets its #UD, and of a kernel one wants to know.
    if (interpreter_.exception().vector == x86::Vector::kUd && opcode == x86::Opcode::kInvalid &&
        state_.cpl() != 3)
      return Outcome::kNotKnown;
    deliver();
  }
  ++failed_[static_cast<size_t>(opcode)];
  return outcome_of(exit, debug);
}

Fallback::Outcome Fallback::run_on(const DebugRequest& debug, int64_t instructions) {
  interpreter_.set_debug(interpreter_request(debug));
  return outcome_of(interpreter_.run(instructions), debug);
}

Fallback::Outcome Fallback::outcome_of(interp::Exit exit, const DebugRequest& debug) {
  const interp::DebugStop& stop = interpreter_.debug_stop();
  const bool asked_for =
      debug.single_step || (exit == interp::Exit::kDebug && stop.reason != interp::DebugStop::Reason::kStep);
  if (!asked_for) return Outcome::kDone;
  debug_stop_ = exit == interp::Exit::kDebug ? debug_stop_of(debug, stop) : DebugStop{};
  return Outcome::kDebug;
}

void Fallback::deliver() {
  mmu_.participant().enter_running();
  interp::deliver_exception(interpreter_.cpu(), interpreter_.exception());
  mmu_.participant().leave_running();
}

}  // namespace ostler::accel::kvm
