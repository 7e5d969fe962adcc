// What serves a device's queues in our place, as this side speaks to it: another process (user_session.h) or
// the host's kernel (kernel_session.h). Any error ends the session; the caller drops it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "devices/virtio/vhost_user/memory_table.h"

namespace ostler::virtio::vhost_user {

// Where the parts of one ring lie, as user addresses of the memory table.
struct RingPlace {
  uint16_t size = 0;  // descriptors
  uint64_t descriptors = 0, available = 0, used = 0;
  uint16_t base = 0;  // both indices, at the start
};

// One thread at a time.
class Session {
 public:
  virtual ~Session() = default;
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // The back end's virtio features.
  uint64_t features() const { return features_; }
  // How many queues it has, or pairs of them; kMaxQueues when it does not tell.
  uint64_t queues() const { return queues_; }
  // Which of the guest's memory it can reach.
  virtual MemoryTable::Whose memory() const = 0;

  virtual bool alive() const = 0;
  // Where its end shows, and as which of epoll's events; the same for as long as it lives.
  virtual int fd() const = 0;
  virtual uint32_t end_events() const = 0;
  virtual std::string_view why_ended() const = 0;
  // On return, or soon, nobody uses the guest's memory any more.
  virtual void end() = 0;

  virtual Result<void> set_features(uint64_t features) = 0;
  // `rings`: the memory that RingPlace is about. On return the back end uses no older table.
  virtual Result<void> set_memory(const MemoryTable& table, const MemoryTable::Entry& rings) = 0;
  // `kick`: the back end is told of available buffers; `call`: it tells of used ones.
  // Not `enabled`: it leaves the ring alone until enable_ring().
  virtual Result<void> start_ring(unsigned index, const RingPlace& place, int kick, int call,
                                  bool enabled) = 0;
  // Nothing of a back end that cannot be told.
  virtual Result<void> enable_ring(unsigned index, bool enabled) = 0;
  // On return the back end leaves the ring and its buffers alone.
  virtual Result<void> stop_ring(unsigned index) = 0;

  // The network's cable at this end, where the back end can show it.
  virtual void set_link(bool /*up*/) {}
  // The back end tells its network, by a broadcast, where `address` is now. Only with has_announce().
  virtual bool has_announce() const { return false; }
  virtual Result<void> announce(const std::array<uint8_t, 6>& /*address*/) { return {}; }

  // The first `size` bytes of the device's configuration; at most kMostConfig. Only with has_config().
  virtual bool has_config() const { return false; }
  virtual Result<std::vector<std::byte>> config(uint32_t size) { return std::vector<std::byte>(size); }
  virtual Result<void> set_config(uint32_t /*offset*/, std::span<const std::byte> /*bytes*/) { return {}; }
  // Where the back end says that its configuration has changed; -1: nowhere. Whoever sees it readable calls
  // serve_back_end(), after which it is closed or not: told by the result. An error ends the session.
  virtual int back_end_fd() const { return -1; }
  virtual Result<bool> serve_back_end() { return false; }
  // `changed` is called when the configuration has changed, also while another operation waits; then
  // take_config_change() is true once.
  virtual void on_config_change(std::function<void()> /*changed*/) {}
  virtual bool take_config_change() { return false; }

 protected:
  Session() = default;

  uint64_t features_ = 0, queues_ = 0;
};

}  // namespace ostler::virtio::vhost_user
