#include "block/nbd/channel.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <vector>

#include "block/io_context.h"

namespace ostler::block::nbd {
namespace {

class SocketChannel final : public Channel {
 public:
  explicit SocketChannel(Fd socket) : socket_(std::move(socket)) {}

  Task<int> receive(void* to, size_t most) override {
    for (;;) {
      const ssize_t done = recv(socket_.get(), to, std::min<size_t>(most, INT_MAX), MSG_DONTWAIT);
      if (done >= 0) co_return static_cast<int>(done);
      if (errno == EINTR) continue;
      if (errno != EAGAIN && errno != EWOULDBLOCK) co_return -errno;
      const int ready = co_await poll_for(socket_.get(), POLLIN);
      if (ready < 0) co_return ready;
    }
  }

  Task<int> send(Buffers from) override {
    uint64_t sent = 0;
    const uint64_t total = total_bytes(from);
    while (sent != total) {
      const Slice rest(from, sent, total - sent);
      const Buffers pieces = rest;
      msghdr message = {};
      message.msg_iov = const_cast<iovec*>(pieces.data());
      message.msg_iovlen = std::min<size_t>(pieces.size(), IOV_MAX);
      const ssize_t done = sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (done >= 0) {
        sent += static_cast<uint64_t>(done);
        continue;
      }
      if (errno == EINTR) continue;
      if (errno != EAGAIN && errno != EWOULDBLOCK) co_return -errno;
      const int ready = co_await poll_for(socket_.get(), POLLOUT);
      if (ready < 0) co_return ready;
    }
    co_return 0;
  }

  void shutdown() override { ::shutdown(socket_.get(), SHUT_RDWR); }
  int fd() const override { return socket_.get(); }

 private:
  const Fd socket_;
};

// A server that was killed leaves its socket's file.
bool is_left_behind(const sockaddr_un& address) {
  struct stat status;
  if (lstat(address.sun_path, &status) != 0 || !S_ISSOCK(status.st_mode)) return false;
  const Fd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  return connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 &&
         errno == ECONNREFUSED;
}

}  // namespace

std::unique_ptr<Channel> make_socket_channel(Fd socket) {
  fcntl(socket.get(), F_SETFL, fcntl(socket.get(), F_GETFL) | O_NONBLOCK);
  const int on = 1;
  // Replies go out at once; a unix socket has no such option.
  setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(socket.get(), SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  return std::make_unique<SocketChannel>(std::move(socket));
}

Result<Fd> listen_unix(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path)
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("'{}': the path of a unix socket has 1 to {} characters", path,
                             sizeof address.sun_path - 1));
  std::memcpy(address.sun_path, path.c_str(), path.size());
  Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return errno_error("a socket cannot be made", errno);
  const auto bind_it = [&] {
    return bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  };
  int error = bind_it() == 0 ? 0 : errno;
  if (error == EADDRINUSE && is_left_behind(address) && unlink(path.c_str()) == 0)
    error = bind_it() == 0 ? 0 : errno;
  if (error != 0) return errno_error(path + ": a socket cannot be made there", error);
  if (listen(fd.get(), 128) != 0) return errno_error(path + ": cannot listen", errno);
  return fd;
}

Result<std::vector<Fd>> listen_tcp(const std::string& host, uint16_t port) {
  addrinfo hints = {}, *found = nullptr;
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  const bool any = host.empty() || host == "*";
  const int error = getaddrinfo(any ? nullptr : host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (error != 0)
    return Error(ErrorKind::kNotFound, fmt::format("'{}' is no address: {}", host, gai_strerror(error)));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, freeaddrinfo);
  std::vector<Fd> sockets;
  int last = 0;
  for (const addrinfo* each = found; each != nullptr; each = each->ai_next) {
    Fd fd(socket(each->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, each->ai_protocol));
    const int on = 1;
    setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (each->ai_family == AF_INET6) setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    if (!fd || bind(fd.get(), each->ai_addr, each->ai_addrlen) != 0 || listen(fd.get(), 128) != 0) {
      last = errno;
      continue;
    }
    sockets.push_back(std::move(fd));
    if (port == 0) break;  // further addresses would get ports of their own
  }
  if (sockets.empty())
    return errno_error(fmt::format("cannot listen on {}:{}", any ? "*" : host, port), last);
  return sockets;
}

uint16_t port_of(int fd) {
  sockaddr_storage address = {};
  socklen_t size = sizeof address;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return 0;
  if (address.ss_family == AF_INET) return ntohs(reinterpret_cast<const sockaddr_in&>(address).sin_port);
  if (address.ss_family == AF_INET6) return ntohs(reinterpret_cast<const sockaddr_in6&>(address).sin6_port);
  return 0;
}

Task<int> Receiver::read(void* to, size_t bytes) {
  auto* target = static_cast<char*>(to);
  bool first = true;
  while (bytes != 0) {
    if (begin_ != end_) {
      const size_t piece = std::min(bytes, end_ - begin_);
      std::memcpy(target, buffer_ + begin_, piece);
      begin_ += piece;
      target += piece;
      bytes -= piece;
      first = false;
      continue;
    }
    // Large content goes straight to its place.
    const bool direct = bytes >= sizeof buffer_;
    char* const into = direct ? target : buffer_;
    const size_t room = direct ? bytes : sizeof buffer_;
    const int done = co_await channel_->receive(into, room);
    if (done < 0) co_return done;
    if (done == 0) co_return first ? -ENODATA : -ECONNRESET;
    first = false;
    const auto count = static_cast<size_t>(done);
    if (direct) {
      target += count;
      bytes -= count;
    } else {
      begin_ = 0;
      end_ = count;
    }
  }
  co_return 0;
}

Task<int> Receiver::skip(uint64_t bytes) {
  char scratch[4096];
  while (bytes != 0) {
    const size_t piece = std::min<uint64_t>(bytes, sizeof scratch);
    const int error = co_await read(scratch, piece);
    if (error != 0) co_return error;
    bytes -= piece;
  }
  co_return 0;
}

}  // namespace ostler::block::nbd
