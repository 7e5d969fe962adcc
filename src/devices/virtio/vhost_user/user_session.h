// A connection to a back end in another process after its negotiation: each operation sends its messages
// and, where the back end can acknowledge them, waits until they are done.
#pragma once

#include <sys/epoll.h>

#include <chrono>
#include <memory>
#include <optional>

#include "base/fd.h"
#include "devices/virtio/vhost_user/back_end_requests.h"
#include "devices/virtio/vhost_user/channel.h"
#include "devices/virtio/vhost_user/session.h"

namespace ostler::virtio::vhost_user {

class UserSession final : public Session {
 public:
  // Takes over a connected socket and negotiates. Errors: kUnsupported (not a back end of Virtio 1), those of
  // Channel.
  static Result<std::unique_ptr<UserSession>> open(Fd socket,
                                                   std::chrono::milliseconds patience = Channel::kPatience);

  MemoryTable::Whose memory() const override { return MemoryTable::Whose::kShared; }
  bool alive() const override { return channel_.open(); }
  int fd() const override { return channel_.fd(); }
  // Also when we shut the connection down on another thread.
  uint32_t end_events() const override { return EPOLLRDHUP; }
  std::string_view why_ended() const override { return "it has closed the connection"; }
  void end() override { channel_.shutdown(); }

  Result<void> set_features(uint64_t features) override;
  Result<void> set_memory(const MemoryTable& table, const MemoryTable::Entry& rings) override;
  Result<void> start_ring(unsigned index, const RingPlace& place, int kick, int call, bool enabled) override;
  Result<void> enable_ring(unsigned index, bool enabled) override;
  Result<void> stop_ring(unsigned index) override;
  bool has_announce() const override { return has_protocol(VHOST_USER_PROTOCOL_F_RARP); }
  Result<void> announce(const std::array<uint8_t, 6>& address) override;
  bool has_config() const override { return has_protocol(VHOST_USER_PROTOCOL_F_CONFIG); }
  Result<std::vector<std::byte>> config(uint32_t size) override;
  Result<void> set_config(uint32_t offset, std::span<const std::byte> bytes) override;
  int back_end_fd() const override {
    return own_requests_ && own_requests_->open() ? own_requests_->fd() : -1;
  }
  Result<bool> serve_back_end() override;
  void on_config_change(std::function<void()> changed) override;
  bool take_config_change() override { return own_requests_ && own_requests_->take_config_change(); }

 private:
  UserSession(Fd socket, std::chrono::milliseconds patience) : channel_(std::move(socket), patience) {}
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
  uint64_t protocol_ = 0;
  bool extended_ = false;  // VHOST_USER_F_PROTOCOL_FEATURES
};

}  // namespace ostler::virtio::vhost_user
