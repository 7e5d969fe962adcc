// Host code that runs in place of the interpreter where it can: the translator. The interpreter keeps the run
// loop: it takes what is pending, delivers exceptions, and executes what the translator leaves to it.
#pragma once

#include <cstdint>

#include "x86/exception.h"
#include "x86/instruction.h"

namespace ostler::interp {

class Cpu;

enum class NativeExit : uint8_t {
  kLook,       // something is pending, or the mode has changed: go round the run loop
  kInterpret,  // the instruction at RIP is for the interpreter, then come back
  kRaise,      // the instruction at RIP raises raised()
};

class Native {
 public:
  virtual ~Native() = default;
  // Whether run() knows code of the present mode: code size and segments.
  virtual bool takes(const Cpu& cpu) const = 0;
  // Runs guest code from CpuState::rip on the vCPU's thread until there is something else to do. What the
  // guest raises comes back as kRaise; only what is rare is thrown, because unwinding costs more than the
  // handler of a page fault. Called when it takes() the mode, without TF, breakpoints, alignment checks or
  // anything pending.
  // `interrupt_waits`: one that IF or its like does not let through; who changes that must leave it to the
  // interpreter.
  virtual NativeExit run(Cpu& cpu, bool interrupt_waits) = 0;
  // After kRaise, with CpuState complete and RIP at the faulting instruction.
  virtual const x86::Exception& raised() const = 0;
  // Before the interpreter executes `insn`, and before CpuState is looked at from outside: x87 and MXCSR
  // state that is held in the host's registers goes to CpuState where the instruction may use it.
  virtual void before(const x86::Instruction& insn) = 0;
  virtual void settle() = 0;
  // CpuState was replaced: the host's registers hold nothing.
  virtual void state_changed() = 0;
};

}  // namespace ostler::interp
