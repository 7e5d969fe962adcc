// -netdev stream, and socket with listen= or connect=: frames over one connection at a time, each after its
// length (frame_reader.h). A server waits for the next peer when one leaves; a client connects again when it
// was told to. While there is no peer the link is down and what the guest sends is lost.
//
// The guest's frames are written to the socket by whoever sends them; what the socket does not take of a
// frame waits, and nothing more is taken meanwhile. The event loop's thread reads, and does everything else.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "event/acceptor.h"
#include "event/loop.h"
#include "net/backend.h"
#include "net/endpoint.h"
#include "net/frame_reader.h"
#include "net/posted_task.h"

namespace ostler::net {

struct StreamOptions {
  enum class Role : uint8_t {
    kClient,
    kServer,
    kEither
  };  // either: connects, or listens when nobody is there
  std::string id;
  Endpoint address;
  Role role = Role::kClient;
  uint32_t reconnect_seconds = 0;  // of a client; 0: never
};

class StreamBackend final : public Backend {
 public:
  // Before the loop runs, or on its thread; so is destruction. A client that does not connect again must
  // reach its peer at once, within 10 s.
  static Result<std::unique_ptr<StreamBackend>> create(event::Loop& loop, const StreamOptions& options);
  ~StreamBackend() override;

  void attach(Receiver* receiver) override;
  bool send(const Frame& frame, unsigned queue) override;
  void receiver_ready(unsigned queue) override;
  void wake_sender(unsigned queue) override;
  bool link_up() const override { return up_.load(); }

 private:
  StreamBackend(event::Loop& loop, StreamOptions options);
  Result<void> start();
  Result<void> listen();
  Result<Fd> connect_now();
  Result<void> meet();  // Role::kEither
  Result<void> connect_or_listen();
  bool connect_later();  // false: it failed already

  // On the loop's thread:
  void retry();
  void accept();
  void connecting_done();
  void use(Fd peer);
  void lose(std::string_view why);
  void ready(uint32_t events);
  void read();
  bool deliver();  // false: the receiver has no room
  void update();   // what the loop watches for, and who may send

  event::Loop& loop_;
  const StreamOptions options_;
  SocketAddress address_;
  event::HostTimer timer_;
  PostedTask update_task_;
  PostedTask deliver_task_;
  Fd listener_;
  event::Acceptor acceptor_;  // started while there is no peer
  bool owns_path_ = false;    // of listener_
  Fd connecting_;
  FrameReader reader_;
  bool held_ = false;     // the receiver had no room for the first frame
  uint32_t watched_ = 0;  // epoll events of peer_
  bool watching_ = false;
  int64_t last_message_ = 0;  // host's time; a peer must not fill the log
  std::atomic<bool> up_{false};

  std::mutex receiver_mutex_;  // held while the receiver is called
  Receiver* receiver_ = nullptr;

  std::mutex send_mutex_;  // innermost; guards what follows. peer_ changes on the loop's thread only
  Fd peer_;
  std::vector<std::byte> rest_;  // of a frame that the socket took in part
  bool refused_ = false;         // somebody waits for sendable()
};

}  // namespace ostler::net
