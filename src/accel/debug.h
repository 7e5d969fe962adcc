// What a debugger outside the guest asks of one vCPU, on every accelerator: single steps, breakpoints and
// watchpoints by guest-linear address. None of it touches the guest's memory, its debug registers or its TF.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace ostler::accel {

enum class BreakpointKind : uint8_t {
  kSoftware,  // before the instruction at the address; as many as one likes
  kHardware,  // the same; an accelerator may have few
  kWrite,     // after an instruction that wrote any of the bytes
  kRead,
  kAccess,  // read or wrote
};

struct Breakpoint {
  BreakpointKind kind = BreakpointKind::kSoftware;
  uint64_t address = 0;  // guest-linear
  uint64_t length = 1;   // bytes, for watchpoints; address + length - 1 does not wrap around

  bool watches_data() const { return kind >= BreakpointKind::kWrite; }
  friend bool operator==(const Breakpoint&, const Breakpoint&) = default;
};

struct DebugRequest {
  // One instruction, or one iteration of a repeated one. Interrupts are held off meanwhile, unless the vCPU
  // is halted: then the step is the delivery of the interrupt that wakes it.
  bool single_step = false;
  std::vector<Breakpoint> breakpoints;
};

// Why run() ended with VcpuExit::kDebug.
struct DebugStop {
  std::optional<BreakpointKind> hit;  // none: the single step is done
  uint64_t address = 0;               // guest-linear: the breakpoint's, or of the first watched byte accessed
};

}  // namespace ostler::accel
