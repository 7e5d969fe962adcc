#include "chardev/socket_address.h"

#include <fmt/format.h>
#include <netdb.h>
#include <sys/un.h>

#include <cstddef>
#include <cstring>

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

Result<SocketAddress> tcp_address(const Options& options) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = options.server ? AI_PASSIVE : 0;
  addrinfo* list = nullptr;
  const int result =
      getaddrinfo(options.host.empty() ? nullptr : options.host.c_str(), options.port.c_str(), &hints, &list);
  if (result != 0)
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("character device: cannot find the address {}:{}: {}", options.host,
                             options.port, gai_strerror(result)));
  SocketAddress address;
  std::memcpy(&address.storage, list->ai_addr, list->ai_addrlen);
  address.size = list->ai_addrlen;
  address.text = fmt::format("{}:{}", options.host, options.port);
  freeaddrinfo(list);
  return address;
}

}  // namespace

Result<SocketAddress> socket_address(const Options& options) {
  return options.kind == Kind::kUnixSocket ? unix_address(options.path) : tcp_address(options);
}

}  // namespace ostler::chardev
