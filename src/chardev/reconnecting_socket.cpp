// A client of a unix or TCP socket that connects again when its server has gone, and tries at the start until
// there is one:
//
//     waiting --- N seconds of the host's clock ----> connecting ---> connected
//        ^--------------- refused -----------------------/               |
//        ^--------------- the server has gone ---------------------------/
//
// It waits after a server that has gone too: one that leaves at once would keep the loop's thread otherwise.
// What the guest writes meanwhile is dropped. All on the loop's thread.
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "base/fd.h"
#include "base/log.h"
#include "chardev/backends.h"
#include "chardev/fd_channel.h"

namespace ostler::chardev {
namespace {

constexpr int64_t kNsPerSecond = 1'000'000'000;

int socket_error(const Fd& fd) {
  int error = 0;
  socklen_t size = sizeof error;
  getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size);
  return error;
}

class ReconnectingSocket final : public FdChannel {
 public:
  ReconnectingSocket(event::Loop& loop, const SocketAddress& address, unsigned seconds)
      : FdChannel(loop), address_(address), seconds_(seconds), timer_(loop, [this] { try_to_connect(); }) {
    try_to_connect();
  }
  ~ReconnectingSocket() override {
    if (connecting_) loop().unwatch(connecting_.get());
    disconnect();
  }

 private:
  void try_to_connect() {
    if (connecting_ || peer_) return;
    Fd fd(::socket(address_.get()->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd) return refused(errno);
    if (::connect(fd.get(), address_.get(), address_.size) == 0) return use(std::move(fd));
    if (errno != EINPROGRESS) return refused(errno);
    connecting_ = std::move(fd);
    loop().watch(connecting_.get(), EPOLLOUT, [this](uint32_t) { connecting_done(); });
  }
  void connecting_done() {
    const int error = socket_error(connecting_);
    loop().unwatch(connecting_.get());
    Fd fd = std::move(connecting_);
    if (error != 0) return refused(error);
    use(std::move(fd));
  }
  void use(Fd peer) {
    peer_ = std::move(peer);
    const int yes = 1;
    setsockopt(peer_.get(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);  // fails on unix sockets: no matter
    connect(peer_.get(), peer_.get());
  }
  void refused(int error) {
    // Once: a server that is away for days must not fill the log.
    if (!std::exchange(told_, true))
      log::warning(fmt::format("character device: cannot connect to '{}': {}; it is tried every {} s",
                               address_.text, std::strerror(error), seconds_));
    wait();
  }
  void peer_closed() override {
    disconnect();
    peer_.reset();
    wait();
  }
  void wait() { timer_.start(seconds_ * kNsPerSecond); }

  const SocketAddress address_;
  const unsigned seconds_;
  Fd connecting_, peer_;  // at most one of them
  bool told_ = false;
  event::HostTimer timer_;
};

}  // namespace

std::unique_ptr<CharBackend> make_reconnecting_socket(event::Loop& loop, const SocketAddress& address,
                                                      unsigned seconds) {
  return std::make_unique<ReconnectingSocket>(loop, address, seconds);
}

}  // namespace ostler::chardev
