#include "accel/soft/soft_engine.h"

#include <x86intrin.h>

#include <algorithm>

#include "state/archive.h"

namespace ostler::accel {
namespace {

// A vCPU thread does not count as running guest code while it is inside a device: devices take locks and may
// wait for running vCPUs (mmu/vcpu_group.h).
class OutsideGuest {
 public:
  explicit OutsideGuest(mmu::SoftMmu& mmu) : participant_(mmu.participant()) { participant_.leave_running(); }
  ~OutsideGuest() { participant_.enter_running(); }
  OutsideGuest(const OutsideGuest&) = delete;
  OutsideGuest& operator=(const OutsideGuest&) = delete;

 private:
  mmu::Participant& participant_;
};

constexpr uint32_t kApicBase = 0x1b, kTscDeadline = 0x6e0, kX2ApicFirst = 0x800, kX2ApicLast = 0x8ff;

bool is_apic_msr(uint32_t index) {
  return index == kApicBase || index == kTscDeadline || (index >= kX2ApicFirst && index <= kX2ApicLast);
}

}  // namespace

SoftEngine::SoftEngine(SoftContext context)
    : context_(std::move(context)),
      state_(context_.window != nullptr ? context_.window->hot().cpu : own_state_),
      mmu_(state_, context_.memory, context_.code,
           {.phys_bits = context_.model.physical_bits(),
            .gib_pages = context_.model.has(x86::Feature::kPdpe1gb)},
           context_.window.get()),
      ports_(context_.ports),
      interpreter_(state_, mmu_, *this, context_.model, context_.cache_bytes,
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
      debug_stop_ = debug_stop_of(interpreter_.debug_stop());
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
  interp::DebugRequest wanted{.step = request.single_step, .breakpoints = {}, .watches = {}};
  for (const Breakpoint& point : request.breakpoints) {
    if (!point.watches_data()) {
      wanted.breakpoints.push_back(point.address);
      continue;
    }
    wanted.watches.push_back({.first = point.address,
                              .last = point.address + (point.length - 1),
                              .reads = point.kind != BreakpointKind::kWrite,
                              .writes = point.kind != BreakpointKind::kRead});
  }
  std::sort(wanted.breakpoints.begin(), wanted.breakpoints.end());
  interpreter_.set_debug(std::move(wanted));
}

// Which of the breakpoints it was. A software one goes before a hardware one at the same address.
DebugStop SoftEngine::debug_stop_of(const interp::DebugStop& stop) const {
  using Reason = interp::DebugStop::Reason;
  DebugStop out{.hit = std::nullopt, .address = stop.address};
  if (stop.reason == Reason::kStep) return out;
  for (const Breakpoint& point : debug_.breakpoints) {
    const bool here = stop.address >= point.address && stop.address - point.address < point.length;
    const bool fits =
        stop.reason == Reason::kBreakpoint
            ? !point.watches_data() && stop.address == point.address
            : here && (point.kind == BreakpointKind::kAccess ||
                       point.kind == (stop.access == mmu::Access::kWrite ? BreakpointKind::kWrite
                                                                         : BreakpointKind::kRead));
    if (fits && (!out.hit || point.kind < *out.hit)) out.hit = point.kind;
  }
  return out;
}

uint32_t SoftEngine::port_read(uint16_t port, unsigned size) {
  const OutsideGuest outside(mmu_);
  return static_cast<uint32_t>(ports_.read({port}, size));
}

void SoftEngine::port_write(uint16_t port, unsigned size, uint32_t value) {
  const OutsideGuest outside(mmu_);
  ports_.write({port}, size, value);
}

uint64_t SoftEngine::tsc() {
  return __rdtsc() + state_.msr.tsc_offset;
}

void SoftEngine::tsc_changed() {
  const OutsideGuest outside(mmu_);
  context_.interrupts.tsc_changed();
  context_.paravirt.tsc_changed();
}

std::optional<uint64_t> SoftEngine::read_msr(uint32_t index) {
  const OutsideGuest outside(mmu_);
  return is_apic_msr(index) ? context_.interrupts.read_msr(index) : context_.paravirt.read_msr(index);
}

bool SoftEngine::write_msr(uint32_t index, uint64_t value) {
  const OutsideGuest outside(mmu_);
  return is_apic_msr(index) ? context_.interrupts.write_msr(index, value)
                            : context_.paravirt.write_msr(index, value);
}

uint64_t SoftEngine::hypercall(const x86::Hypercall& call) {
  const OutsideGuest outside(mmu_);
  return context_.paravirt.hypercall(call);
}

std::optional<uint8_t> SoftEngine::acknowledge_interrupt() {
  context_.paravirt.interrupted();
  return context_.interrupts.acknowledge();
}

}  // namespace ostler::accel
