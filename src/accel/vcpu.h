// A vCPU: a thread that runs an Engine, sleeps while the guest's processor is halted or paused, and takes
// what the local APIC and the machine ask of it.
//
//            start()          resume()            HLT
//   (built) --------> paused ----------> running -------> halted
//                        ^ <----------      ^ <------------
//                        |    pause()        interrupt, NMI, INIT, SIPI
//                      stop() -> joined
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "accel/engine.h"
#include "base/adaptive_poll.h"
#include "bus/cpu_events.h"

namespace ostler::accel {

class Vcpu final : public bus::CpuEvents {
 public:
  // `triple_fault` is called on the vCPU's thread, which then waits for a reset.
  Vcpu(unsigned index, std::function<void()> triple_fault);
  ~Vcpu() override;

  // Before start(): engines are built with references to their vCPU's events.
  void set_engine(std::unique_ptr<Engine> engine) { engine_ = std::move(engine); }
  Engine& engine() { return *engine_; }
  unsigned index() const { return index_; }

  // ---- control thread ----
  void start();          // creates the thread, paused
  void request_pause();  // returns at once
  void wait_paused();    // until the engine has left guest code
  void resume();         // does nothing while held
  void stop();           // ends and joins the thread
  // While paused: power-on reset. The first vCPU starts at the reset vector, the others wait for SIPI.
  void reset();
  void state(state::Archive& archive);  // while paused
  // For a debugger. `stopped` is called on the vCPU's thread after it paused itself for VcpuExit::kDebug; set
  // before start().
  void set_debug_listener(std::function<void()> stopped) { debug_stopped_ = std::move(stopped); }
  void hold(bool held) { held_ = held; }  // while paused: resume() leaves it so
  // While paused: why it paused itself, if it did and has not been resumed or asked since.
  std::optional<DebugStop> take_debug_stop();

  // ---- bus::CpuEvents, any thread ----
  void interrupt_changed() override;
  void nmi() override;
  void smi() override;
  void init() override;
  void sipi(uint8_t vector) override;
  void unhalt() override;

 private:
  void thread_main();
  void take_events();
  void pause_for_debugger();
  void wait_for_wake();
  void sleep_until_woken();
  bool has_reason_to_wake();
  bool wakes_from_halt();
  void wake();

  static constexpr uint32_t kNothing = 0, kInit = 1u << 8, kSipi = 1u << 9;  // low byte: SIPI vector

  const unsigned index_;
  const std::function<void()> triple_fault_;
  std::function<void()> debug_stopped_;
  std::unique_ptr<Engine> engine_;
  std::thread thread_;
  std::atomic<uint32_t> events_{kNothing};
  std::atomic<bool> unhalt_{false};
  std::atomic<bool> sleeping_{false};
  std::mutex mutex_;  // the following, and both condition variables
  std::condition_variable wake_, paused_cv_;
  std::atomic<bool> pause_{true}, quit_{false};
  AdaptivePoll halt_poll_{200'000};
  bool paused_ = true;
  bool held_ = false;           // control thread
  bool at_debug_stop_ = false;  // written by the vCPU's thread, read while it is paused
};

}  // namespace ostler::accel
