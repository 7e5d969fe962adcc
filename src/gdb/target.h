// The guest as the remote protocol sees it. The machine implements it; all calls come on the event loop's
// thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "accel/debug.h"

namespace ostler::x86 {
struct CpuState;
}

namespace ostler::gdb {

enum class Run : uint8_t { kStay, kContinue, kStep };  // of one vCPU

class Target {
 public:
  virtual ~Target() = default;
  virtual size_t cpu_count() const = 0;
  virtual bool running() const = 0;

  // ---- while the guest stands ----
  virtual x86::CpuState& cpu_state(size_t cpu) = 0;
  virtual void cpu_state_changed(size_t cpu) = 0;  // by the debugger
  virtual uint8_t cr8(size_t cpu) = 0;             // 0 to 15
  virtual void set_cr8(size_t cpu, uint8_t value) = 0;
  // Guest-linear, see mmu::Inspector.
  virtual size_t read_memory(size_t cpu, uint64_t linear, std::span<std::byte> out) = 0;
  virtual bool write_memory(size_t cpu, uint64_t linear, std::span<const std::byte> in) = 0;
  // `runs`: one for each vCPU. Ends with Session::stopped().
  virtual void resume(std::span<const Run> runs, std::span<const accel::Breakpoint> breakpoints) = 0;
  virtual void reset() = 0;

  // ---- any time ----
  virtual void stop() = 0;             // returns when no vCPU runs
  virtual void release(bool run) = 0;  // nothing is wanted any more; the guest runs, or stands
  virtual void quit() = 0;             // ends the program
};

}  // namespace ostler::gdb
