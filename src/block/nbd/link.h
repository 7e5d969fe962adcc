// A client's connection to an NBD server, through libnbd, with TLS through a TlsTunnel. A thread of its own
// waits for the socket and makes the connection again when it breaks; requests are sent on the thread that
// makes them.
#pragma once

#include <libnbd.h>

#include <coroutine>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "block/io_context.h"
#include "block/mutex.h"
#include "block/nbd/dial.h"
#include "block/nbd/remote.h"
#include "block/nbd/tls_credentials.h"

namespace ostler::block::nbd {

class TlsTunnel;

// What the server told.
struct RemoteDisk {
  uint64_t size = 0;
  bool read_only = false;
  bool can_flush = false, can_trim = false, can_zero = false, can_fast_zero = false, can_fua = false;
  bool can_tell_status = false;
  uint32_t least = 1;        // bytes that requests are multiples of
  uint32_t most = 32 << 20;  // bytes of one read or write
};

class Link {
 public:
  // `tls`: null if the remote has none. `reconnect_nanoseconds`: how long requests wait for a broken
  // connection to be made again.
  Link(Remote remote, std::shared_ptr<const TlsCredentials> tls, uint64_t reconnect_nanoseconds);
  ~Link();
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;

  // Makes the first connection; waits on the caller's thread, for kConnectSeconds at most.
  static constexpr unsigned kConnectSeconds = 30;
  Result<void> connect();
  // Says goodbye. No request is in flight.
  void close();
  const RemoteDisk& disk() const { return disk_; }
  const Remote& remote() const { return remote_; }

  struct Request {
    enum class Kind { kRead, kWrite, kFlush, kTrim, kZero, kStatus };
    Kind kind;
    uint64_t offset = 0;
    uint64_t bytes = 0;
    void* data = nullptr;
    uint32_t flags = 0;  // LIBNBD_CMD_FLAG_…
    // The first extent of base:allocation, for kStatus.
    uint32_t extent_bytes = 0, extent_flags = 0;
  };
  // 0 or a negative errno. Sent again over a new connection if the old one breaks.
  Task<int> run(Request& request);
  // Requests in flight end with -ECANCELED; for that the connection is broken. Any thread.
  void cancel();

 private:
  struct Sent;
  using Handle = std::shared_ptr<nbd_handle>;
  Result<Handle> open_handle();
  Result<void> set_up(nbd_handle* handle) const;
  Result<RemoteDisk> describe(nbd_handle* handle) const;
  Result<std::shared_ptr<TlsTunnel>> open_tunnel(const MayWait& may_wait) const;
  Error connection_ended(const TlsTunnel* tunnel) const;
  Result<void> begin_connecting(nbd_handle* handle, TlsTunnel* tunnel) const;
  int64_t issue(nbd_handle* handle, Sent& sent);
  void watch();
  void reconnect();
  void give_up_in_time();
  bool pause(uint64_t nanoseconds);  // false: closing
  void kick();

  const Remote remote_;
  const std::shared_ptr<const TlsCredentials> tls_;
  const uint64_t reconnect_;
  RemoteDisk disk_;
  const Fd event_;
  std::thread thread_;
  // Held around each call of libnbd on a handle that is connected: its own lock does not cover "which
  // direction, then notify".
  std::mutex mutex_;
  Handle handle_;         // null: not connected
  bool gave_up_ = false;  // nobody waits for the next connection
  uint64_t lost_at_ = 0;  // of the thread: when the connection broke
  unsigned in_flight_ = 0;
  bool closing_ = false;
  unsigned cancels_ = 0;
  WaitQueue connected_;
};

}  // namespace ostler::block::nbd
