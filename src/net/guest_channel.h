// A character device behind a TCP port of the user network's guest (guestfwd). libslirp connects to a UNIX
// socket for each of the guest's connections; the latest of them has the device, and earlier ones are closed.
// The event loop's thread.
#pragma once

#include <memory>
#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "chardev/fd_channel.h"
#include "chardev/join.h"
#include "event/acceptor.h"
#include "event/loop.h"

namespace ostler::net {

class GuestChannel {
 public:
  // `device` outlives it. Error: the host has no place for a socket.
  static Result<std::unique_ptr<GuestChannel>> create(event::Loop& loop, chardev::CharBackend& device);

  // Where libslirp connects; only this process can.
  const std::string& path() const { return path_; }
  // Connections made so far are taken. libslirp waits in connect() when the kernel's list of them is full,
  // which no more than kMostWaiting may be.
  void accept() { guest_.accept(); }
  static constexpr unsigned kMostWaiting = 64;

 private:
  // The guest's end.
  class Guest final : public chardev::FdChannel {
   public:
    Guest(event::Loop& loop, Fd listener);
    ~Guest() override;
    void accept();

   private:
    void peer_closed() override;
    void close_one_for_want_of_descriptors();
    Fd listener_;
    Fd spare_;     // what the process has left when it has no other
    Fd in_, out_;  // of one socket: a guest that has sent its last byte may still wait for an answer
    event::Acceptor acceptor_;
  };
  GuestChannel(event::Loop& loop, Fd listener, Fd inode, chardev::CharBackend& device)
      : inode_(std::move(inode)),
        path_("/proc/self/fd/" + std::to_string(inode_.get())),
        guest_(loop, std::move(listener)),
        join_(guest_, device) {}

  const Fd inode_;  // of the socket, whose name is gone
  const std::string path_;
  Guest guest_;
  chardev::Join join_;
};

}  // namespace ostler::net
