// The two halves of a character channel: a front end is the guest's device (UART, virtio console, debug
// port), a back end is the host's side (terminal, file, socket). Each knows the other by these interfaces
// alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace ostler::chardev {

enum class CharEvent : uint8_t {
  kOpened,  // somebody is at the other end now
  kClosed,  // and has gone
  kBreak,   // a serial break was sent to the guest
};

// Called on the event loop's thread, without any lock of the back end held: the device takes its own.
class CharFrontend {
 public:
  virtual ~CharFrontend() = default;
  virtual size_t can_receive() = 0;                            // bytes that receive() takes now
  virtual void receive(std::span<const std::byte> bytes) = 0;  // at most can_receive() bytes
  virtual void event(CharEvent) {}
  virtual void writable() {}  // after a short write(): there is room again
};

class CharBackend {
 public:
  virtual ~CharBackend() = default;
  // Null detaches; afterwards no call into the former front end is made. On the loop's thread, or while it
  // does not run.
  virtual void attach(CharFrontend* frontend) = 0;
  // Takes what fits and returns at once: the number of bytes taken. When short, writable() is called later.
  // Output that nobody listens to is taken and dropped. Any thread, with the device's lock held.
  virtual size_t write(std::span<const std::byte> bytes) = 0;
  // can_receive() has grown from 0. Any thread, with the device's lock held; a hint that costs little.
  virtual void accept_input() = 0;
  virtual bool connected() const { return true; }  // somebody is at the other end; any thread
};

}  // namespace ostler::chardev
