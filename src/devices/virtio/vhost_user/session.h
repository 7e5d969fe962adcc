// A connection to a back end after its negotiation: each operation sends its messages and, where the back end
// can acknowledge them, waits until they are done. Any error ends the session; the caller drops it.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "devices/virtio/vhost_user/back_end_requests.h"
#include "devices/virtio/vhost_user/channel.h"
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
  // Takes over a connected socket and negotiates. Errors: kUnsupported (not a back end of Virtio 1), those of
  // Channel.
  static Result<std::unique_ptr<Session>> open(Fd socket,
                                               std::chrono::milliseconds patience = Channel::kPatience);

  // The back end's virtio features, without VHOST_USER_F_PROTOCOL_FEATURES.
  uint64_t features() const { return features_; }
  // How many queues it has; kMaxQueues when it does not tell.
  uint64_t queues() const { return queues_; }
  bool has_config() const { return has_protocol(VHOST_USER_PROTOCOL_F_CONFIG); }
  bool has_announce() const { return has_protocol(VHOST_USER_PROTOCOL_F_RARP); }
  // Where the back end says that its configuration has changed; -1: nowhere. Whoever sees it readable calls
  // serve_back_end(), after which it is closed or not: told by the result. An error ends the session.
  int back_end_fd() const { return own_requests_ && own_requests_->open() ? own_requests_->fd() : -1; }
  Result<bool> serve_back_end();
  // `changed` is called when the configuration has changed, also while another operation waits; then
  // take_config_change() is true once.
  void on_config_change(std::function<void()> changed);
  bool take_config_change() { return own_requests_ && own_requests_->take_config_change(); }
  bool alive() const { return channel_.open(); }
  int fd() const { return channel_.fd(); }
  void end() { channel_.shutdown(); }

  Result<void> set_features(uint64_t features);
  // `rings`: the memory that RingPlace is about. On return the back end uses no older table.
  Result<void> set_memory(const MemoryTable& table, const MemoryTable::Entry& rings);
  // `kick`: the back end is told of available buffers; `call`: it tells of used ones.
  // Not `enabled`: it leaves the ring alone until enable_ring().
  Result<void> start_ring(unsigned index, const RingPlace& place, int kick, int call, bool enabled = true);
  // Nothing of a back end that cannot be told.
  Result<void> enable_ring(unsigned index, bool enabled);
  // On return the back end leaves the ring and its buffers alone.
  Result<void> stop_ring(unsigned index);
  // The back end tells its network, by a broadcast, where `address` is now. Only with has_announce().
  Result<void> announce(const std::array<uint8_t, 6>& address);
  // The first `size` bytes of the device's configuration; at most kMostConfig.
  Result<std::vector<std::byte>> config(uint32_t size);
  Result<void> set_config(uint32_t offset, std::span<const std::byte> bytes);

 private:
  Session(Fd socket, std::chrono::milliseconds patience) : channel_(std::move(socket), patience) {}
  Result<void> negotiate();
  Result<void> listen_to_back_end();
  bool has_protocol(unsigned bit) const { return (protocol_ >> bit & 1) != 0; }
  Result<uint64_t> get(Request request);
  Result<void> set(Request request, std::span<const std::byte> payload,
                   std::span<const int> descriptors = {});
  template <class T>
  Result<void> set_object(Request request, const T& payload, std::span<const int> descriptors = {}) {
    return set(request, std::as_bytes(std::span(&payload, 1)), descriptors);
  }

  Channel channel_;
  std::optional<BackEndRequests> own_requests_;  // the back end's
  std::function<void()> config_changed_;
  uint64_t features_ = 0, protocol_ = 0, queues_ = 0;
  bool extended_ = false;  // VHOST_USER_F_PROTOCOL_FEATURES
};

}  // namespace ostler::virtio::vhost_user
