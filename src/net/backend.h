// The host end of a network card: Ethernet frames in both directions, without checksum or segmentation
// offload.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace ostler::net {

// The largest frame that either side sends.
inline constexpr size_t kMaxFrame = 65536 + 18;

// The card, as its back end sees it. Called on the back end's thread, without a lock that send() takes.
class Receiver {
 public:
  virtual ~Receiver() = default;
  // False: no room. The back end keeps the frame (or drops it, when it has kept too many) and tries again
  // after Backend::receiver_ready().
  virtual bool receive(std::span<const std::byte> frame) = 0;
  // send() refused a frame, or was asked for by wake_sender(), and there is room now.
  virtual void sendable() = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;
  // Null detaches: afterwards no call into the former receiver is made or running. Not under the receiver's
  // lock.
  virtual void attach(Receiver* receiver) = 0;
  // Copies the frame. False: the queue is full; sendable() follows. Any thread, the receiver's lock may be
  // held.
  virtual bool send(std::span<const std::byte> frame) = 0;
  virtual void receiver_ready() = 0;  // as send()
  virtual void wake_sender() = 0;     // asks for a call of sendable(); as send()
};

}  // namespace ostler::net
