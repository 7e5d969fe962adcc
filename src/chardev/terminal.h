// The user's terminal in raw mode, put back whatever ends the process: destruction, exit(), or a signal that
// kills it. One at a time.
#pragma once

#include <termios.h>

namespace ostler::chardev {

class RawTerminal {
 public:
  // Does nothing when `fd` is no terminal or belongs to another foreground job. `keep_signals`: Ctrl-C and
  // Ctrl-Z act on this process rather than on the guest.
  RawTerminal(int fd, bool keep_signals);
  ~RawTerminal();
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;

  bool active() const { return active_; }

 private:
  bool active_ = false;
};

}  // namespace ostler::chardev
