#include "memory/missing_page.h"

#include <unistd.h>

#include <csignal>
#include <string_view>

namespace ostler::memory {
namespace {

constexpr std::string_view kNoRoom =
    "ostler: the host has no page for memory that the guest uses: its file (-mem-path, "
    "memory-backend-file) was cut off, or its file system is full; -mem-prealloc or prealloc=on takes all "
    "at the start\n";
constexpr std::string_view kBroken =
    "ostler: the host's memory has lost a page that the guest uses; look for hardware errors in the host's "
    "log\n";

// Only what a signal handler may call.
void on_missing_page(int signal, siginfo_t* info, void*) {
  const bool broken = info->si_code == BUS_MCEERR_AR || info->si_code == BUS_MCEERR_AO;
  if (info->si_code == BUS_ADRERR || broken) {
    const std::string_view text = broken ? kBroken : kNoRoom;
    if (::write(STDERR_FILENO, text.data(), text.size()) < 0) {
      // There is nobody to tell.
    }
  }
  struct sigaction standard {};
  standard.sa_handler = SIG_DFL;
  sigaction(signal, &standard, nullptr);  // the access faults again
}

}  // namespace

void explain_missing_pages() {
  struct sigaction action {};
  action.sa_sigaction = on_missing_page;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGBUS, &action, nullptr);
}

}  // namespace ostler::memory
