// A connection's bytes, in both directions: a socket, a socket with TLS, or memory in tests. One coroutine
// may receive while one other sends; both run on the same I/O context.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "block/buffers.h"
#include "block/task.h"

namespace ostler::block::nbd {

class Channel {
 public:
  virtual ~Channel() = default;
  // Bytes received, 1 or more; 0 at the end; a negative errno.
  virtual Task<int> receive(void* to, size_t most) = 0;
  // Sends all. 0 or a negative errno.
  virtual Task<int> send(Buffers from) = 0;
  // Both directions end, also calls that wait. The context's thread.
  virtual void shutdown() = 0;
  // The socket below, or -1.
  virtual int fd() const = 0;
};

// Takes a connected stream socket and makes it non-blocking.
std::unique_ptr<Channel> make_socket_channel(Fd socket);

// Listening sockets, non-blocking. The unix socket's file must not exist, or be a socket nobody listens on.
Result<Fd> listen_unix(const std::string& path);
// All addresses that `host` has ("" or "*": those of this machine). `port` 0: a free one.
Result<std::vector<Fd>> listen_tcp(const std::string& host, uint16_t port);
// The port a socket is bound to; 0 if it is not of TCP.
uint16_t port_of(int fd);

// Received bytes, a buffer of them ahead, so that small messages cost less than a system call each.
class Receiver {
 public:
  explicit Receiver(Channel& channel) : channel_(&channel) {}
  // Exactly `bytes`. 0; -ENODATA if the peer ended before the first; -ECONNRESET within; a negative errno.
  Task<int> read(void* to, size_t bytes);
  Task<int> skip(uint64_t bytes);
  size_t buffered() const { return end_ - begin_; }
  void set_channel(Channel& channel) { channel_ = &channel; }

 private:
  Channel* channel_;
  size_t begin_ = 0, end_ = 0;
  char buffer_[16384];
};

}  // namespace ostler::block::nbd
