// Where a back end is: the socket that -chardev names.
#pragma once

#include <memory>
#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace ostler::virtio::vhost_user {

struct Address {
  std::string path;
  unsigned reconnect = 0;              // seconds until a back end that has gone is looked for; 0: never
  std::shared_ptr<Fd> connected = {};  // a socket that is connected already, for the first who asks
};

// A connected socket, not blocking. Errors name the path.
Result<Fd> connect_to(const Address& address);

}  // namespace ostler::virtio::vhost_user
