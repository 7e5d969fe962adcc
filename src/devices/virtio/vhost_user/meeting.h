// The negotiation with a back end that has connected while the machine runs. A back end may take seconds for
// each answer, or never give one; the event loop does not wait with us, as the negotiation has a thread of
// its own.
//
//     idle --start()--> negotiating (its thread) --posted--> `met` on the loop's thread, idle again
//
// On the loop's thread, or while it does not run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "devices/virtio/vhost_user/session.h"
#include "event/loop.h"

namespace ostler::virtio::vhost_user {

class Meeting {
 public:
  struct Met {
    std::unique_ptr<Session> session;
    std::vector<std::byte> config;  // the first bytes of its configuration, where it tells them
  };
  Meeting(event::Loop& loop, std::function<void(Result<Met>)> met) : loop_(loop), met_(std::move(met)) {}
  ~Meeting() { end(); }
  Meeting(const Meeting&) = delete;
  Meeting& operator=(const Meeting&) = delete;

  // Takes over a connected socket; idle only. Asks for `config_bytes` of configuration. Error: the host has
  // no thread or descriptor, and nothing was started.
  Result<void> start(Fd socket, uint32_t config_bytes);
  // The back end is hung up on and not heard of any more; does not wait for it.
  void end();
  bool idle() const { return !thread_.joinable(); }

 private:
  struct Outcome;  // what the thread leaves
  void finish();

  event::Loop& loop_;
  const std::function<void(Result<Met>)> met_;
  Fd socket_;  // the same socket as the session's, which is the thread's
  std::shared_ptr<Outcome> outcome_;
  std::thread thread_;
};

}  // namespace ostler::virtio::vhost_user
