// The host's side as UNIX sockets, in Firecracker's convention: programs of the host connect to PATH and name
// a port of the guest; what the guest connects to at port N of the host is served at PATH_N.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "devices/virtio/vsock/host.h"
#include "event/acceptor.h"
#include "event/loop.h"

namespace ostler::virtio::vsock {

class UnixHost final : public Host {
 public:
  // Errors: the path is too long (kInvalidArgument), served by another program (kBusy), or the host refuses.
  static Result<std::unique_ptr<UnixHost>> create(event::Loop& loop, const std::string& path);
  // On the loop's thread, or while it does not run. Removes PATH.
  ~UnixHost() override;

  void listen(std::function<void(Fd)> accepted) override;
  Fd connect(uint32_t port) override;

 private:
  UnixHost(event::Loop& loop, std::string path, Fd listener);
  const std::string path_;
  const Fd listener_;
  std::function<void(Fd)> accepted_;
  event::Acceptor acceptor_;
};

}  // namespace ostler::virtio::vsock
