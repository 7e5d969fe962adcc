// User-mode networking: libslirp is the guest's router, DHCP and DNS server; the host's sockets do the rest.
//
// libslirp has no locks: all calls happen on the event loop's thread. Frames from the guest wait in a bounded
// queue for that thread; frames to the guest that it has no buffers for wait in another.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "event/acceptor.h"
#include "event/loop.h"
#include "net/backend.h"
#include "net/guest_channel.h"
#include "net/user_options.h"

struct Slirp;

namespace ostler::net {

class UserBackend final : public Backend {
 public:
  // Before the loop runs, or on its thread; so is destruction. Errors: a bad address, a host port in use.
  static Result<std::unique_ptr<UserBackend>> create(event::Loop& loop, const UserOptions& options);
  ~UserBackend() override;

  void attach(Receiver* receiver) override;
  bool send(const Frame& frame, unsigned queue) override;
  void receiver_ready(unsigned queue) override;
  void wake_sender(unsigned queue) override;

 private:
  struct Callbacks;
  friend struct Callbacks;
  struct Poll {
    int fd;
    int events;  // SLIRP_POLL_*
    int revents;
  };
  explicit UserBackend(event::Loop& loop);
  Result<void> start(const UserOptions& options);
  Result<void> forward_from_guest(const GuestForward& forward);
  void post(void (UserBackend::*task)(), std::atomic<bool>& posted);

  // On the loop's thread:
  void drain_outgoing();
  void drain_incoming();
  void watch(int fd, uint32_t events);
  void unwatch(int fd);
  void somebody_came(int listener);
  void fd_ready(int fd, uint32_t events);
  void service();  // lets slirp act on polls_' revents and the clock, then asks anew what it waits for
  void refresh_polls();
  void deliver(std::span<const std::byte> frame);

  event::Loop& loop_;
  Slirp* slirp_ = nullptr;
  std::vector<std::unique_ptr<GuestChannel>> channels_;
  event::Timer timer_;
  std::vector<Poll> polls_;                    // as slirp numbered them at the last fill
  std::unordered_map<int, uint32_t> watched_;  // fd -> epoll events
  std::unordered_map<int, std::shared_ptr<event::Acceptor>> acceptors_;  // of those that listen
  std::deque<std::vector<std::byte>> incoming_;                          // for the guest, which had no room
  std::shared_ptr<UserBackend*> self_;  // null after destruction: for tasks still posted

  std::mutex receiver_mutex_;  // held while the receiver is called
  Receiver* receiver_ = nullptr;

  std::mutex outgoing_mutex_;  // innermost
  std::deque<std::vector<std::byte>> outgoing_;
  bool refused_ = false;  // somebody waits for sendable()
  std::atomic<bool> outgoing_posted_{false};
  std::atomic<bool> incoming_posted_{false};
};

}  // namespace ostler::net
