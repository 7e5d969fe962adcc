// The loop around KVM_RUN, and what each exit asks for.
#include "accel/kvm/kvm_engine.h"

#include <linux/kvm.h>
#include <x86intrin.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "accel/kvm/cpuid.h"
#include "accel/kvm/kick_signal.h"
#include "accel/kvm/refusal.h"
#include "base/log.h"
#include "state/archive.h"
#include "x86/msr_index.h"

namespace ostler::accel::kvm {

using x86::Activity;
namespace msr = x86::msr_index;

KvmEngine::KvmEngine(EngineContext context)
    : context_(std::move(context)), memory_(context_.memory), ports_(context_.ports) {}

KvmEngine::~KvmEngine() {
  context_.vm.gate().remove(this);
}

Result<std::unique_ptr<KvmEngine>> KvmEngine::create(EngineContext context) {
  std::unique_ptr<KvmEngine> engine(new KvmEngine(std::move(context)));
  TRY(engine->set_up());
  return engine;
}

Result<void> KvmEngine::set_up() {
  Vm& vm = context_.vm;
  // The kernel's local APIC has the vCPU's number as its id.
  TRY_ASSIGN(vcpu_, vm.create_vcpu(waits_itself() ? context_.info.apic_id : context_.index));
  TRY_ASSIGN(mapping_, Mapping::of_file(vcpu_.get(), vm.system().vcpu_mapping_size()));
  const std::vector<kvm_cpuid_entry2> entries = cpuid_entries(context_.model, context_.info);
  CpuidList cpuid(entries.size());
  std::copy(entries.begin(), entries.end(), cpuid.entries());
  if (const int done = call_vcpu(kSetCpuid2, cpuid.data()); done < 0) return refusal("KVM_SET_CPUID2", done);
  // As many banks of machine checks as CpuState has. A host that knows none keeps its own.
  uint64_t banks = std::size(state_.msr.mc_ctl) | 1u << 8 /* MCG_CTL */;
  call_vcpu(kSetupMce, &banks);
  for (const MsrField& field : msr_fields(state_)) {
    MsrList one(1);
    one.entries()[0] = {.index = field.index, .reserved = 0, .data = 0};
    if (call_vcpu(kGetMsrs, one.data()) == 1) msrs_.push_back(field);
  }
  store_tsc();
  TRY(install_kick_signal());
  vm.gate().add(this, [this] { post(kGate); });
  return {};
}

void KvmEngine::bind_thread() {
  if (bound_) return;
  thread_.store(kernel_thread_id());
  context_.bind_thread();
  bound_ = true;
}

void KvmEngine::post(uint32_t bits) {
  if ((pending_.fetch_or(bits) & bits) == bits) return;  // somebody else's kick is on its way
  if (interpreting_.load()) fallback_->stop();
  if (!inside_.load()) return;  // it looks at pending_ before it enters
  // KVM looks at immediate_exit before it looks at signals, so that one of the two stops it.
  __atomic_store_n(&run_area().immediate_exit, 1, __ATOMIC_SEQ_CST);
  send_kick(thread_.load());
}

bool KvmEngine::wants_wakeup() {
  if ((pending_.load() & kNmi) != 0) nmi_waiting_ = true;
  return (nmi_waiting_ && !state_.nmi_blocked) ||
         (state_.flag(x86::rflags::kIf) && context_.interrupts.pending());
}

void KvmEngine::reset(bool init) {
  state_.reset(init);
  state_.gpr[x86::kRdx] = context_.model.signature();
  if (init) context_.interrupts.init_reset();
  nmi_waiting_ = false;
  pending_.fetch_and(~kNmi);
  unfinished_ = false;
  changed_ = true;
  apic_loaded();
}

void KvmEngine::state(state::Archive& archive) {
  // Interrupts may have arrived since the vCPU stopped.
  if (!archive.loading() && waits_itself()) {
    if (changed_ || apic_changed_)
      load_apic();
    else
      load_state();
  }
  state_.state(archive);
  // As the interpreter saves it: the stream does not tell which engine wrote it.
  archive.section("interpreter", 1);
  nmi_waiting_ = nmi_waiting_ || (pending_.fetch_and(~kNmi) & kNmi) != 0;
  archive.field("nmi_waiting", nmi_waiting_);
  if (archive.loading()) changed_ = apic_changed_ = true;
}

VcpuExit KvmEngine::run() {
  bind_thread();
  const bool was_halted = state_.activity == Activity::kHalted;
  if (!waits_itself()) {
    if (was_halted && !wants_wakeup()) return VcpuExit::kHalted;
    state_.activity = Activity::kRunning;
  }
  if (changed_ && !store_state()) return shut_down();
  if (waits_itself() && apic_changed_ && !store_apic()) return shut_down();
  store_tsc();
  // A step of a halted vCPU is the delivery of what wakes it.
  if (debug_.single_step && was_halted && !waits_itself()) {
    inject();
    if (!settle() || !load_state()) return shut_down();
    debug_stop_ = {};
    return VcpuExit::kDebug;
  }
  apply_debug(debug_.single_step || watch_every_step_);
  for (;;) {
    const std::optional<VcpuExit> exit = run_once();
    if (!exit) continue;
    if (*exit == VcpuExit::kShutdown) return *exit;
    if (!settle() || !load_state()) return shut_down();
    return *exit;
  }
}

std::optional<VcpuExit> KvmEngine::run_once() {
  const uint32_t bits = pending_.exchange(0);
  if ((bits & kNmi) != 0) nmi_waiting_ = true;
  if ((bits & kStop) != 0) {
    if (!unfinished_) return VcpuExit::kStopped;
    pending_.fetch_or(kStop);  // again, once the access is complete
  } else if (!debug_.single_step) {
    inject();
  }
  cannot_run_ = false;
  const std::optional<VcpuExit> exit = enter_guest(~uint32_t{0});
  return cannot_run_ ? run_fallback() : exit;
}

// KVM_RUN, which only ends what KVM waits for when any of `heeded` is pending.
std::optional<VcpuExit> KvmEngine::enter_guest(uint32_t heeded) {
  kvm_run& run = run_area();
  const uint8_t cr8 = context_.interrupts.cr8();
  run.cr8 = cr8;
  context_.vm.gate().enter();
  __atomic_store_n(&run.immediate_exit, 0, __ATOMIC_SEQ_CST);
  inside_.store(true);
  if ((pending_.load() & heeded) != 0) __atomic_store_n(&run.immediate_exit, 1, __ATOMIC_SEQ_CST);
  const int done = call(vcpu_.get(), kRun);
  inside_.store(false);
  context_.vm.gate().leave();
  context_.vm.late_writes().drain(mapping_.data(),
                                  [this](bool is_port, GuestPhys address, unsigned size, uint64_t value) {
                                    (is_port ? ports_ : memory_).write(address, size, value);
                                  });
  if (run.cr8 != cr8 && !waits_itself()) context_.interrupts.set_cr8(static_cast<uint8_t>(run.cr8));
  if (done == -EINTR || done == -EAGAIN) {
    unfinished_ = false;
    return std::nullopt;
  }
  if (done < 0) {
    refused(kRun, done);
    return shut_down();
  }
  unfinished_ = false;
  return handle_exit();
}

// What waits and can be taken now is handed to KVM; what cannot be makes it exit when it can.
void KvmEngine::inject() {
  kvm_run& run = run_area();
  run.request_interrupt_window = 0;
  if (nmi_waiting_ && call(vcpu_.get(), kvm::kNmi) >= 0) nmi_waiting_ = false;
  if (!context_.interrupts.pending()) return;
  if (run.ready_for_interrupt_injection == 0 || unfinished_) {
    run.request_interrupt_window = 1;
    return;
  }
  const std::optional<uint8_t> vector = context_.interrupts.acknowledge();
  if (!vector) return;
  kvm_interrupt interrupt{.irq = *vector};
  if (const int done = call_vcpu(kvm::kInterrupt, &interrupt); done < 0) refused(kvm::kInterrupt, done);
  run.ready_for_interrupt_injection = 0;
  run.request_interrupt_window = context_.interrupts.pending();
}

std::optional<VcpuExit> KvmEngine::handle_exit() {
  kvm_run& run = run_area();
  switch (run.exit_reason) {
    case KVM_EXIT_IO:
      handle_io();
      return std::nullopt;
    case KVM_EXIT_MMIO:
      handle_mmio();
      return std::nullopt;
    case KVM_EXIT_X86_RDMSR:
      handle_rdmsr();
      return std::nullopt;
    case KVM_EXIT_X86_WRMSR:
      handle_wrmsr();
      return std::nullopt;
    case KVM_EXIT_HYPERCALL: {
      x86::Hypercall call{.number = run.hypercall.nr};
      std::copy_n(run.hypercall.args, 4, call.arguments);
      run.hypercall.ret = context_.paravirt.hypercall(call);
      unfinished_ = true;
      return std::nullopt;
    }
    case KVM_EXIT_IOAPIC_EOI:
      context_.interrupts.eoi_reported(run.eoi.vector);
      return std::nullopt;
    case KVM_EXIT_DIRTY_RING_FULL:
      context_.vm.dirty_ring_full(vcpu_.get());
      return std::nullopt;
    case KVM_EXIT_IRQ_WINDOW_OPEN:
    case KVM_EXIT_SET_TPR:
    case KVM_EXIT_INTR:
    case KVM_EXIT_NMI:
      return std::nullopt;
    case KVM_EXIT_HLT:
      return halted(run.if_flag != 0);
    case KVM_EXIT_DEBUG:
      return handle_debug();
    case KVM_EXIT_SHUTDOWN:
      return shut_down();
    case KVM_EXIT_FAIL_ENTRY:
      log::warning(
          fmt::format("vCPU {}: the host's processor refuses the guest's state (KVM_EXIT_FAIL_ENTRY, {:#x})",
                      context_.index, run.fail_entry.hardware_entry_failure_reason));
      return shut_down();
    case KVM_EXIT_INTERNAL_ERROR:
      if (run.internal.suberror == KVM_INTERNAL_ERROR_EMULATION) {
        cannot_run_ = true;  // run_once() sees to it: what waits may have to be settled by KVM_RUN first
        return std::nullopt;
      }
      log::warning(fmt::format("vCPU {}: KVM cannot go on (KVM_EXIT_INTERNAL_ERROR, {}); -accel bt can",
                               context_.index, run.internal.suberror));
      return shut_down();
    case KVM_EXIT_NOTIFY: {
      const bool lost = (run.notify.flags & KVM_NOTIFY_CONTEXT_INVALID) != 0;
      if (!lost && context_.vm.notify_exits() == NotifyExits::kGoOn) {
        log::guest_error("vCPU {}: the guest kept the processor from all events", context_.index);
        return std::nullopt;
      }
      log::warning(
          fmt::format("vCPU {}: the guest kept the processor from all events{}", context_.index,
                      lost ? ", and its state is lost" : " (-accel kvm,notify-vmexit=internal-error)"));
      return shut_down();
    }
    default:
      log::warning(fmt::format("vCPU {}: exit {} of KVM is not known", context_.index, run.exit_reason));
      return shut_down();
  }
}

std::optional<VcpuExit> KvmEngine::halted(bool interrupts_on) {
  const bool wakes = interrupts_on && context_.interrupts.pending();
  const bool goes_on = nmi_waiting_ || (pending_.load() & kNmi) != 0 || wakes;
  state_.activity = goes_on ? Activity::kRunning : Activity::kHalted;
  if (goes_on) return std::nullopt;
  return VcpuExit::kHalted;
}

VcpuExit KvmEngine::shut_down() {
  load_state();
  unfinished_ = false;
  changed_ = true;
  state_.activity = Activity::kShutdown;
  return VcpuExit::kShutdown;
}

void KvmEngine::handle_io() {
  kvm_run& run = run_area();
  const auto& io = run.io;
  std::byte* data = reinterpret_cast<std::byte*>(&run) + io.data_offset;
  // A string instruction comes as several elements at once.
  for (uint32_t i = 0; i < io.count; ++i, data += io.size) {
    uint64_t value = 0;
    if (io.direction == KVM_EXIT_IO_OUT) {
      std::memcpy(&value, data, io.size);
      ports_.write({io.port}, io.size, value);
    } else {
      value = ports_.read({io.port}, io.size);
      std::memcpy(data, &value, io.size);
    }
  }
  unfinished_ = true;
}

void KvmEngine::handle_mmio() {
  auto& mmio = run_area().mmio;
  const unsigned size = std::min<unsigned>(mmio.len, sizeof mmio.data);
  uint64_t value = 0;
  if (mmio.is_write != 0) {
    std::memcpy(&value, mmio.data, size);
    memory_.write({mmio.phys_addr}, size, value);
  } else {
    value = memory_.read({mmio.phys_addr}, size);
    std::memcpy(mmio.data, &value, size);
  }
  unfinished_ = true;
}

namespace {

bool is_apic_msr(uint32_t index) {
  return index == msr::IA32_APIC_BASE || index == msr::IA32_TSC_DEADLINE ||
         (index >= msr::IA32_X2APIC_FIRST && index <= msr::IA32_X2APIC_LAST);
}

}  // namespace

void KvmEngine::handle_rdmsr() {
  auto& access = run_area().msr;
  const std::optional<uint64_t> value = is_apic_msr(access.index) ? context_.interrupts.read_msr(access.index)
                                                                  : context_.paravirt.read_msr(access.index);
  if (!value) log::guest_error("RDMSR of unknown register {:#x}", access.index);
  access.error = value ? 0 : 1;
  access.data = value.value_or(0);
  unfinished_ = true;
}

void KvmEngine::handle_wrmsr() {
  auto& access = run_area().msr;
  const uint32_t index = access.index;
  bool done = false;
  if (index == msr::IA32_TIME_STAMP_COUNTER || index == msr::IA32_TSC_ADJUST)
    done = write_tsc(index, access.data);
  else if (is_apic_msr(index))
    done = context_.interrupts.write_msr(index, access.data);
  else
    done = context_.paravirt.write_msr(index, access.data);
  if (!done) log::guest_error("WRMSR of {:#x} to register {:#x} refused", uint64_t{access.data}, index);
  access.error = done ? 0 : 1;
  unfinished_ = true;
}

// SDM 3B §17.17.3: a write to either moves the counter, and TSC_ADJUST tells by how much in all.
bool KvmEngine::write_tsc(uint32_t index, uint64_t value) {
  if (index == msr::IA32_TSC_ADJUST && !context_.model.has(x86::Feature::kTscAdjust)) return false;
  MsrList one(1);
  one.entries()[0] = {.index = msr::IA32_TSC_ADJUST, .reserved = 0, .data = 0};
  if (call_vcpu(kGetMsrs, one.data()) != 1) return false;
  const uint64_t adjust = one.entries()[0].data;
  const uint64_t delta =
      index == msr::IA32_TSC_ADJUST ? value - adjust : value - (__rdtsc() + state_.msr.tsc_offset);
  one.entries()[0].data = adjust + delta;
  call_vcpu(kSetMsrs, one.data());
  move_tsc(delta);
  return true;
}

void KvmEngine::move_tsc(uint64_t delta) {
  __atomic_fetch_add(&state_.msr.tsc_offset, delta, __ATOMIC_RELAXED);
  store_tsc();
  context_.interrupts.tsc_changed();
  context_.paravirt.tsc_changed();
}

}  // namespace ostler::accel::kvm
