// A vCPU on KVM. The local APIC, the 8259 and every other device are ours: interrupts are injected at the
// entry into guest code, and KVM hands back each access to a port or register (KVM_EXIT_IO, KVM_EXIT_MMIO).
// With an Irqchip the local APIC is the kernel's while the vCPU runs, and so are HLT, INIT and SIPI; what is
// injected here is an 8259 of ours.
//
// CpuState is complete whenever run() has returned: an interrupt or exception that KVM is about to deliver is
// delivered first (settle()). While it runs, KVM's is the true one; the next run() hands over what was
// changed in between.
//
// Of the registers, KVM keeps all but kvmclock's, the local APIC's and the TSC's offset, whose accesses the
// MSR filter brings here (vm.cpp). MSRs that neither knows are #GP(0).
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "accel/engine.h"
#include "accel/kvm/fallback.h"
#include "accel/kvm/mapping.h"
#include "accel/kvm/registers.h"
#include "accel/kvm/vm.h"
#include "accel/paravirt.h"
#include "base/fd.h"
#include "base/result.h"
#include "bus/cpu_events.h"
#include "memory/address_space.h"
#include "x86/cpu_model.h"

namespace ostler::accel::kvm {

struct EngineContext {
  Vm& vm;
  unsigned index;              // of the vCPU
  const x86::CpuModel& model;  // restricted to what KVM supports
  memory::AddressSpace& memory;
  memory::AddressSpace& ports;
  mmu::CodePages& code;  // for the interpreter, which runs what KVM cannot
  bus::CpuInterrupts& interrupts;
  Paravirt& paravirt;
  std::function<void()> bind_thread;  // called once on the vCPU's thread before it runs guest code
  x86::VcpuInfo info;
};

class KvmEngine final : public Engine {
 public:
  static Result<std::unique_ptr<KvmEngine>> create(EngineContext context);
  ~KvmEngine() override;

  VcpuExit run() override;
  void kick() override { post(kStop); }
  void interrupt_changed() override { post(kInterrupt); }
  void nmi() override { post(kNmi); }
  x86::CpuState& cpu_state() override { return state_; }
  void reset(bool init) override;
  bool wants_wakeup() override;
  void state_loaded() override { changed_ = true; }
  bool waits_itself() const override { return context_.vm.irqchip() != nullptr; }
  void apic_loaded() override;
  void state(state::Archive& archive) override;
  void set_debug(const DebugRequest& request) override;
  const DebugStop& debug_stop() const override { return debug_stop_; }
  uint64_t instructions() const override { return 0; }  // KVM does not count them

 private:
  // Of pending_.
  static constexpr uint32_t kStop = 1, kInterrupt = 2, kNmi = 4, kGate = 8;

  explicit KvmEngine(EngineContext context);
  Result<void> set_up();
  void bind_thread();
  void post(uint32_t bits);

  std::optional<VcpuExit> run_once();
  std::optional<VcpuExit> enter_guest(uint32_t heeded);
  void inject();
  std::optional<VcpuExit> handle_exit();
  std::optional<VcpuExit> halted(bool interrupts_on);
  std::optional<VcpuExit> handle_debug();
  VcpuExit shut_down();
  void handle_io();
  void handle_mmio();
  void handle_rdmsr();
  void handle_wrmsr();
  bool write_tsc(uint32_t index, uint64_t value);
  void move_tsc(uint64_t delta);

  // kvm_engine_state.cpp
  bool store_state();
  bool load_state();
  void load_msrs();
  void store_msrs();
  void store_tsc();
  bool settle();
  bool load_apic();
  bool store_apic();
  std::optional<bus::ApicImage> kernel_apic();
  bool set_kernel_apic(const bus::ApicImage& image);
  bool refused(const Request& request, int error);
  // kvm_engine_fallback.cpp
  std::optional<VcpuExit> run_fallback();
  void tell_unknown();
  // kvm_engine_debug.cpp
  void apply_debug(bool step);
  std::optional<DebugStop> stop_of(uint64_t pc, uint64_t dr6) const;
  std::optional<BreakpointKind> breakpoint_at(uint64_t address) const;

  kvm_run& run_area() { return *reinterpret_cast<kvm_run*>(mapping_.data()); }
  int call_vcpu(const Request& request, void* argument) { return call(vcpu_.get(), request, argument); }

  EngineContext context_;
  x86::CpuState state_;
  memory::AddressSpace::Reader memory_, ports_;
  Fd vcpu_;
  Mapping mapping_;
  std::vector<MsrField> msrs_;  // those that this KVM has
  bool changed_ = true;         // state_ since KVM had it
  bool apic_changed_ = true;    // the same of the local APIC's timer, where the kernel has it
  bool unfinished_ = false;     // KVM waits for the end of a port, memory or MSR access
  bool nmi_waiting_ = false;
  bool bound_ = false;
  bool told_refusal_ = false;
  bool fixed_tsc_ = false;   // this KVM cannot offset the TSC
  uint64_t tsc_offset_ = 0;  // as KVM has it
  std::atomic<uint32_t> pending_{0};
  std::atomic<bool> inside_{false};  // in KVM_RUN, or about to be
  std::atomic<int> thread_{0};       // kernel's id

  std::unique_ptr<Fallback> fallback_;     // since KVM first failed
  std::atomic<bool> interpreting_{false};  // fallback_ runs more than it must
  Stretch stretch_;
  bool cannot_run_ = false;               // KVM has said so of the instruction at RIP
  int64_t told_unknown_ = INT64_MIN / 2;  // monotonic, ns
  unsigned untold_ = 0;

  DebugRequest debug_;
  DebugStop debug_stop_;
  kvm_guest_debug hardware_{};  // the breakpoints that fit into debug registers
  std::vector<Breakpoint> in_hardware_;
  bool watch_every_step_ = false;  // more breakpoints than debug registers
  bool debug_applied_ = false;
};

}  // namespace ostler::accel::kvm
