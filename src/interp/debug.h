// What a debugger outside the guest wants of one vCPU. The guest's debug registers, its TF and its memory
// have no part in it, so the guest cannot tell.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "mmu/watch.h"

namespace ostler::interp {

struct DebugRequest {
  bool step = false;  // one instruction, or one iteration of a repeated one, with interrupts held off
  std::vector<uint64_t> breakpoints;  // guest-linear addresses of instructions, ascending
  std::vector<mmu::Watch> watches;

  bool breaks_at(uint64_t linear) const {
    return !breakpoints.empty() && std::binary_search(breakpoints.begin(), breakpoints.end(), linear);
  }
};

struct DebugStop {
  enum class Reason : uint8_t {
    kNone,
    kStep,        // the instruction, or the delivery of an interrupt or exception, is done
    kBreakpoint,  // RIP is at a breakpoint, whose instruction has not begun
    kWatch,       // the instruction that made the access is done
  };
  Reason reason = Reason::kNone;
  uint64_t address = 0;  // guest-linear: of the breakpoint, or of the first watched byte accessed
  mmu::Access access = mmu::Access::kRead;  // kWatch
};

}  // namespace ostler::interp
