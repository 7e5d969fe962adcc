// A vCPU on the interpreter, and on the translator where there is one: joins them, the software MMU and the
// world around them.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>

#include "accel/engine.h"
#include "accel/paravirt.h"
#include "base/result.h"
#include "bt/runner.h"
#include "bus/cpu_events.h"
#include "interp/environment.h"
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

class SoftEngine final : public Engine, private interp::Environment {
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
  DebugStop debug_stop_of(const interp::DebugStop& stop) const;

  // interp::Environment
  uint32_t port_read(uint16_t port, unsigned size) override;
  void port_write(uint16_t port, unsigned size, uint32_t value) override;
  uint64_t tsc() override;
  void tsc_changed() override;
  const x86::VcpuInfo& vcpu_info() const override { return context_.info; }
  uint8_t cr8() override { return context_.interrupts.cr8(); }
  void set_cr8(uint8_t value) override { context_.interrupts.set_cr8(value); }
  std::optional<uint64_t> read_msr(uint32_t index) override;
  bool write_msr(uint32_t index, uint64_t value) override;
  uint64_t hypercall(const x86::Hypercall& call) override;
  std::optional<uint8_t> acknowledge_interrupt() override;
  void fpu_error() override { context_.fpu_error(); }

  SoftContext context_;
  x86::CpuState own_state_;
  x86::CpuState& state_;
  mmu::SoftMmu mmu_;
  memory::AddressSpace::Reader ports_;
  interp::Interpreter interpreter_;
  std::unique_ptr<bt::Runner> runner_;
  DebugRequest debug_;
  DebugStop debug_stop_;
  bool bound_ = false;
  bool parked_ = true;  // others may think that this vCPU does not run
};

}  // namespace ostler::accel
