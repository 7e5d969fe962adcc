// The socket to a vhost-user back end: one request at a time, and its reply. The back end is not trusted: it
// has a limited time, a reply must have the form that its request asks for, and descriptors that it sends are
// dropped by the kernel. After any error the channel is closed for good.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "devices/virtio/vhost_user/messages.h"

namespace ostler::virtio::vhost_user {

// One thread at a time.
class Channel {
 public:
  // For each message, to be taken or answered. A back end that loads a large image takes seconds.
  static constexpr std::chrono::milliseconds kPatience{10'000};

  explicit Channel(Fd socket, std::chrono::milliseconds patience = kPatience)
      : socket_(std::move(socket)), patience_(patience) {}

  // While a message waits, `serve` is called whenever `fd` is readable: a back end may want to be heard
  // before it answers. False: nothing more is to be served. An error is the channel's.
  void serve_meanwhile(int fd, std::function<Result<bool>()> serve) {
    other_ = fd;
    serve_other_ = std::move(serve);
  }

  // At most kMostRegions descriptors. Errors: kIo, kNoResource.
  Result<void> send(Request request, uint32_t flags, std::span<const std::byte> payload,
                    std::span<const int> descriptors = {});
  // The reply to `request`: its payload, of exactly `size` bytes. Errors: kIo, kCorrupt.
  Result<std::vector<std::byte>> receive(Request request, size_t size);

  // False after an error or shutdown().
  bool open() const { return open_; }
  // Both sides see the end. The descriptor stays, for whoever watches it.
  void shutdown();
  int fd() const { return socket_.get(); }

 private:
  using Deadline = std::chrono::steady_clock::time_point;
  Result<void> wait(short events, Deadline deadline);
  Result<void> read_all(std::span<std::byte> to, Deadline deadline);
  Error failed(Error error) {
    shutdown();
    return error;
  }

  const Fd socket_;
  const std::chrono::milliseconds patience_;
  bool open_ = true;
  int other_ = -1;
  std::function<Result<bool>()> serve_other_;
};

}  // namespace ostler::virtio::vhost_user
