// A vCPU on the interpreter, and on the translator where there is one: joins them, the software MMU and the
// world around them.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>

#include "accel/engine.h"
#include "accel/paravirt.h"
#include "accel/soft/machine_environment.h"
#include "base/result.h"
#include "bt/runner.h"
#include "bus/cpu_events.h"
#include "interp/interpreter.h"
#include "memory/address_space.h"
#include "mmu/soft_mmu.h"
#include "x86/cpu_model.h"

namespace ostler::accel {

struct SoftContext {
  const x86::CpuModel& model;
  memory::AddressSpace& memory;
  memory::AddressSpace& ports;
  mmu::CodePages& code;
  bus::CpuInterrupts& interrupts;
  Paravirt& paravirt;
  std::function<void()> bind_thread;  // called once on the vCPU's thread before it runs guest code
  std::function<void()> fpu_error;    // FERR#: IRQ 13
  x86::VcpuInfo info;
  size_t cache_bytes = size_t{3} << 20;  // decoded code
  bt::Shared* translator = nullptr;      // of the machine; null: only the interpreter
  std::unique_ptr<bt::Window> window;    // with a translator
};

class SoftEngine final : public Engine {
 public:
  static Result<std::unique_ptr<SoftEngine>> create(SoftContext context);

  VcpuExit run() override;
  void kick() override { interpreter_.request_exit(); }
  void interrupt_changed() override { interpreter_.post(interp::pending::kInterrupt); }
  void nmi() override { interpreter_.post(interp::pending::kNmi); }
  x86::CpuState& cpu_state() override { return state_; }
  void reset(bool init) override;
  bool wants_wakeup() override { return interpreter_.wants_wakeup(); }
  void state_loaded() override { interpreter_.state_changed(); }
  void state(state::Archive& archive) override;
  void set_debug(const DebugRequest& request) override;
  const DebugStop& debug_stop() const override { return debug_stop_; }
  uint64_t instructions() const override { return interpreter_.retired(); }

 private:
  explicit SoftEngine(SoftContext context);
  void forget_translations();

  SoftContext context_;
  x86::CpuState own_state_;
  x86::CpuState& state_;
  mmu::SoftMmu mmu_;
  MachineEnvironment environment_;
  interp::Interpreter interpreter_;
  std::unique_ptr<bt::Runner> runner_;
  DebugRequest debug_;
  DebugStop debug_stop_;
  bool bound_ = false;
  bool parked_ = true;  // others may think that this vCPU does not run
};

}  // namespace ostler::accel
