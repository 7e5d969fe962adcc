// `-accel bt,check=N`: runs blocks on the interpreter as well and compares what both made of the state and of
// memory. For one running vCPU: another one's writes would look like differences.
#pragma once

#include <cstdint>
#include <optional>

#include "bt/guest_code.h"
#include "interp/interpreter.h"
#include "mmu/write_recorder.h"
#include "x86/exception.h"
#include "x86/host_cpu.h"
#include "x86/state.h"

namespace ostler::bt {

class Checker {
 public:
  explicit Checker(interp::Interpreter& interpreter) : interpreter_(interpreter) {}

  // Runs the block on the interpreter, remembers the outcome, and puts everything back. False: it cannot be
  // checked.
  bool before(const GuestCode& code);
  // After the translation ran from the same state. `fault`: what it raised. `flags`: the arithmetic flags
  // that are to be compared. Ends the program with a report when the two differ.
  void after(const GuestCode& code, const std::optional<x86::Exception>& fault, uint16_t flags);

  uint64_t checked() const { return checked_; }

 private:
  interp::Interpreter& interpreter_;
  mmu::WriteRecorder recorder_;
  x86::CpuState start_, expected_;
  std::optional<x86::Exception> fault_;
  // Flags are in the translation what this host makes of them. The interpreter does as Intel's processors do
  // where the manual says nothing; others keep what was there, which may be what the translation's own checks
  // left.
  const bool exact_ = x86::HostCpu::current().vendor == "GenuineIntel";
  uint16_t undefined_ = 0;  // at the end of what the interpreter ran
  uint64_t checked_ = 0;
};

}  // namespace ostler::bt
