// What runs one vCPU's guest code: the interpreter, with or without the translator, or KVM.
#pragma once

#include <cstdint>

#include "accel/debug.h"

namespace ostler::x86 {
struct CpuState;
}
namespace ostler::state {
class Archive;
}

namespace ostler::accel {

enum class VcpuExit : uint8_t {
  kStopped,   // kick() or an INIT, SIPI or SMI wants attention
  kHalted,    // HLT with nothing to wake it: CpuState::activity is kHalted
  kShutdown,  // triple fault
  kDebug,     // what set_debug() asked for has happened: debug_stop()
};

class Engine {
 public:
  virtual ~Engine() = default;
  // Runs guest code on the calling thread until there is a reason to stop.
  virtual VcpuExit run() = 0;
  // ---- any thread; cheap; nothing is lost however it is timed ----
  virtual void kick() = 0;               // run() returns soon, also if it is called only afterwards
  virtual void interrupt_changed() = 0;  // look at CpuInterrupts::pending() before the next block
  virtual void nmi() = 0;
  // ---- on the vCPU's thread, or while it is paused ----
  virtual x86::CpuState& cpu_state() = 0;
  virtual void reset(bool init) = 0;  // SDM 3A §9.1
  // run() itself sleeps while the vCPU is halted or waits for a SIPI.
  virtual bool waits_itself() const { return false; }
  // The state of the vCPU's local APIC was changed from outside, while it is paused.
  virtual void apic_loaded() {}
  virtual bool wants_wakeup() = 0;  // although the vCPU is halted, run() would find something to look at
  virtual void state_loaded() = 0;  // cpu_state() was changed from outside: forget everything derived from it
  virtual void state(state::Archive& archive) = 0;
  virtual void set_debug(const DebugRequest& request) = 0;  // replaces the last one; kept over resets
  virtual const DebugStop& debug_stop() const = 0;
  // Retired so far; any thread, approximate while running. The translator counts only those that it leaves to
  // the interpreter, and KVM none.
  virtual uint64_t instructions() const = 0;
};

}  // namespace ostler::accel
