// Executes code on the engine under test, as 64-bit user-mode code in a small machine whose page tables
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

  // `rounds`: how many times in a row, each from the same state; what the engine keeps of the code and of the
  // translations is warm from the second on. The outcome is the last one's; kTimeout after `most`
  // instructions in one round.
  Outcome run(const TestCase& test, unsigned rounds = 1, int64_t most = 100'000);

 private:
  struct Machine;
  Outcome run_once(const TestCase& test, int64_t most);
  std::unique_ptr<Machine> machine_;
};

}  // namespace ostler::differential
