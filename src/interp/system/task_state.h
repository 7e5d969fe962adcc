// The task state segment: inner stacks and hardware task switching (SDM 3A §8).
#pragma once

#include <cstdint>
#include <optional>

#include "interp/system/descriptors.h"

namespace ostler::interp {

// The stack for privilege level `level` from the current 16- or 32-bit TSS, checked; #TS or #SS when it is no
// good.
Stack inner_stack(Cpu& cpu, unsigned level);
// RSP for privilege level `level`, or of interrupt stack table entry `ist` (1..7), from the 64-bit TSS.
uint64_t inner_rsp(Cpu& cpu, unsigned level);
uint64_t ist_rsp(Cpu& cpu, unsigned ist);

enum class TaskSwitch : uint8_t {
  kJump,
  kCall,    // CALL, interrupts and exceptions: the old task stays busy, the new one is nested
  kReturn,  // IRET with NT
};

// Switches to the task of TSS `selector`, already read into `found`. `return_rip` and `extra_flags` (RF) are
// what the old task resumes with. Throws while the old task is still whole; what fails after that belongs to
// the new task (s.rip is its EIP) and is returned.
std::optional<x86::Exception> switch_task(Cpu& cpu, TaskSwitch kind, x86::Selector selector,
                                          const Found& found, uint64_t return_rip, uint64_t extra_flags);
// For instructions: delivers what switch_task() returns.
void switch_task_and_deliver(Cpu& cpu, TaskSwitch kind, x86::Selector selector, const Found& found,
                             uint64_t return_rip);

// Checks a TSS descriptor for a switch by JMP, CALL or a task gate: `vector` for what is wrong with it.
void check_available_tss(x86::Selector selector, const x86::Descriptor& descriptor, x86::Vector vector);

}  // namespace ostler::interp
