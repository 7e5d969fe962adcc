// The interpreter beside KVM: runs the instruction that KVM cannot run, and those behind it while KVM would
// not get far. On the vCPU's thread, which is outside KVM_RUN, with CpuState complete and settled before and
// after.
//
// Nothing that it has decoded or looked up outlives a call: other vCPUs write to memory under KVM, which
// tells the interpreter nothing. Within a call they may, as on a processor that has not serialized: a stretch
// ends when another vCPU interrupts this one (stop()), and that is how guests change code and page tables of
// others.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>

#include "accel/debug.h"
#include "accel/soft/machine_environment.h"
#include "interp/interpreter.h"
#include "mmu/code_pages.h"
#include "mmu/soft_mmu.h"
#include "x86/cpu_model.h"
#include "x86/opcode.h"

namespace ostler::accel::kvm {

class Fallback {
 public:
  struct Context {
    unsigned index;  // of the vCPU
    const x86::CpuModel& model;
    memory::AddressSpace& memory;
    mmu::CodePages& code;
    MachineEnvironment::Context machine;
  };
  enum class Outcome : uint8_t {
    kDone,      // at least one instruction; CpuState::activity may be kHalted or kShutdown
    kDebug,     // debug_stop() tells
    kNotKnown,  // nothing has happened: the interpreter does not know the instruction either
  };

  Fallback(x86::CpuState& state, Context context);
  ~Fallback();
  Fallback(const Fallback&) = delete;
  Fallback& operator=(const Fallback&) = delete;

  // The instruction at RIP with all that belongs to it: its exceptions, traps and breakpoints. No interrupt
  // is delivered.
  Outcome run_one(const DebugRequest& debug);
  // About so many more, or until stop(), HLT, or what `debug` wants. After run_one(), before anything else
  // changes CpuState.
  Outcome run_on(const DebugRequest& debug, int64_t instructions);
  void stop() { interpreter_.request_exit(); }  // any thread: the run_on() that runs, or the next one
  const DebugStop& debug_stop() const { return debug_stop_; }

 private:
  Outcome outcome_of(interp::Exit exit, const DebugRequest& debug);
  void deliver();
  std::string most() const;

  const unsigned index_;
  x86::CpuState& state_;
  mmu::SoftMmu mmu_;
  MachineEnvironment environment_;
  interp::Interpreter interpreter_;
  DebugStop debug_stop_;
  uint64_t calls_ = 0;
  std::array<uint64_t, static_cast<size_t>(x86::Opcode::kCount)> failed_{};  // by opcode
};

// How many instructions the interpreter runs each time that KVM fails: one, and twice as many as last time
// when KVM had not run for long in between. So a KVM that lacks one instruction in a million is left alone,
// and one that lacks every third does not hand over its state for each.
class Stretch {
 public:
  static constexpr int64_t kSoon = 200'000;  // ns
  static constexpr int64_t kMost = 16384;    // instructions
  // KVM has failed at `now`, in nanoseconds.
  int64_t next(int64_t now) {
    length_ = now - ended_ < kSoon ? std::min(2 * length_, kMost) : 1;
    return length_;
  }
  void ended(int64_t now) { ended_ = now; }

 private:
  int64_t length_ = 1;
  int64_t ended_ = INT64_MIN / 2;
};

}  // namespace ostler::accel::kvm
