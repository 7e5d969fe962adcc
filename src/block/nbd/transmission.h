// The transmission phase (NBD protocol, "Transmission"), the server's side: requests of one client, many at a
// time, answered as they are done. A client decides about at most kMostRequests and kMostBytes of memory;
// when it has used them up, or does not read its replies, only its own connection waits.
#pragma once

#include <coroutine>
#include <string>

#include "block/mutex.h"
#include "block/nbd/channel.h"
#include "block/nbd/negotiation.h"
#include "block/nbd/protocol.h"

namespace ostler::block::nbd {

class Transmission {
 public:
  static constexpr unsigned kMostRequests = 64;
  static constexpr uint64_t kMostBytes = 2 * uint64_t{kMostTransfer};  // of payload in flight

  Transmission(Channel& channel, Receiver& receiver, const Session& session)
      : channel_(channel), receiver_(receiver), session_(session), disk_(*session.disk) {}

  // Until the client disconnects, breaks the protocol or the channel is shut down; then until every request
  // that has begun is done.
  Task<void> run();

 private:
  struct Request {
    uint16_t flags = 0;
    Command command = Command::kDisconnect;
    uint64_t cookie = 0;
    uint64_t offset = 0;
    uint32_t length = 0;
    uint64_t charged = 0;  // bytes of kMostBytes
    int error = 0;         // found before it began
    AlignedBuffer payload;
  };
  // Waits until less than `requests` run and `bytes` fit.
  struct Room {
    Transmission& owner;
    unsigned requests;
    uint64_t bytes;
    bool await_ready() const noexcept { return owner.has_room(requests, bytes); }
    void await_suspend(std::coroutine_handle<> handle) {
      owner.waiter_ = handle;
      owner.wanted_requests_ = requests;
      owner.wanted_bytes_ = bytes;
    }
    void await_resume() const noexcept {}
  };
  bool has_room(unsigned requests, uint64_t bytes) const {
    return running_ < requests && in_use_ + bytes <= kMostBytes;
  }

  Task<bool> receive();
  int check(const Request& request) const;
  Task<void> serve(Request request);
  Task<int> perform(Request& request);
  Task<int> cache(uint64_t offset, uint64_t bytes);
  Task<void> read(Request& request);
  Task<int> read_pieces(Request& request, std::string& heads, std::vector<iovec>& pieces);
  Task<void> block_status(Request& request);
  Task<void> answer(uint64_t cookie, int error);
  Task<void> chunk(uint64_t cookie, uint16_t flags, Chunk type, std::string data);
  Task<void> send(Buffers pieces);

  Channel& channel_;
  Receiver& receiver_;
  const Session& session_;
  const Export& disk_;
  Mutex sending_;
  bool broken_ = false;  // nobody listens any more
  unsigned running_ = 0;
  uint64_t in_use_ = 0;
  std::coroutine_handle<> waiter_;
  unsigned wanted_requests_ = 0;
  uint64_t wanted_bytes_ = 0;
};

}  // namespace ostler::block::nbd
