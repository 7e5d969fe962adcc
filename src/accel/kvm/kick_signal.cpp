#include "accel/kvm/kick_signal.h"

#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>

namespace ostler::accel::kvm {
namespace {

int kick_signal() {
  return SIGRTMIN;
}

}  // namespace

Result<void> install_kick_signal() {
  struct sigaction action {};
  action.sa_handler = [](int) {};
  action.sa_flags = SA_RESTART;  // KVM_RUN itself is never restarted
  sigemptyset(&action.sa_mask);
  if (sigaction(kick_signal(), &action, nullptr) != 0) return errno_error("sigaction", errno);
  return {};
}

int kernel_thread_id() {
  return static_cast<int>(syscall(SYS_gettid));
}

void send_kick(int thread) {
  if (thread != 0) syscall(SYS_tgkill, getpid(), thread, kick_signal());
}

DelayedKick::DelayedKick(int64_t nanoseconds) {
  sigevent event{};
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = kick_signal();
  event._sigev_un._tid = kernel_thread_id();
  static_assert(sizeof(timer_t) == sizeof timer_);
  made_ = timer_create(CLOCK_MONOTONIC, &event, &timer_) == 0;
  if (!made_) return;
  itimerspec when{};
  // Again and again: one that comes before KVM_RUN is lost.
  when.it_value = {.tv_sec = nanoseconds / 1'000'000'000, .tv_nsec = nanoseconds % 1'000'000'000};
  when.it_interval = when.it_value;
  timer_settime(timer_, 0, &when, nullptr);
}

DelayedKick::~DelayedKick() {
  if (made_) timer_delete(timer_);
}

}  // namespace ostler::accel::kvm
