// Interrupt messages whose source is not this process: it signals an eventfd, and the host's kernel sends the
// message to the guest, as KVM can. Devices of other processes and of the kernel are told of the eventfd.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "memory/address.h"

namespace ostler::bus {

// What becomes of one eventfd's signals; at first they wait. One caller at a time. Its end is as hold().
class MessageFd {
 public:
  virtual ~MessageFd() = default;
  // Each signal sends this message from now on; those that wait send it once.
  virtual void send(GuestPhys address, uint32_t data) = 0;
  // They wait in the eventfd. When it returns, no message is on its way.
  virtual void hold() = 0;
};

// Any thread.
class MessageFds {
 public:
  virtual ~MessageFds() = default;
  // Of the eventfd `fd`, which stays open until the result is gone. Null: the kernel has no room for more,
  // and whoever asks serves the eventfd.
  virtual std::unique_ptr<MessageFd> take(int fd) = 0;
  // MessageFd::send() of each, which take() gave: the kernel's table of messages changes once for all.
  struct Sending {
    MessageFd* source;
    GuestPhys address;
    uint32_t data;
  };
  virtual void send(std::span<const Sending> each) = 0;
};

}  // namespace ostler::bus
