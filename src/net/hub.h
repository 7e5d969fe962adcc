// A hub in this process: what comes in at one port goes out at all others. A port is a socket for a card
// (-netdev hubport) or another network that was joined to the hub. No offloads: cards and networks of any
// kind may sit beside each other.
//
// Frames wait at each port in a queue of bounded length and are delivered on the event loop's thread, so that
// no card is called from another's. A port that is too slow for the others loses frames; when all others are
// full, who sends must wait.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "event/loop.h"
#include "net/backend.h"
#include "net/posted_task.h"

namespace ostler::net {

class Hub {
 public:
  // Ports are added before the loop runs.
  explicit Hub(event::Loop& loop);
  ~Hub();

  // A socket for a card, owned by the hub.
  Backend& add_port();
  // `network` becomes a port; it outlives the hub.
  void join(Backend& network);

 private:
  class Port;
  class CardPort;
  class NetworkPort;

  bool spread(Port& from, const Frame& frame);  // any thread
  void ask_to_send(Port& from);                 // wake() follows; any thread
  void drain();
  bool deliver_waiting(Port& port);  // false: there may be more

  PostedTask task_;
  std::vector<std::unique_ptr<Port>> ports_;
  std::mutex mutex_;  // guards the ports' queues; no receiver and no network is called under it
};

}  // namespace ostler::net
