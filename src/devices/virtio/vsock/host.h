// The host's side of virtio-vsock: where streams come from and go to.
#pragma once

#include <cstdint>
#include <functional>

#include "base/fd.h"

namespace ostler::virtio::vsock {

class Host {
 public:
  virtual ~Host() = default;
  // Once, before the loop runs or on its thread. `accepted` gets each stream that a program of the host
  // opens, a non-blocking stream socket, on the loop's thread.
  virtual void listen(std::function<void(Fd)> accepted) = 0;
  // A non-blocking stream socket, connected to the program that serves `port`; none: nobody does. Any thread.
  virtual Fd connect(uint32_t port) = 0;
};

}  // namespace ostler::virtio::vsock
