// Executes one instruction in the interpreter, as 64-bit user-mode code in a small machine whose page tables
// map the addresses of machine_state.h as the host runner does.
#pragma once

#include <memory>
#include <string>

#include "machine_state.h"

namespace ostler::differential {

class GuestRunner {
 public:
  // `cpu`: as -cpu spells it.
  explicit GuestRunner(const std::string& cpu = "max");
  ~GuestRunner();

  Outcome run(const TestCase& test);

 private:
  struct Machine;
  std::unique_ptr<Machine> machine_;
};

}  // namespace ostler::differential
