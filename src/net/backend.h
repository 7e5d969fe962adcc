// The two ends of a guest's network cable: a card (Receiver), and what carries its frames (Backend). Filters
// and hubs are both, so that they stack.
//
// Flow: whoever has no room says so and is not given more until it asks. A frame refused stays with its
// owner, who stops reading from its own peer; nothing grows. Locks: a back end calls its receiver on its own
// thread, and then holds no lock that send(), receiver_ready() or wake_sender() take; those may be called
// with the card's lock held, from any thread.
#pragma once

#include <sys/uio.h>

#include <optional>
#include <span>

#include "net/frame.h"

namespace ostler::net {

// Frames that a back end has not read from its peer yet, so that a card can have them where it wants them.
// Only within Receiver::receive_from().
class FrameSource {
 public:
  virtual ~FrameSource() = default;
  struct Taken {
    VnetHeader header;
    size_t bytes = 0;                 // of the frame
    std::span<const std::byte> rest;  // what `places` had no room for; until the next call
  };
  // Reads the next frame into `places` (at most kMostPlaces), from the first on. None: there is none at the
  // moment, and nothing was written.
  static constexpr size_t kMostPlaces = 1000;
  virtual std::optional<Taken> take(std::span<const iovec> places) = 0;
  // The frame that was taken last, whole: the back end keeps it until receiver_ready().
  virtual void put_back(std::span<const std::byte> frame) = 0;
};

// The card, as its back end sees it.
class Receiver {
 public:
  virtual ~Receiver() = default;
  // A frame for queue pair `queue` (less than Backend::queue_pairs()); the card may put it into another. Its
  // header asks for nothing but what Backend::set_receive_offloads() allowed. False: no room. The back end
  // keeps it and tries again after receiver_ready(queue).
  virtual bool receive(const Frame& frame, unsigned queue) = 0;
  // The same for a frame that `source` still has: a card that can lends it its own memory to be read into.
  enum class Receipt {
    kFrame,    // one was taken
    kNothing,  // the source had none
    kNoRoom    // the source keeps it
  };
  virtual Receipt receive_from(FrameSource& source, unsigned queue);
  // No more frames of `queue` at the moment: the time to interrupt the guest, for a card that waited with it.
  virtual void received_all(unsigned queue) { static_cast<void>(queue); }
  // send() refused a frame of this queue, or was asked for by wake_sender(), and there is room now.
  virtual void sendable(unsigned queue) = 0;
  // The peer came or went (a socket's; a tap device always has one). First told by Backend::link_up().
  virtual void link_changed(bool up) { static_cast<void>(up); }
};

inline Receiver::Receipt Receiver::receive_from(FrameSource& source, unsigned queue) {
  const auto taken = source.take({});
  if (!taken) return Receipt::kNothing;
  if (receive({taken->rest, taken->header}, queue)) return Receipt::kFrame;
  source.put_back(taken->rest);
  return Receipt::kNoRoom;
}

class Backend {
 public:
  virtual ~Backend() = default;
  // Null detaches: afterwards no call into the former receiver is made or running. Not under the receiver's
  // lock; before the event loop runs, or on its thread.
  virtual void attach(Receiver* receiver) = 0;

  // Copies the frame or passes it on at once. False: no room; sendable(queue) follows. A frame that cannot be
  // sent at all (too large, no peer, a header that asks for what send_offloads() lacks) is taken and lost, as
  // on a wire.
  virtual bool send(const Frame& frame, unsigned queue) = 0;
  virtual void receiver_ready(unsigned queue) = 0;
  virtual void wake_sender(unsigned queue) = 0;  // asks for a call of sendable(queue)

  // How many queue pairs work side by side; the same during its whole life.
  virtual unsigned queue_pairs() const { return 1; }
  // How many of them the guest uses: the others get no frames. As send().
  virtual void set_active_queues(unsigned pairs) { static_cast<void>(pairs); }

  // What frames given to send() may leave undone; and what those given to receive() may, when the card asks
  // for it by set_receive_offloads(). Nothing is left undone before that is called, and after a call with 0.
  virtual Offloads send_offloads() const { return 0; }
  virtual Offloads receive_offloads() const { return 0; }
  virtual void set_receive_offloads(Offloads offloads) { static_cast<void>(offloads); }  // as send()

  // Whether the peer is there; Receiver::link_changed() tells of changes. As send().
  virtual bool link_up() const { return true; }
  // The card's end of the cable was pulled or put in: told to the peer where there is a way (the carrier of a
  // tap device). The card itself drops frames meanwhile. As send().
  virtual void set_link(bool up) { static_cast<void>(up); }
};

}  // namespace ostler::net
