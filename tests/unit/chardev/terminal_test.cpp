#include "chardev/terminal.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>

#include "base/fd.h"

namespace ostler::chardev {
namespace {

constexpr std::array kDeadly = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGABRT, SIGSEGV};

bool is_raw(int fd) {
  termios mode{};
  return tcgetattr(fd, &mode) == 0 && (mode.c_lflag & (ICANON | ECHO)) == 0;
}

// A child on a terminal of its own makes it raw, says so and ends in the way that `end` does.
template <class End>
bool raw_afterwards(End&& end, bool& was_raw) {
  int master = -1, slave = -1;
  if (openpty(&master, &slave, nullptr, nullptr, nullptr) != 0) return true;
  const Fd master_fd(master), slave_fd(slave);
  int ready[2];
  if (pipe(ready) != 0) return true;
  const pid_t child = fork();
  if (child == 0) {
    setsid();
    ioctl(slave, TIOCSCTTY, 0);
    // Sanitizers handle some of these themselves, and RawTerminal leaves handlers of others alone.
    for (const int signal : kDeadly) std::signal(signal, SIG_DFL);
    const RawTerminal terminal(slave, false);
    const char state = is_raw(slave) ? 'r' : 'c';
    [[maybe_unused]] const ssize_t put = ::write(ready[1], &state, 1);
    end();
    _exit(3);
  }
  char state = 0;
  [[maybe_unused]] const ssize_t got = ::read(ready[0], &state, 1);
  was_raw = state == 'r';
  int status = 0;
  waitpid(child, &status, 0);
  ::close(ready[0]);
  ::close(ready[1]);
  return is_raw(slave);
}

TEST(RawTerminal, IsRestoredByEverySignalThatKills) {
  for (const int signal : kDeadly) {
    bool was_raw = false;
    EXPECT_FALSE(raw_afterwards([signal] { raise(signal); }, was_raw)) << signal;
    EXPECT_TRUE(was_raw) << signal;
  }
}

TEST(RawTerminal, IsRestoredAtExit) {
  bool was_raw = false;
  EXPECT_FALSE(raw_afterwards([] { std::exit(0); }, was_raw));
  EXPECT_TRUE(was_raw);
}

TEST(RawTerminal, LeavesOtherDescriptorsAlone) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const RawTerminal terminal(ends[0], false);
  EXPECT_FALSE(terminal.active());
  ::close(ends[0]);
  ::close(ends[1]);
}

}  // namespace
}  // namespace ostler::chardev
