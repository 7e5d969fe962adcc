// One stream between a socket of the guest and one of the host: the bytes, the credit of both sides
// (Virtio 1.2 §5.10.6.3), and what is yet to be told to the guest.
//
//     host's program ──> socket ──next_packet()──> guest's buffer, as far as the guest's credit goes
//     guest ──take()──> socket, and beyond what it takes: kBufferBytes here, for which the guest has credit
//
// Whether the socket can be read or written is kept as it was last seen (edge-triggered events); nothing here
// blocks. Everything with the device's lock held.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/fd.h"
#include "devices/virtio/chain.h"
#include "devices/virtio/vsock/packet.h"
#include "memory/dma.h"

namespace ostler::virtio::vsock {

struct Ports {
  uint32_t guest = 0;
  uint32_t host = 0;
  friend auto operator<=>(const Ports&, const Ports&) = default;
};

class Connection {
 public:
  static constexpr uint32_t kBufferBytes = 128 * 1024;

  enum class State : uint8_t {
    kGreeting,   // a program of the host has not yet said which port it wants
    kRequested,  // the guest is asked
    kOpen,
    kDraining,  // the guest is done; the socket has not taken all
    kGone,      // to be closed
  };

  Connection(Fd fd, State state, Ports ports) : fd_(std::move(fd)), state_(state), ports_(ports) {}

  int fd() const { return fd_.get(); }
  void close() { fd_.reset(); }
  State state() const { return state_; }
  void set_state(State state) { state_ = state; }
  const Ports& ports() const { return ports_; }

  // The socket's events, EPOLLIN….
  void happened(uint32_t events);
  // Both directions of the host's end are closed.
  bool hung_up() const { return hung_up_; }

  // The port in "CONNECT <port>\n".
  enum class Greeting { kMore, kBad, kWhole };
  Greeting read_greeting(uint32_t& port);
  // The guest will be asked for ports.guest.
  void request(Ports ports);
  bool requested() const { return state_ == State::kRequested && !pending_request_; }
  // The guest accepted: tells the program of the host. False: it cannot be told.
  bool accepted();
  // The guest asked: it will be told that it is connected.
  void respond() { pending_response_ = true; }

  // The credit that the guest told in a packet.
  void peer_credit(const Header& header);
  void credit_requested() { pending_credit_ = true; }
  // Data of the guest, `length` bytes behind the header. False: against the rules.
  bool take(memory::Dma& dma, const Chain& chain, uint32_t length);
  // The guest's SHUTDOWN. True: it is done with the connection.
  bool shut(uint32_t flags);
  // Gives what is kept to the socket.
  void flush();
  bool drained() const { return kept() == 0; }
  // Both sides' ends were told to the guest or will be: it answers with RST.
  bool closing() const { return shutdown_ == kShutdownBoth; }

  // There is something for the guest.
  bool has_packet() const;
  // The next packet for the guest; data go into `chain`, behind the header. Addresses are left to the caller.
  // An RST: the connection is broken. None: nothing now.
  std::optional<Header> next_packet(memory::Dma& dma, const Chain& chain);

  // The device's notes.
  bool watched = false;    // by the loop
  bool unsettled = false;  // in the list of those that the loop has to look at
  bool ready = false;      // in the list of those that have packets
  int64_t deadline = -1;   // of the guest's answer to closing()

 private:
  size_t kept() const { return buffer_.size() - sent_; }
  bool reads() const;
  uint32_t peer_room() const;
  bool credit_due() const;
  Header header(Op op, uint32_t length = 0, uint32_t flags = 0);
  std::optional<Header> read_packet(memory::Dma& dma, const Chain& chain);
  // Consumes what the socket took of `length` bytes of the guest; false: it takes nothing any more.
  bool written(ssize_t result, size_t& taken);
  void host_ended();

  Fd fd_;
  State state_;
  Ports ports_;
  bool readable_ = true;  // as far as is known
  bool hung_up_ = false;
  bool end_of_file_ = false;  // read
  bool deaf_ = false;         // the host's end takes nothing any more
  bool broken_ = false;

  bool pending_request_ = false, pending_response_ = false, pending_credit_ = false;
  uint32_t shutdown_ = 0, told_shutdown_ = 0;  // the host's side, as flags of SHUTDOWN
  uint32_t guest_shutdown_ = 0;

  // To the guest, modulo 2^32.
  uint32_t sent_bytes_ = 0;
  uint32_t peer_alloc_ = 0, peer_forwarded_ = 0;
  bool asked_for_credit_ = false;
  // From the guest, modulo 2^32.
  uint32_t received_ = 0, forwarded_ = 0, told_forwarded_ = 0;
  std::vector<std::byte> buffer_;
  size_t sent_ = 0;  // of buffer_
};

}  // namespace ostler::virtio::vsock
