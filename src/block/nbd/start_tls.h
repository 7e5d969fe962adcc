// A client's part of the NBD negotiation up to TLS (NBD protocol, "Fixed newstyle negotiation",
// NBD_OPT_STARTTLS). It does no I/O: the caller gives it what the server sends, as much as it asks for and no
// more, since whatever comes unencrypted behind the answer would be from somebody in between.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace ostler::block::nbd {

class StartTls {
 public:
  // The number of bytes that take() gets next; 0: the handshake of TLS follows.
  size_t wanted() const { return wanted_; }
  // What is to be sent to the server then, possibly nothing. Error: it is no NBD server, or does without TLS.
  Result<std::string> take(std::string_view bytes);
  // When it is done: what the server said first, for another client to read.
  std::string greeting() const;

 private:
  enum class State { kGreeting, kReply, kReason, kDone };
  Result<std::string> take_greeting(std::string_view bytes);
  Result<std::string> take_reply(std::string_view bytes);

  static constexpr size_t kGreetingBytes = 18, kReplyBytes = 20;
  State state_ = State::kGreeting;
  size_t wanted_ = kGreetingBytes;
  uint16_t flags_ = 0;
};

// Bytes that a client sends between greeting() and its first option: its flags.
inline constexpr size_t kClientFlagBytes = 4;

}  // namespace ostler::block::nbd
