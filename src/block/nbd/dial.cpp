#include "block/nbd/dial.h"

#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>
#include <memory>

namespace ostler::block::nbd {
namespace {

constexpr int kPauseMilliseconds = 100;

// 0 or an errno.
Result<int> finish_connecting(int fd, const MayWait& may_wait) {
  TRY(wait_for(fd, POLLOUT, may_wait));
  int error = 0;
  socklen_t size = sizeof error;
  if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0) return errno;
  return error;
}

Result<Fd> dial_unix(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return Error(
        ErrorKind::kInvalidArgument,
        fmt::format("the path of a unix socket has at most {} characters", sizeof address.sun_path - 1));
  std::memcpy(address.sun_path, path.c_str(), path.size());
  Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd || connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return errno_error("cannot connect", errno);
  return fd;
}

Result<Fd> dial_tcp(const std::string& host, const std::string& port, const MayWait& may_wait) {
  addrinfo hints = {}, *found = nullptr;
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  if (const int error = getaddrinfo(host.c_str(), port.c_str(), &hints, &found); error != 0)
    return Error(ErrorKind::kNotFound, fmt::format("'{}' is no address: {}", host, gai_strerror(error)));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, freeaddrinfo);
  int last = ENOENT;
  for (const addrinfo* each = found; each != nullptr; each = each->ai_next) {
    Fd fd(socket(each->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, each->ai_protocol));
    if (!fd) {
      last = errno;
      continue;
    }
    int error = connect(fd.get(), each->ai_addr, each->ai_addrlen) == 0 ? 0 : errno;
    if (error == EINPROGRESS) {
      TRY_ASSIGN(error, finish_connecting(fd.get(), may_wait));
    }
    if (error == 0) {
      const int on = 1;
      setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      setsockopt(fd.get(), SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
      return fd;
    }
    last = error;
  }
  return errno_error("cannot connect", last);
}

}  // namespace

Result<void> wait_for(int fd, short events, const MayWait& may_wait) {
  for (;;) {
    TRY(may_wait());
    pollfd entry = {fd, events, 0};
    const int count = poll(&entry, 1, kPauseMilliseconds);
    if (count > 0) return {};
    if (count < 0 && errno != EINTR) return errno_error("cannot wait for a socket", errno);
  }
}

Result<Fd> dial(const Remote& remote, const MayWait& may_wait) {
  if (!remote.path.empty()) return dial_unix(remote.path);
  return dial_tcp(remote.host, remote.port, may_wait);
}

}  // namespace ostler::block::nbd
