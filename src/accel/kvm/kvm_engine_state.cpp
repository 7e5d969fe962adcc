// The whole state of a vCPU, to KVM and back.
#include <x86intrin.h>

#include <algorithm>
#include <cstring>
#include <iterator>

#include "accel/kvm/kick_signal.h"
#include "accel/kvm/kvm_engine.h"
#include "base/log.h"
#include "x86/msr_index.h"

namespace ostler::accel::kvm {
namespace {

// Registers of the local APIC's page, by offset / 16 (SDM Vol. 3A table 11-1).
constexpr size_t kLvtTimer = 0x32, kInitialCount = 0x38, kCurrentCount = 0x39, kDivide = 0x3e;
constexpr uint32_t kLvtMasked = 1u << 16;

void copy_timer(const bus::ApicImage& from, bus::ApicImage& to) {
  to.tsc_deadline = from.tsc_deadline;
  for (const size_t index : {kLvtTimer, kInitialCount, kCurrentCount, kDivide})
    to.page[index] = from.page[index];
}

}  // namespace

// Tells once, and is false.
bool KvmEngine::refused(const Request& request, int error) {
  if (!std::exchange(told_refusal_, true))
    log::warning(fmt::format("vCPU {}: KVM refuses {} ({}); -accel bt needs nothing of the host",
                             context_.index, request.name, std::strerror(-error)));
  return false;
}

bool KvmEngine::store_state() {
  kvm_sregs2 sregs{};
  if (const int done = call_vcpu(kGetSregs2, &sregs); done < 0) return refused(kGetSregs2, done);
  from_cpu(state_, sregs);
  sregs.cr8 = context_.interrupts.cr8();
  if (waits_itself()) sregs.apic_base = context_.interrupts.image().base;
  if (const int done = call_vcpu(kSetSregs2, &sregs); done < 0) return refused(kSetSregs2, done);

  kvm_regs regs{};
  from_cpu(state_, regs);
  if (const int done = call_vcpu(kSetRegs, &regs); done < 0) return refused(kSetRegs, done);

  if (context_.model.has(x86::Feature::kXsave)) {
    kvm_xcrs xcrs{};
    xcrs.nr_xcrs = 1;
    xcrs.xcrs[0].value = state_.xcr0;
    if (const int done = call_vcpu(kSetXcrs, &xcrs); done < 0) return refused(kSetXcrs, done);
  }
  // Also for guests without XSAVE: KVM_SET_FPU leaves MXCSR out.
  alignas(64) std::byte area[kXsaveSize];
  xsave_from_cpu(state_, context_.model.xcr0_supported() | 3, area);
  if (const int done = call_vcpu(kSetXsave, area); done < 0) return refused(kSetXsave, done);
  store_msrs();

  kvm_debugregs debug{};
  from_cpu(state_, debug);
  if (const int done = call_vcpu(kSetDebugregs, &debug); done < 0) return refused(kSetDebugregs, done);
  // Whatever KVM was about to deliver belonged to the state that is replaced.
  kvm_vcpu_events events{};
  from_cpu(state_, events);
  if (const int done = call_vcpu(kSetVcpuEvents, &events); done < 0) return refused(kSetVcpuEvents, done);
  if (waits_itself()) {
    kvm_mp_state state{.mp_state = mp_state_of(state_.activity)};
    if (const int done = call_vcpu(kSetMpState, &state); done < 0) return refused(kSetMpState, done);
    run_area().ready_for_interrupt_injection = 0;
  } else {
    run_area().ready_for_interrupt_injection = state_.flag(x86::rflags::kIf) && !state_.interrupt_shadow;
  }
  unfinished_ = false;
  changed_ = false;
  return true;
}

bool KvmEngine::load_state() {
  kvm_regs regs{};
  if (const int done = call_vcpu(kGetRegs, &regs); done < 0) return refused(kGetRegs, done);
  to_cpu(regs, state_);
  kvm_sregs2 sregs{};
  if (const int done = call_vcpu(kGetSregs2, &sregs); done < 0) return refused(kGetSregs2, done);
  to_cpu(sregs, state_);
  if (context_.model.has(x86::Feature::kXsave)) {
    kvm_xcrs xcrs{};
    if (const int done = call_vcpu(kGetXcrs, &xcrs); done < 0) return refused(kGetXcrs, done);
    for (uint32_t i = 0; i < std::min<uint32_t>(xcrs.nr_xcrs, KVM_MAX_XCRS); ++i)
      if (xcrs.xcrs[i].xcr == 0) state_.xcr0 = xcrs.xcrs[i].value;
  }
  alignas(64) std::byte area[kXsaveSize];
  if (const int done = call_vcpu(kGetXsave, area); done < 0) return refused(kGetXsave, done);
  xsave_to_cpu(area, state_);
  load_msrs();
  kvm_debugregs debug{};
  if (const int done = call_vcpu(kGetDebugregs, &debug); done < 0) return refused(kGetDebugregs, done);
  to_cpu(debug, state_);
  kvm_vcpu_events events{};
  if (const int done = call_vcpu(kGetVcpuEvents, &events); done < 0) return refused(kGetVcpuEvents, done);
  to_cpu(events, state_);
  if (!waits_itself()) return true;
  kvm_mp_state state{};
  if (const int done = call_vcpu(kGetMpState, &state); done < 0) return refused(kGetMpState, done);
  state_.activity = activity_of(state.mp_state);
  return load_apic();
}

std::optional<bus::ApicImage> KvmEngine::kernel_apic() {
  kvm_lapic_state lapic{};
  if (const int done = call_vcpu(kGetLapic, &lapic); done < 0) {
    refused(kGetLapic, done);
    return std::nullopt;
  }
  kvm_sregs2 sregs{};
  if (const int done = call_vcpu(kGetSregs2, &sregs); done < 0) {
    refused(kGetSregs2, done);
    return std::nullopt;
  }
  MsrList deadline(1);
  deadline.entries()[0] = {.index = x86::msr_index::IA32_TSC_DEADLINE, .reserved = 0, .data = 0};
  call_vcpu(kGetMsrs, deadline.data());
  bus::ApicImage image{.base = sregs.apic_base, .tsc_deadline = deadline.entries()[0].data, .page = {}};
  to_image(lapic, image);
  // The timer that was loaded has not started there.
  if (apic_changed_) copy_timer(context_.interrupts.image(), image);
  return image;
}

bool KvmEngine::set_kernel_apic(const bus::ApicImage& image) {
  kvm_lapic_state lapic{};
  from_image(image, lapic);
  if (const int done = call_vcpu(kSetLapic, &lapic); done < 0) return refused(kSetLapic, done);
  MsrList deadline(1);
  deadline.entries()[0] = {
      .index = x86::msr_index::IA32_TSC_DEADLINE, .reserved = 0, .data = image.tsc_deadline};
  call_vcpu(kSetMsrs, deadline.data());
  return true;
}

bool KvmEngine::load_apic() {
  const std::optional<bus::ApicImage> image = kernel_apic();
  if (image) context_.interrupts.set_image(*image);
  return image.has_value();
}

// At once, so that what devices send from now on is added to it. The timer waits for the vCPU.
void KvmEngine::apic_loaded() {
  apic_changed_ = true;
  if (!waits_itself()) return;
  bus::ApicImage image = context_.interrupts.image();
  // It decides how the page is read.
  kvm_sregs2 sregs{};
  int done = call_vcpu(kGetSregs2, &sregs);
  sregs.apic_base = image.base;
  if (done >= 0) done = call_vcpu(kSetSregs2, &sregs);
  if (done < 0) {
    refused(kSetSregs2, done);
    return;
  }
  bus::ApicImage stopped;
  stopped.page[kLvtTimer] = kLvtMasked;
  copy_timer(stopped, image);
  set_kernel_apic(image);
}

bool KvmEngine::store_apic() {
  const std::optional<bus::ApicImage> image = kernel_apic();
  if (!image || !set_kernel_apic(*image)) return false;
  apic_changed_ = false;
  return true;
}

void KvmEngine::load_msrs() {
  MsrList list(msrs_.size());
  for (size_t i = 0; i < msrs_.size(); ++i)
    list.entries()[i] = {.index = msrs_[i].index, .reserved = 0, .data = 0};
  const int done = call_vcpu(kGetMsrs, list.data());
  for (int i = 0; i < done; ++i)
    *msrs_[static_cast<size_t>(i)].value = list.entries()[i].data & msrs_[static_cast<size_t>(i)].mask;
}

// KVM stops at the first one that it refuses, which keeps the value that the guest has there anyway.
void KvmEngine::store_msrs() {
  size_t next = 0;
  while (next < msrs_.size()) {
    MsrList list(msrs_.size() - next);
    for (size_t i = next; i < msrs_.size(); ++i)
      list.entries()[i - next] = {.index = msrs_[i].index, .reserved = 0, .data = *msrs_[i].value};
    const int done = call_vcpu(kSetMsrs, list.data());
    if (done < 0) return;
    next += static_cast<size_t>(done) + 1;
  }
}

void KvmEngine::store_tsc() {
  if (fixed_tsc_) {
    // The guest reads the host's counter, whatever we would like.
    if (__atomic_exchange_n(&state_.msr.tsc_offset, 0, __ATOMIC_RELAXED) == 0) return;
    context_.interrupts.tsc_changed();
    context_.paravirt.tsc_changed();
    return;
  }
  uint64_t offset = __atomic_load_n(&state_.msr.tsc_offset, __ATOMIC_RELAXED);
  if (offset == tsc_offset_) return;
  kvm_device_attr attribute{};
  attribute.group = KVM_VCPU_TSC_CTRL;
  attribute.attr = KVM_VCPU_TSC_OFFSET;
  attribute.addr = reinterpret_cast<uintptr_t>(&offset);
  const int done = call_vcpu(kSetDeviceAttr, &attribute);
  if (waits_itself() && !apic_changed_) {
    // The kernel computed the time of a deadline with the old offset.
    MsrList deadline(1);
    deadline.entries()[0] = {.index = x86::msr_index::IA32_TSC_DEADLINE, .reserved = 0, .data = 0};
    if (call_vcpu(kGetMsrs, deadline.data()) == 1 && deadline.entries()[0].data != 0)
      call_vcpu(kSetMsrs, deadline.data());
  }
  tsc_offset_ = offset;
  MsrList one(1);
  one.entries()[0] = {.index = x86::msr_index::IA32_TIME_STAMP_COUNTER, .reserved = 0, .data = 0};
  const uint64_t before = __rdtsc() + offset;
  const bool read = call_vcpu(kGetMsrs, one.data()) == 1;
  const uint64_t after = __rdtsc() + offset;
  if (done >= 0 && read && one.entries()[0].data - before <= after - before) return;
  fixed_tsc_ = true;
  if (context_.index == 0)
    log::warning(
        "this host's KVM cannot give a guest a time-stamp counter of its own: it goes on while the "
        "guest is paused");
  store_tsc();
}

// Lets KVM deliver what it has begun to deliver: CpuState has no room for it. False: KVM refuses.
bool KvmEngine::settle() {
  constexpr int64_t kFirstTry = 50'000;  // ns
  constexpr unsigned kMostDoublings = 12;
  for (unsigned round = 0;; ++round) {
    kvm_vcpu_events events{};
    if (const int done = call_vcpu(kGetVcpuEvents, &events); done < 0) return refused(kGetVcpuEvents, done);
    const bool under_way = events.exception.injected != 0 || events.exception.pending != 0 ||
                           events.interrupt.injected != 0 || events.nmi.injected != 0;
    if (!under_way && !unfinished_) {
      nmi_waiting_ = nmi_waiting_ || events.nmi.pending != 0;
      if (events.nmi.pending == 0) return true;
      events.nmi.pending = 0;
      events.flags = KVM_VCPUEVENT_VALID_NMI_PENDING;
      const int done = call_vcpu(kSetVcpuEvents, &events);
      return done >= 0 || refused(kSetVcpuEvents, done);
    }
    if (round == kMostDoublings) return refused(kRun, -EBUSY);
    const DelayedKick kick(kFirstTry << round);
    // What else is asked waits until then.
    if (enter_guest(unfinished_ ? ~uint32_t{0} : 0) == VcpuExit::kShutdown) return false;
  }
}

}  // namespace ostler::accel::kvm
