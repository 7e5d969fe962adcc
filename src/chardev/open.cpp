#include "chardev/open.h"

#include <csignal>

#include "chardev/backends.h"

namespace ostler::chardev {

Result<std::unique_ptr<CharBackend>> open(event::Loop& loop, const Options& options) {
  std::signal(SIGPIPE, SIG_IGN);  // a reader that leaves is EPIPE to us, not our end
  switch (options.kind) {
    case Kind::kNull:
      return make_null();
    case Kind::kStdio:
      return make_stdio(loop, options);
    case Kind::kFile:
      return make_file(loop, options);
    case Kind::kPipe:
      return make_pipe(loop, options);
    case Kind::kPty:
      return make_pty(loop);
    case Kind::kUnixSocket:
    case Kind::kTcpSocket:
      return make_socket(loop, options);
    case Kind::kRingBuffer:
      return make_ring(options);
  }
  return Error(ErrorKind::kInvalidArgument, "unknown kind of character device");
}

}  // namespace ostler::chardev
