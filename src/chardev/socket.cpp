// Unix and TCP sockets. A server takes one client at a time and waits for the next when it leaves; a client
// connects once (reconnecting_socket.cpp has the other kind).
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

#include "base/fd.h"
#include "chardev/backends.h"
#include "chardev/fd_channel.h"
#include "event/acceptor.h"

namespace ostler::chardev {
namespace {

class Socket final : public FdChannel {
 public:
  // `address`: of the listener, in warnings. `path`: to be removed at the end.
  Socket(event::Loop& loop, Fd listener, Fd peer, const std::string& address, std::string path)
      : FdChannel(loop),
        listener_(std::move(listener)),
        path_(std::move(path)),
        acceptor_(loop, "character device at '" + address + "'", [this] { accept(); }) {
    if (peer)
      use(std::move(peer));
    else
      listen();
  }
  ~Socket() override {
    disconnect();
    if (!path_.empty()) ::unlink(path_.c_str());
  }

 private:
  void use(Fd peer) {
    peer_ = std::move(peer);
    const int yes = 1;
    setsockopt(peer_.get(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);  // fails on unix sockets: no matter
    connect(peer_.get(), peer_.get());
  }
  void listen() {
    if (listener_) acceptor_.start(listener_.get());
  }
  void accept() {
    Fd peer = acceptor_.accept();
    if (!peer) return;
    acceptor_.stop();  // later clients wait in the queue
    use(std::move(peer));
  }
  void peer_closed() override {
    disconnect();
    peer_.reset();
    listen();
  }

  Fd listener_, peer_;
  const std::string path_;
  event::Acceptor acceptor_;
};

}  // namespace

Result<std::unique_ptr<CharBackend>> make_socket(event::Loop& loop, const Options& options) {
  const bool local = options.kind == Kind::kUnixSocket;
  TRY_ASSIGN(const SocketAddress address, socket_address(options));
  if (options.reconnect_seconds != 0 && !options.server)
    return make_reconnecting_socket(loop, address, options.reconnect_seconds);
  Fd fd(::socket(address.get()->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return errno_error(fmt::format("character device: no socket for '{}'", address.text), errno);
  const auto set_nonblocking = [](const Fd& socket) {
    const int on = 1;
    ::ioctl(socket.get(), FIONBIO, &on);
  };
  if (!options.server) {
    if (::connect(fd.get(), address.get(), address.size) != 0) {
      const Error plain =
          errno_error(fmt::format("character device: cannot connect to '{}'", address.text), errno);
      return Error(plain.kind(),
                   plain.message() + "; start the other side first, or say reconnect=1 to wait for it",
                   plain.host_errno());
    }
    set_nonblocking(fd);
    return std::unique_ptr<CharBackend>(
        std::make_unique<Socket>(loop, Fd(), std::move(fd), address.text, std::string()));
  }
  const int yes = 1;
  if (!local) setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (local) ::unlink(options.path.c_str());  // left by an earlier run
  if (::bind(fd.get(), address.get(), address.size) != 0 || ::listen(fd.get(), 1) != 0)
    return errno_error(fmt::format("character device: cannot listen on '{}'", address.text), errno);
  Fd peer;
  if (options.wait) {
    peer = Fd(accept4(fd.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!peer) return errno_error(fmt::format("character device: nobody came to '{}'", address.text), errno);
  }
  set_nonblocking(fd);
  return std::unique_ptr<CharBackend>(std::make_unique<Socket>(
      loop, std::move(fd), std::move(peer), address.text, local ? options.path : std::string()));
}

}  // namespace ostler::chardev
