// The terminal, or whatever standard input and output are.
#include <fcntl.h>
#include <unistd.h>

#include "chardev/backends.h"
#include "chardev/fd_channel.h"
#include "chardev/terminal.h"

namespace ostler::chardev {
namespace {

// A terminal takes this much once poll() says that it is writable; a pipe takes 4096. The descriptors are
// shared with the shell and must not be made non-blocking.
constexpr size_t kChunk = 256;

// A shell may start us with `<&-`.
int if_open(int fd) {
  return ::fcntl(fd, F_GETFD) >= 0 ? fd : -1;
}

class Stdio final : public FdChannel {
 public:
  Stdio(event::Loop& loop, bool signals) : FdChannel(loop), terminal_(STDIN_FILENO, signals) {
    connect(if_open(STDIN_FILENO), if_open(STDOUT_FILENO), kChunk);
  }
  ~Stdio() override { disconnect(); }

 private:
  RawTerminal terminal_;
};

}  // namespace

Result<std::unique_ptr<CharBackend>> make_stdio(event::Loop& loop, const Options& options) {
  return std::unique_ptr<CharBackend>(std::make_unique<Stdio>(loop, options.signals));
}

}  // namespace ostler::chardev
