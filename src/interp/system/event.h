// One event on its way through the IVT or IDT.
#pragma once

#include <cstdint>
#include <optional>

#include "x86/exception.h"

namespace ostler::interp {

class Cpu;

enum class Source : uint8_t {
  kHardware,  // exceptions, external interrupts, NMI: EXT is set in error codes of faults on the way
  kSoftware,  // INT n, INT3, INTO: the gate's DPL is checked
  kIcebp,     // INT1: neither checked nor the program's own doing
};

struct Event {
  uint8_t vector = 0;
  Source source = Source::kHardware;
  bool has_error = false;
  uint32_t error = 0;
  uint64_t return_rip = 0;
  bool resume_flag = false;  // RF in the pushed flags: faults
};

// Makes the handler's first instruction the next one. Throws with the state unchanged. Behind a task gate the
// switch cannot be undone: what the new task's first steps raise is returned, and belongs to it (s.rip is its
// EIP).
[[nodiscard]] std::optional<x86::Exception> deliver_event(Cpu& cpu, const Event& event);

}  // namespace ostler::interp
