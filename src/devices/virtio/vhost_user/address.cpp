#include "devices/virtio/vhost_user/address.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstddef>
#include <cstring>

namespace ostler::virtio::vhost_user {

Result<Fd> connect_to(const Address& address) {
  if (address.connected != nullptr && *address.connected) return std::move(*address.connected);
  sockaddr_un name{};
  if (address.path.empty() || address.path.size() >= sizeof name.sun_path)
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("the socket path '{}' is empty or longer than {} bytes", address.path,
                             sizeof name.sun_path - 1));
  name.sun_family = AF_UNIX;
  std::memcpy(name.sun_path, address.path.data(), address.path.size());
  Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return errno_error("no socket", errno);
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + address.path.size() + 1);
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&name), size) != 0)
    return errno_error(fmt::format("cannot connect to '{}'; start the back end first", address.path), errno);
  return socket;
}

}  // namespace ostler::virtio::vhost_user
