// The server's end of one connection: whole messages in, whole messages out.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "fs9p/session.h"
#include "fs9p/share.h"

namespace ostler::fs9p {

// Any thread, several at a time.
class Server {
 public:
  explicit Server(std::shared_ptr<Share> share) : share_(std::move(share)) {}

  // The reply to `message`, of at most `room` bytes (kErrorBytes or more). Waits for the host's file system.
  // Tflush is answered at once: whoever calls knows which requests are under way.
  std::vector<std::byte> answer(std::span<const std::byte> message, size_t room);
  // The guest has fids.
  bool mounted();

 private:
  std::vector<std::byte> agree(const Version& version, uint16_t tag, size_t room);

  const std::shared_ptr<Share> share_;
  std::mutex mutex_;
  std::shared_ptr<Session> session_;  // guarded by mutex_; null before Tversion
};

}  // namespace ostler::fs9p
