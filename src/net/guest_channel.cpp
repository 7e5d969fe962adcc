#include "net/guest_channel.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace ostler::net {
namespace {

Fd spare() {
  return Fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
}

// A name in a folder of ours, until the socket is known by its inode.
struct Folder {
  Folder() { made = ::mkdtemp(path) != nullptr; }
  ~Folder() {
    if (!made) return;
    ::unlink(socket().c_str());
    ::rmdir(path);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::string socket() const { return std::string(path) + "/socket"; }
  char path[32] = "/tmp/ostler-guestfwd-XXXXXX";
  bool made = false;
};

}  // namespace

GuestChannel::Guest::Guest(event::Loop& loop, Fd listener)
    : FdChannel(loop),
      listener_(std::move(listener)),
      spare_(spare()),
      acceptor_(loop, "guestfwd", [this] { accept(); }) {
  acceptor_.start(listener_.get());
}

GuestChannel::Guest::~Guest() {
  disconnect();
}

void GuestChannel::Guest::accept() {
  if (!spare_) spare_ = spare();
  for (;;) {
    Fd peer(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!peer && errno == EMFILE && spare_) {
      close_one_for_want_of_descriptors();
      continue;
    }
    if (!peer) return acceptor_.failed(errno);
    Fd out(::fcntl(peer.get(), F_DUPFD_CLOEXEC, 0));
    if (!out) continue;
    disconnect();
    in_ = std::move(peer);
    out_ = std::move(out);
    connect(in_.get(), out_.get());
  }
}

void GuestChannel::Guest::close_one_for_want_of_descriptors() {
  spare_.reset();
  Fd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC)).reset();
  spare_ = spare();
}

void GuestChannel::Guest::peer_closed() {
  disconnect();
  in_.reset();
  out_.reset();
}

Result<std::unique_ptr<GuestChannel>> GuestChannel::create(event::Loop& loop, chardev::CharBackend& device) {
  const Folder folder;
  const auto failed = [&] {
    return errno_error(fmt::format("guestfwd: no socket in {}", folder.path), errno);
  };
  if (!folder.made) return failed();
  const std::string name = folder.socket();
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, name.c_str(), name.size() + 1);
  Fd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener || ::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(listener.get(), 2 * kMostWaiting) != 0)
    return failed();
  Fd inode(::open(name.c_str(), O_PATH | O_CLOEXEC));
  if (!inode) return failed();
  return std::unique_ptr<GuestChannel>(new GuestChannel(loop, std::move(listener), std::move(inode), device));
}

}  // namespace ostler::net
