// Where a socket of a network is, or whom it reaches: as the options tell it, and as the kernel wants it.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"

namespace ostler::net {

struct Endpoint {
  enum class Kind : uint8_t { kNone, kInet, kUnix, kFd };
  Kind kind = Kind::kNone;
  std::string host, port;  // inet; an empty host: any address, or this host
  bool ipv4 = true, ipv6 = true;
  std::string path;  // unix
  bool abstract = false, tight = true;
  int fd = -1;  // inherited or passed; it becomes ours

  std::string text() const;  // for messages
};

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t size = 0;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  int family() const { return storage.ss_family; }
};

// "host:port", ":port", "[v6]:port". Errors are one sentence with an example.
Result<Endpoint> parse_inet(std::string_view text);
// Looks a name up, which may take seconds. `type` is SOCK_STREAM or SOCK_DGRAM; `passive`: to bind to.
Result<SocketAddress> resolve(const Endpoint& endpoint, int type, bool passive);

// Does not block from now on, and is not inherited.
void make_ours(const Fd& fd);
// A number that is an open socket of `type`.
Result<Fd> take_socket(int fd, int type);

}  // namespace ostler::net
