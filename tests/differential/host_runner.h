// Executes one instruction on the host CPU, in this process: all registers are loaded, the instruction runs,
// and the fault that follows (its own, or the filler's behind it) is caught on a signal stack with everything
// it left behind. One runner for each process; single-threaded.
#pragma once

#include "machine_state.h"

namespace ostler::differential {

class HostRunner {
 public:
  // Maps the test addresses and installs signal handlers. Aborts the test program when the addresses are
  // taken.
  HostRunner();
  ~HostRunner();
  HostRunner(const HostRunner&) = delete;
  HostRunner& operator=(const HostRunner&) = delete;

  // The case's instruction must not enter the kernel (SYSCALL, INT), load segment registers or change FS.
  Outcome run(const TestCase& test);
};

}  // namespace ostler::differential
