#include "machine/debugger.h"

#include <fmt/format.h>

#include "base/log.h"
#include "devices/chipset/local_apic.h"
#include "machine/core.h"
#include "machine/machine.h"

namespace ostler::machine {
namespace {

// Sets a flag as long as it lives.
class Acting {
 public:
  explicit Acting(bool& flag) : flag_(flag) { flag_ = true; }
  ~Acting() { flag_ = false; }
  Acting(const Acting&) = delete;
  Acting& operator=(const Acting&) = delete;

 private:
  bool& flag_;
};

}  // namespace

Debugger::Debugger(Machine& machine, chardev::CharBackend& backend, bool runs)
    : machine_(machine), core_(machine.core()), run_at_start_(runs), stub_(*this, backend, core_.loop()) {
  for (size_t cpu = 0; cpu < core_.cpu_count(); ++cpu)
    core_.vcpu(cpu).set_debug_listener(
        [this, cpu] { core_.loop().post([this, cpu] { vcpu_stopped(cpu); }); });
}

Debugger::~Debugger() {
  ending_ = true;
}

void Debugger::run_state_changed(bool running) {
  gdb::Session* session = stub_.session();
  if (acting_ || session == nullptr) return;
  if (running)
    session->resumed_by_others();
  else
    session->paused_by_others();
}

void Debugger::program_ends(int status) {
  if (gdb::Session* session = stub_.session()) session->program_ends(status);
}

void Debugger::vcpu_stopped(size_t cpu) {
  // Not if it has gone on since, by a reset.
  const auto stop = core_.vcpu(cpu).take_debug_stop();
  gdb::Session* session = stub_.session();
  if (stop && session != nullptr) session->stopped(cpu, *stop);
}

size_t Debugger::cpu_count() const {
  return core_.cpu_count();
}

bool Debugger::running() const {
  return machine_.started() ? !machine_.paused() : run_at_start_;
}

x86::CpuState& Debugger::cpu_state(size_t cpu) {
  return core_.vcpu(cpu).engine().cpu_state();
}

void Debugger::cpu_state_changed(size_t cpu) {
  core_.vcpu(cpu).engine().state_loaded();
}

uint8_t Debugger::cr8(size_t cpu) {
  return core_.local_apic(cpu).cr8();
}

void Debugger::set_cr8(size_t cpu, uint8_t value) {
  core_.local_apic(cpu).set_cr8(value);
}

mmu::Inspector Debugger::inspector(size_t cpu) const {
  return {core_.vcpu(cpu).engine().cpu_state(), core_.memory(), core_.model().physical_bits(),
          core_.model().has(x86::Feature::kPdpe1gb)};
}

size_t Debugger::read_memory(size_t cpu, uint64_t linear, std::span<std::byte> out) {
  return inspector(cpu).read(linear, out);
}

bool Debugger::write_memory(size_t cpu, uint64_t linear, std::span<const std::byte> in) {
  return inspector(cpu).write(linear, in);
}

void Debugger::resume(std::span<const gdb::Run> runs, std::span<const accel::Breakpoint> breakpoints) {
  const Acting acting(acting_);
  for (size_t cpu = 0; cpu < runs.size(); ++cpu) {
    accel::Vcpu& vcpu = core_.vcpu(cpu);
    vcpu.engine().set_debug({.single_step = runs[cpu] == gdb::Run::kStep,
                             .breakpoints = {breakpoints.begin(), breakpoints.end()}});
    vcpu.hold(runs[cpu] == gdb::Run::kStay);
  }
  machine_.resume();
}

void Debugger::reset() {
  if (const auto done = machine_.reset(); !done) {
    log::warning(fmt::format("the guest cannot be restarted: {}", done.error().message()));
    machine_.quit(1);
  }
}

void Debugger::stop() {
  const Acting acting(acting_);
  machine_.pause();
}

void Debugger::release(bool run) {
  if (ending_) return;
  const Acting acting(acting_);
  machine_.pause();
  for (size_t cpu = 0; cpu < core_.cpu_count(); ++cpu) {
    core_.vcpu(cpu).engine().set_debug({});
    core_.vcpu(cpu).hold(false);
  }
  if (run) machine_.resume();
}

void Debugger::quit() {
  machine_.quit(0);
}

}  // namespace ostler::machine
