#include "chardev/terminal.h"

#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <cstdlib>

namespace ostler::chardev {
namespace {

// What signal handlers use: plain data that is complete before `saved_fd` says so.
std::atomic<int> saved_fd{-1};
termios saved_mode;
termios raw_mode;

constexpr std::array kFatal = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL};

void restore() {
  const int fd = saved_fd.load(std::memory_order_acquire);
  if (fd >= 0) tcsetattr(fd, TCSANOW, &saved_mode);  // async-signal-safe
}

void restore_and_die(int signal) {
  restore();
  // The handler was installed with SA_RESETHAND: the signal now does what it would have done without us.
  raise(signal);
}

void continued(int) {
  const int fd = saved_fd.load(std::memory_order_acquire);
  if (fd >= 0 && tcgetpgrp(fd) == getpgrp()) tcsetattr(fd, TCSANOW, &raw_mode);
}

void install(int signal, void (*handler)(int), int flags) {
  struct sigaction before {};
  if (sigaction(signal, nullptr, &before) != 0 || before.sa_handler != SIG_DFL)
    return;  // someone takes care of it
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = flags;
  sigemptyset(&action.sa_mask);
  sigaction(signal, &action, nullptr);
}

void install_handlers() {
  static bool once = false;
  if (once) return;
  once = true;
  std::atexit(restore);
  for (const int signal : kFatal)
    install(signal, restore_and_die, static_cast<int>(SA_RESETHAND | SA_NODEFER));
  install(SIGCONT, continued, SA_RESTART);
}

}  // namespace

RawTerminal::RawTerminal(int fd, bool keep_signals) {
  if (saved_fd.load() >= 0 || isatty(fd) == 0 || tcgetpgrp(fd) != getpgrp()) return;
  if (tcgetattr(fd, &saved_mode) != 0) return;
  raw_mode = saved_mode;
  raw_mode.c_iflag &=
      ~static_cast<tcflag_t>(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
  raw_mode.c_lflag &= ~static_cast<tcflag_t>(ECHO | ECHONL | ICANON | IEXTEN | (keep_signals ? 0 : ISIG));
  raw_mode.c_cflag = (raw_mode.c_cflag & ~static_cast<tcflag_t>(CSIZE | PARENB)) | CS8;
  raw_mode.c_cc[VMIN] = 1;
  raw_mode.c_cc[VTIME] = 0;
  saved_fd.store(fd, std::memory_order_release);
  install_handlers();
  active_ = tcsetattr(fd, TCSANOW, &raw_mode) == 0;
  if (!active_) saved_fd.store(-1);
}

RawTerminal::~RawTerminal() {
  if (!active_) return;
  restore();
  saved_fd.store(-1, std::memory_order_release);
}

}  // namespace ostler::chardev
