#include "bt/host_fault.h"

#include <csignal>
#include <cstdlib>
#include <memory>
#include <mutex>

#include "bt/runner.h"

namespace ostler::bt {
namespace {

thread_local constinit Runner* current = nullptr;

constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
struct sigaction previous[std::size(kSignals)];

void on_signal(int signal, siginfo_t* info, void* context) {
  if (current != nullptr && current->host_fault(signal, context, reinterpret_cast<uint64_t>(info->si_addr)))
    return;
  // Not ours: as if we were not here.
  for (unsigned i = 0; i < std::size(kSignals); ++i) {
    if (kSignals[i] != signal) continue;
    const struct sigaction& before = previous[i];
    if ((before.sa_flags & SA_SIGINFO) != 0 && before.sa_sigaction != nullptr) {
      before.sa_sigaction(signal, info, context);
    } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
      before.sa_handler(signal);
    } else {
      struct sigaction standard {};
      standard.sa_handler = SIG_DFL;
      sigaction(signal, &standard, nullptr);  // the instruction faults again
    }
  }
}

void install() {
  struct sigaction action {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  for (unsigned i = 0; i < std::size(kSignals); ++i) sigaction(kSignals[i], &action, &previous[i]);
}

// Translated code runs on a stack of return addresses, where no signal frame may go.
class SignalStack {
 public:
  static constexpr size_t kSize = 64 * 1024;
  SignalStack() : memory_(std::make_unique<std::byte[]>(kSize)) {
    stack_t stack{};
    stack.ss_sp = memory_.get();
    stack.ss_size = kSize;
    sigaltstack(&stack, nullptr);
  }
  ~SignalStack() {
    stack_t off{};
    off.ss_flags = SS_DISABLE;
    sigaltstack(&off, nullptr);
  }

 private:
  std::unique_ptr<std::byte[]> memory_;
};

}  // namespace

void set_current_runner(Runner* runner) {
  static std::once_flag once;
  std::call_once(once, install);
  thread_local const SignalStack stack;
  static_cast<void>(stack);
  current = runner;
}

}  // namespace ostler::bt
