#include "chardev/socket_address.h"

#include <fmt/format.h>
#include <netdb.h>
#include <sys/un.h>

#include <cstddef>
#include <cstring>

#include "base/port_number.h"

namespace ostler::chardev {
namespace {

Result<SocketAddress> unix_address(const std::string& path) {
  SocketAddress address;
  auto* name = reinterpret_cast<sockaddr_un*>(&address.storage);
  if (path.empty() || path.size() >= sizeof name->sun_path)
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("character device: the socket path '{}' is empty or longer than {} bytes", path,
                             sizeof name->sun_path - 1));
  name->sun_family = AF_UNIX;
  std::memcpy(name->sun_path, path.data(), path.size());
  address.size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + 1);
  address.text = path;
  return address;
}

Result<SocketAddress> find_address(const std::string& host, const std::string& port, const addrinfo& hints) {
  if (!may_be_port(port))
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("character device: {}:{}: a port is a number up to 65535", host, port));
  addrinfo* list = nullptr;
  const int result = getaddrinfo(host.empty() ? nullptr : host.c_str(), port.c_str(), &hints, &list);
  if (result != 0)
    return Error(
        ErrorKind::kInvalidArgument,
        fmt::format("character device: cannot find the address {}:{}: {}", host, port, gai_strerror(result)));
  SocketAddress address;
  std::memcpy(&address.storage, list->ai_addr, list->ai_addrlen);
  address.size = list->ai_addrlen;
  address.text = fmt::format("{}:{}", host, port);
  freeaddrinfo(list);
  return address;
}

}  // namespace

Result<SocketAddress> socket_address(const Options& options) {
  if (options.kind == Kind::kUnixSocket) return unix_address(options.path);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = options.server ? AI_PASSIVE : 0;
  return find_address(options.host, options.port, hints);
}

Result<SocketAddress> udp_address(const std::string& host, const std::string& port, bool own, int family) {
  addrinfo hints{};
  hints.ai_family = family;
  hints.ai_socktype = SOCK_DGRAM;
  hints.ai_flags = own ? AI_PASSIVE : 0;
  return find_address(host, own && port.empty() ? "0" : port, hints);
}

}  // namespace ostler::chardev
