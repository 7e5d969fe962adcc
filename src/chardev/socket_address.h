// Where a socket's back end listens or connects to.
#pragma once

#include <sys/socket.h>

#include <string>

#include "base/result.h"
#include "chardev/open.h"

namespace ostler::chardev {

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t size = 0;
  std::string text;  // for people
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

// The path, or the first address that the host finds for the name; waits for the host's resolver.
Result<SocketAddress> socket_address(const Options& options);
// The same for datagrams. `own`: an address of this host, where an empty host is any and an empty port one
// that is free. `family`: AF_INET, AF_INET6 or, for both, AF_UNSPEC.
Result<SocketAddress> udp_address(const std::string& host, const std::string& port, bool own,
                                  int family = AF_UNSPEC);

}  // namespace ostler::chardev
