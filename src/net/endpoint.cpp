#include "net/endpoint.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>

#include "base/port_number.h"

namespace ostler::net {

std::string Endpoint::text() const {
  switch (kind) {
    case Kind::kInet:
      return host.find(':') == std::string::npos ? host + ":" + port : "[" + host + "]:" + port;
    case Kind::kUnix:
      return path;
    case Kind::kFd:
      return fmt::format("descriptor {}", fd);
    case Kind::kNone:
      break;
  }
  return "nowhere";
}

Result<Endpoint> parse_inet(std::string_view text) {
  const auto wrong = [&] {
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("'{}' is not host:port (example: 127.0.0.1:4444)", text));
  };
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos || colon + 1 == text.size()) return wrong();
  std::string_view host = text.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']'))
    host = host.substr(1, host.size() - 2);
  else if (host.find(':') != std::string_view::npos)
    return wrong();
  Endpoint endpoint;
  endpoint.kind = Endpoint::Kind::kInet;
  endpoint.host = host;
  endpoint.port = text.substr(colon + 1);
  return endpoint;
}

namespace {

Result<SocketAddress> unix_address(const Endpoint& endpoint) {
  SocketAddress address;
  auto* const name = reinterpret_cast<sockaddr_un*>(&address.storage);
  // An abstract name begins with a zero byte; `tight` leaves the rest of the array out of it.
  const size_t skip = endpoint.abstract ? 1 : 0;
  if (endpoint.path.empty() || endpoint.path.size() >= sizeof name->sun_path)
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("the socket path '{}' is empty or longer than {} bytes", endpoint.path,
                             sizeof name->sun_path - 1));
  name->sun_family = AF_UNIX;
  std::memcpy(name->sun_path + skip, endpoint.path.data(), endpoint.path.size());
  address.size = endpoint.abstract && !endpoint.tight
                     ? static_cast<socklen_t>(sizeof *name)
                     : static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + endpoint.path.size() + 1);
  return address;
}

}  // namespace

Result<SocketAddress> resolve(const Endpoint& endpoint, int type, bool passive) {
  if (endpoint.kind == Endpoint::Kind::kUnix) return unix_address(endpoint);
  if (!may_be_port(endpoint.port))
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("{}: a port is a number up to 65535", endpoint.text()));
  addrinfo hints{};
  hints.ai_socktype = type;
  hints.ai_flags = passive ? AI_PASSIVE : 0;
  hints.ai_family = endpoint.ipv4 && endpoint.ipv6 ? AF_UNSPEC : endpoint.ipv6 ? AF_INET6 : AF_INET;
  addrinfo* list = nullptr;
  const char* const host = endpoint.host.empty() ? nullptr : endpoint.host.c_str();
  const int result = getaddrinfo(host, endpoint.port.c_str(), &hints, &list);
  if (result != 0)
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("cannot find the address {}: {}", endpoint.text(), gai_strerror(result)));
  SocketAddress address;
  std::memcpy(&address.storage, list->ai_addr, list->ai_addrlen);
  address.size = list->ai_addrlen;
  freeaddrinfo(list);
  return address;
}

void make_ours(const Fd& fd) {
  ::fcntl(fd.get(), F_SETFD, FD_CLOEXEC);
  ::fcntl(fd.get(), F_SETFL, ::fcntl(fd.get(), F_GETFL) | O_NONBLOCK);
}

Result<Fd> take_socket(int fd, int type) {
  int real = 0;
  socklen_t size = sizeof real;
  if (::getsockopt(fd, SOL_SOCKET, SO_TYPE, &real, &size) != 0)
    return errno_error(fmt::format("descriptor {} is not an open socket", fd), errno);
  if (real != type)
    return Error(ErrorKind::kInvalidArgument, fmt::format("descriptor {} is not a {} socket", fd,
                                                          type == SOCK_STREAM ? "stream" : "datagram"));
  Fd taken(fd);
  make_ours(taken);
  return taken;
}

}  // namespace ostler::net
