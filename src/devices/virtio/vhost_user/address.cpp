#include "devices/virtio/vhost_user/address.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>

namespace ostler::virtio::vhost_user {

namespace {

constexpr socklen_t kPathAt = offsetof(sockaddr_un, sun_path);

Result<sockaddr_un> name_of(const std::string& path) {
  sockaddr_un name{};
  if (path.empty() || path.size() >= sizeof name.sun_path)
    return Error(
        ErrorKind::kInvalidArgument,
        fmt::format("the socket path '{}' is empty or longer than {} bytes", path, sizeof name.sun_path - 1));
  name.sun_family = AF_UNIX;
  std::memcpy(name.sun_path, path.data(), path.size());
  return name;
}

}  // namespace

Result<std::shared_ptr<Listener>> Listener::open(const std::string& path) {
  TRY_ASSIGN(const sockaddr_un name, name_of(path));
  Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return errno_error("no socket", errno);
  struct stat there {};
  if (::lstat(path.c_str(), &there) == 0 && S_ISSOCK(there.st_mode)) ::unlink(path.c_str());
  const auto size = static_cast<socklen_t>(kPathAt + path.size() + 1);
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&name), size) != 0 ||
      ::listen(socket.get(), 1) != 0)
    return errno_error(fmt::format("cannot listen at '{}'", path), errno);
  return std::shared_ptr<Listener>(new Listener(std::move(socket), path));
}

Listener::~Listener() {
  ::unlink(path_.c_str());
}

Result<Fd> Listener::wait() const {
  for (;;) {
    pollfd poll{.fd = fd_.get(), .events = POLLIN, .revents = 0};
    ::poll(&poll, 1, -1);
    Fd socket(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (socket) return socket;
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
      return errno_error(fmt::format("cannot take who comes to '{}'", path_), errno);
  }
}

Result<Fd> connect_to(const Address& address) {
  if (address.connected != nullptr && *address.connected) return std::move(*address.connected);
  TRY_ASSIGN(const sockaddr_un name, name_of(address.path));
  Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return errno_error("no socket", errno);
  const auto size = static_cast<socklen_t>(kPathAt + address.path.size() + 1);
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&name), size) != 0)
    return errno_error(fmt::format("cannot connect to '{}'; start the back end first", address.path), errno);
  return socket;
}

}  // namespace ostler::virtio::vhost_user
