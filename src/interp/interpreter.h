// The interpreter of one vCPU: runs guest code until something outside has to be done. Constructed and run on
// the vCPU's thread; request_exit() and post() from any thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "interp/block_cache.h"
#include "interp/cpu.h"
#include "interp/environment.h"
#include "interp/native.h"

namespace ostler::state {
class Archive;
}

namespace ostler::interp {

enum class Exit : uint8_t {
  kBudget,    // the given number of instructions were executed
  kStop,      // request_exit()
  kHalted,    // HLT (or MWAIT) and nothing deliverable is pending: wait for post(), then run() again
  kShutdown,  // triple fault
  kEvent,     // INIT, SIPI or SMI is pending: take_events(), change the state, state_changed(), run() again
  kWaitForSipi,  // after INIT, until a SIPI
  kDebug,        // debug_stop() tells what a debugger outside the guest waited for
  kException,    // stop_on_exceptions(): exception() was raised by the instruction at RIP and not delivered
};

class Interpreter {
 public:
  // Everything passed must outlive the interpreter. `cache_bytes`: for decoded code, 64 KiB or more.
  Interpreter(x86::CpuState& state, mmu::SoftMmu& mmu, Environment& environment, const x86::CpuModel& model,
              size_t cache_bytes = size_t{4} << 20, std::atomic<uint32_t>* pending = nullptr);
  ~Interpreter();

  // Executes about `max_instructions` (exact to a block) or until one of the other reasons. The state is then
  // complete and consistent between two instructions.
  Exit run(int64_t max_instructions = INT64_MAX / 2);

  // Runs the code that it takes from now on; outlives the interpreter's last run(). Null: none.
  void set_native(Native* native) { native_ = native; }

  // CpuState was changed from outside (reset, restored, INIT): drops everything derived from it.
  void state_changed();
  void reset();  // the same, and an NMI that waits is forgotten; the vCPU is paused or on its own thread

  // ---- any thread ----
  void request_exit() { cpu_.post(pending::kStop); }
  void post(uint32_t bits) { cpu_.post(bits); }
  // ---- on the vCPU's thread ----
  // A halted vCPU may go on: an NMI, or an interrupt that IF allows, was posted and not yet taken.
  bool wants_wakeup() const;
  void state(state::Archive& archive);

  // The INIT, SIPI and SMI bits of pending:: that were posted, and takes them back.
  uint32_t take_events();

  // For checking other engines: executes the instruction at RIP and nothing else. Exceptions are thrown, with
  // RIP at the instruction. On the vCPU's thread, while it runs.
  void execute_one();

  // For tests and debuggers: exceptions end run() instead of being delivered to the guest.
  void stop_on_exceptions(bool stop) { stop_on_exceptions_ = stop; }
  const x86::Exception& exception() const { return exception_; }

  // For a debugger outside the guest; the vCPU is paused, or on its own thread. run() then ends with kDebug
  // at each of these, before a breakpoint and after a step or a watched access. A breakpoint at RIP ends it
  // at once.
  void set_debug(DebugRequest request);
  bool debugged() const { return debugged_; }  // anything of these is wanted
  const DebugStop& debug_stop() const { return debug_stop_; }

  // Instructions executed so far. Any thread; while running, as of the last time the dispatcher was passed.
  uint64_t retired() const { return published_.load(std::memory_order_relaxed); }
  Cpu& cpu() { return cpu_; }
  const BlockCache& cache() const { return cache_; }

 private:
  bool needs_attention() const;
  std::optional<Exit> attend();
  bool deliver_pending();
  std::optional<Exit> run_blocks();
  void step();
  void run_block(Block* block);
  void interpret_one();
  Exit stop_for_debugger(DebugStop stop);
  std::optional<Exit> watched_access();
  void forget_watched_access();
  uint64_t linear_rip() const;
  void handle(const x86::Exception& exception);
  void count_unfinished(bool faulted);

  Cpu cpu_;
  BlockCache cache_;
  void publish() {
    published_.store(retired_before_ + static_cast<uint64_t>(budget_given_ - cpu_.budget),
                     std::memory_order_relaxed);
  }

  Native* native_ = nullptr;
  std::atomic<uint64_t> published_{0};
  uint64_t retired_before_ = 0;  // when run() was called
  int64_t budget_given_ = 0;
  // Seen in pending_ but masked: looked at again whenever the dispatcher runs.
  bool interrupt_waiting_ = false;
  bool nmi_waiting_ = false;
  bool stop_on_exceptions_ = false;
  bool stopped_ = false;
  x86::Exception exception_{};
  bool debugged_ = false;
  DebugStop debug_stop_;
};

}  // namespace ostler::interp
