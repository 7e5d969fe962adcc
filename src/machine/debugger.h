// A machine under a debugger: what src/gdb asks of a guest, done with the machine's vCPUs and memory. On the
// loop's thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "accel/debug.h"
#include "chardev/char_backend.h"
#include "gdb/stub.h"
#include "gdb/target.h"
#include "mmu/inspect.h"

namespace ostler::machine {

class Core;
class Machine;

class Debugger final : private gdb::Target {
 public:
  // Before the vCPUs start. `runs`: whether the guest is to run when the machine does. A client that is there
  // already keeps it standing.
  Debugger(Machine& machine, chardev::CharBackend& backend, bool runs);
  ~Debugger() override;

  bool connected() { return stub_.session() != nullptr; }
  // The machine tells what others did.
  void run_state_changed(bool running);
  void program_ends(int status);

 private:
  // gdb::Target
  size_t cpu_count() const override;
  bool running() const override;
  x86::CpuState& cpu_state(size_t cpu) override;
  void cpu_state_changed(size_t cpu) override;
  uint8_t cr8(size_t cpu) override;
  void set_cr8(size_t cpu, uint8_t value) override;
  size_t read_memory(size_t cpu, uint64_t linear, std::span<std::byte> out) override;
  bool write_memory(size_t cpu, uint64_t linear, std::span<const std::byte> in) override;
  void resume(std::span<const gdb::Run> runs, std::span<const accel::Breakpoint> breakpoints) override;
  void reset() override;
  void stop() override;
  void release(bool run) override;
  void quit() override;

  void vcpu_stopped(size_t cpu);
  mmu::Inspector inspector(size_t cpu) const;

  Machine& machine_;
  Core& core_;
  bool run_at_start_;
  bool acting_ = false;  // what the machine tells now is our own doing
  bool ending_ = false;
  gdb::Stub stub_;  // last: it may call all of the above
};

}  // namespace ostler::machine
