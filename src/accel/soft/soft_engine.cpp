#include "accel/soft/soft_engine.h"

#include "accel/soft/interpreter_debug.h"
#include "state/archive.h"

namespace ostler::accel {

SoftEngine::SoftEngine(SoftContext context)
    : context_(std::move(context)),
      state_(context_.window != nullptr ? context_.window->hot().cpu : own_state_),
      mmu_(state_, context_.memory, context_.code,
           {.phys_bits = context_.model.physical_bits(),
            .gib_pages = context_.model.has(x86::Feature::kPdpe1gb)},
           context_.window.get()),
      environment_(state_, mmu_,
                   {.ports = context_.ports,
                    .interrupts = context_.interrupts,
                    .paravirt = context_.paravirt,
                    .fpu_error = context_.fpu_error,
                    .info = context_.info}),
      interpreter_(state_, mmu_, environment_, context_.model, context_.cache_bytes,
                   context_.window != nullptr ? &context_.window->hot().pending : nullptr) {
  mmu_.participant().set_kick([this] { interpreter_.post(interp::pending::kGroup); });
}

Result<std::unique_ptr<SoftEngine>> SoftEngine::create(SoftContext context) {
  if (context.translator != nullptr) {
    TRY_ASSIGN(context.window, bt::Window::create());
  }
  std::unique_ptr<SoftEngine> engine(new SoftEngine(std::move(context)));
  if (engine->context_.translator != nullptr) {
    TRY_ASSIGN(engine->runner_, bt::Runner::create(*engine->context_.translator, *engine->context_.window,
                                                   engine->interpreter_));
    engine->interpreter_.set_native(engine->runner_.get());
  }
  return engine;
}

VcpuExit SoftEngine::run() {
  if (!bound_) {
    context_.bind_thread();
    bound_ = true;
  }
  if (parked_ && context_.paravirt.running()) mmu_.flush_all();
  parked_ = false;
  mmu_.participant().enter_running();
  const interp::Exit exit = interpreter_.run();
  mmu_.participant().leave_running();
  switch (exit) {
    case interp::Exit::kHalted:
      context_.paravirt.halted();
      parked_ = true;
      return VcpuExit::kHalted;
    case interp::Exit::kShutdown:
      return VcpuExit::kShutdown;
    case interp::Exit::kDebug:
      debug_stop_ = debug_stop_of(debug_, interpreter_.debug_stop());
      return VcpuExit::kDebug;
    default:
      return VcpuExit::kStopped;
  }
}

void SoftEngine::reset(bool init) {
  state_.reset(init);
  state_.gpr[x86::kRdx] = context_.model.signature();
  if (init)
    context_.interrupts.init_reset();
  else
    forget_translations();
  interpreter_.reset();
}

void SoftEngine::state(state::Archive& archive) {
  state_.state(archive);
  interpreter_.state(archive);
  if (!archive.loading() || archive.failed()) return;
  parked_ = true;
  forget_translations();
  interpreter_.state_changed();
}

// Of the whole machine, all of whose vCPUs are paused.
void SoftEngine::forget_translations() {
  if (context_.translator != nullptr) context_.translator->memory_replaced();
}

void SoftEngine::set_debug(const DebugRequest& request) {
  debug_ = request;
  interpreter_.set_debug(interpreter_request(request));
}

}  // namespace ostler::accel
