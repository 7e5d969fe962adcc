// -netdev dgram, and socket with udp= or mcast=: each frame is a datagram, of UDP or of a UNIX socket. There
// is no connection: a peer that is not there loses frames, and whoever can reach the socket is believed.
//
// The guest's frames are sent by whoever sends them. Datagram sockets do not tell when a full peer has room
// again, so that a timer tries again. The event loop's thread receives.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "event/loop.h"
#include "net/backend.h"
#include "net/endpoint.h"
#include "net/posted_task.h"

namespace ostler::net {

struct DatagramOptions {
  std::string id;
  Endpoint
      local;  // none: chosen by the kernel; with a multicast `remote`: the interface; kFd: the socket itself
  Endpoint remote;  // may be multicast; none with a descriptor that is connected
};

class DatagramBackend final : public Backend {
 public:
  // Before the loop runs, or on its thread; so is destruction.
  static Result<std::unique_ptr<DatagramBackend>> create(event::Loop& loop, const DatagramOptions& options);
  ~DatagramBackend() override;

  void attach(Receiver* receiver) override;
  bool send(const Frame& frame, unsigned queue) override;
  void receiver_ready(unsigned) override { deliver_task_.post(); }
  void wake_sender(unsigned) override { wake_task_.post(); }

 private:
  DatagramBackend(event::Loop& loop, DatagramOptions options);
  Result<void> start();
  Result<void> bind(const SocketAddress& address, const std::string& text);
  Result<void> join();
  void wake();
  void read();
  bool deliver();

  event::Loop& loop_;
  const DatagramOptions options_;
  Fd fd_;
  SocketAddress remote_;
  std::string own_path_;  // to be removed at the end
  event::Timer timer_;
  PostedTask deliver_task_, wake_task_, retry_task_;
  std::vector<std::byte> buffer_;
  size_t filled_ = 0;  // of buffer_: a frame that the receiver had no room for
  bool held_ = false;

  std::mutex receiver_mutex_;  // held while the receiver is called
  Receiver* receiver_ = nullptr;

  std::mutex send_mutex_;  // innermost; guards what follows
  bool refused_ = false;
  int64_t pause_ns_ = 0;  // until the next try; grows while the peer stays full
};

}  // namespace ostler::net
