// A machine that runs clockwork.S, driven from the test's thread: the machine's loop has a thread of its own,
// as in the program, and what the loop's thread must do is sent there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "machine/machine.h"
#include "support/temp_folder.h"

namespace ostler::machine {

struct Clockwork {
  std::string machine = "pc";
  unsigned cpus = 1;
  std::string kernel_irqchip{};  // as in -machine, and with KVM; empty: the tests' engine
  char at_step_50 = 'r';         // clockwork.S
  bool reboot = true;
  std::vector<config::Device> devices{};
  std::string gdb_socket{};  // path; empty: no debugger
  bool paused = false;       // -S
};

class ClockworkGuest {
 public:
  // The words that the guest keeps, by their offsets in clockwork.S.
  enum Word : uint64_t { kSteps = 0, kTscErrors = 8, kStray = 40, kRounds = 64 };

  explicit ClockworkGuest(const Clockwork& options);
  ~ClockworkGuest();

  Machine& machine() { return *machine_; }
  bool built() const { return machine_ != nullptr; }

  // ---- before start(), or while the loop is stopped: the caller is the loop's thread ----
  void start();  // the loop's thread; the guest runs
  // ---- while the loop runs ----
  void on_loop(const std::function<void()>& action);  // returns when it is done
  void pause();                                       // and everything written before is in output()
  void wait_for_steps(uint32_t steps);                // that many more; a guest that stopped stays here
  int wait_for_end();                                 // the program's exit status

  uint32_t word(uint64_t offset) const;
  std::vector<uint8_t> output() const;  // all that came out of COM1

 private:
  const test::TempFolder folder_;
  const std::string path_ = folder_ / "output";
  std::unique_ptr<Machine> machine_;
  std::thread thread_;
  int status_ = -1;
};

// The first `count` bytes that the guest writes after it started.
std::vector<uint8_t> expected_output(size_t count);

}  // namespace ostler::machine
