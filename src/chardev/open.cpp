#include "chardev/open.h"

#include <csignal>

#include "chardev/backends.h"
#include "chardev/logged.h"

namespace ostler::chardev {
namespace {

Result<std::unique_ptr<CharBackend>> open_plain(event::Loop& loop, const Options& options) {
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
    case Kind::kUdp:
      return make_udp(loop, options);
    case Kind::kRingBuffer:
      return make_ring(options);
  }
  return Error(ErrorKind::kInvalidArgument, "unknown kind of character device");
}

}  // namespace

Result<std::unique_ptr<CharBackend>> open(event::Loop& loop, const Options& options) {
  std::signal(SIGPIPE, SIG_IGN);  // a reader that leaves is EPIPE to us, not our end
  if (options.log_path.empty()) return open_plain(loop, options);
  // First: a server may wait for its client before it is there.
  TRY_ASSIGN(Fd file, Logged::open_file(options.log_path, options.log_append));
  TRY_ASSIGN(auto inner, open_plain(loop, options));
  return std::unique_ptr<CharBackend>(
      std::make_unique<Logged>(loop, std::move(inner), std::move(file), options.log_path));
}

CharBackend& without_log(CharBackend& backend) {
  auto* logged = dynamic_cast<Logged*>(&backend);
  return logged == nullptr ? backend : logged->inner();
}

const CharBackend& without_log(const CharBackend& backend) {
  const auto* logged = dynamic_cast<const Logged*>(&backend);
  return logged == nullptr ? backend : logged->inner();
}

}  // namespace ostler::chardev
