#include "devices/virtio/vhost_user/user_session.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "base/assert.h"
#include "devices/virtio/device.h"

namespace ostler::virtio::vhost_user {
namespace {

constexpr uint64_t kWantedProtocol = feature(VHOST_USER_PROTOCOL_F_MQ) | feature(VHOST_USER_PROTOCOL_F_RARP) |
                                     feature(VHOST_USER_PROTOCOL_F_REPLY_ACK) |
                                     feature(VHOST_USER_PROTOCOL_F_BACKEND_REQ) |
                                     feature(VHOST_USER_PROTOCOL_F_CONFIG);

}  // namespace

Result<std::unique_ptr<UserSession>> UserSession::open(Fd socket, std::chrono::milliseconds patience) {
  std::unique_ptr<UserSession> session(new UserSession(std::move(socket), patience));
  TRY(session->negotiate());
  return session;
}

Result<void> UserSession::negotiate() {
  using enum Request;
  TRY_ASSIGN(features_, get(VHOST_USER_GET_FEATURES));
  extended_ = (features_ & feature(VHOST_USER_F_PROTOCOL_FEATURES)) != 0;
  features_ &= ~feature(VHOST_USER_F_PROTOCOL_FEATURES);
  // Rings of older devices have another layout.
  if ((features_ & feature(VIRTIO_F_VERSION_1)) == 0)
    return Error(ErrorKind::kUnsupported, "it does not know Virtio 1 (VIRTIO_F_VERSION_1)");
  if (extended_) {
    TRY_ASSIGN(const uint64_t offered, get(VHOST_USER_GET_PROTOCOL_FEATURES));
    uint64_t chosen = offered & kWantedProtocol;
    // All that is heard there is about the configuration.
    if ((chosen & feature(VHOST_USER_PROTOCOL_F_CONFIG)) == 0)
      chosen &= ~feature(VHOST_USER_PROTOCOL_F_BACKEND_REQ);
    TRY(set_object(VHOST_USER_SET_PROTOCOL_FEATURES, chosen));
    protocol_ = chosen;
  }
  queues_ = Device::kMaxQueues;
  if (has_protocol(VHOST_USER_PROTOCOL_F_MQ)) {
    TRY_ASSIGN(queues_, get(VHOST_USER_GET_QUEUE_NUM));
  }
  TRY(set(VHOST_USER_SET_OWNER, {}));
  return has_protocol(VHOST_USER_PROTOCOL_F_BACKEND_REQ) ? listen_to_back_end() : Result<void>();
}

Result<void> UserSession::listen_to_back_end() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    return errno_error("socketpair", errno);
  own_requests_.emplace(Fd(ends[0]));
  const Fd theirs(ends[1]);
  channel_.serve_meanwhile(own_requests_->fd(), [this] { return serve_back_end(); });
  return set(Request::VHOST_USER_SET_BACKEND_REQ_FD, {}, {{theirs.get()}});
}

Result<bool> UserSession::serve_back_end() {
  if (auto served = own_requests_->serve(); !served) {
    channel_.shutdown();
    return std::move(served).error();
  }
  if (own_requests_->config_changed() && config_changed_) config_changed_();
  return own_requests_->open();
}

void UserSession::on_config_change(std::function<void()> changed) {
  config_changed_ = std::move(changed);
  if (own_requests_ && own_requests_->config_changed()) config_changed_();
}

Result<uint64_t> UserSession::get(Request request) {
  TRY(channel_.send(request, 0, {}));
  TRY_ASSIGN(const auto payload, channel_.receive(request, sizeof(uint64_t)));
  uint64_t value = 0;
  std::memcpy(&value, payload.data(), sizeof value);
  return value;
}

Result<void> UserSession::set(Request request, std::span<const std::byte> payload,
                              std::span<const int> descriptors) {
  const bool acknowledged = has_protocol(VHOST_USER_PROTOCOL_F_REPLY_ACK);
  TRY(channel_.send(request, acknowledged ? kNeedReply : 0, payload, descriptors));
  if (!acknowledged) return {};
  TRY_ASSIGN(const auto reply, channel_.receive(request, sizeof(uint64_t)));
  uint64_t refused = 0;
  std::memcpy(&refused, reply.data(), sizeof refused);
  if (refused == 0) return {};
  channel_.shutdown();
  return Error(ErrorKind::kIo, fmt::format("it has refused request {}", static_cast<uint32_t>(request)));
}

Result<void> UserSession::set_features(uint64_t features) {
  if (extended_) features |= feature(VHOST_USER_F_PROTOCOL_FEATURES);
  return set_object(Request::VHOST_USER_SET_FEATURES, features);
}

Result<void> UserSession::set_memory(const MemoryTable& table, const MemoryTable::Entry& rings) {
  const size_t count = table.entries().size() + 1;
  if (count > kMostRegions) {
    channel_.shutdown();
    return Error(ErrorKind::kUnsupported, fmt::format("the guest's memory is in {} pieces, and it takes {}",
                                                      count - 1, kMostRegions - 1));
  }
  const uint32_t head[2] = {static_cast<uint32_t>(count), 0};
  std::vector<std::byte> payload(sizeof head + count * sizeof(MemoryRegion));
  std::memcpy(payload.data(), head, sizeof head);
  std::vector<int> descriptors;
  const auto add = [&](const MemoryTable::Entry& entry) {
    std::memcpy(payload.data() + sizeof head + descriptors.size() * sizeof(MemoryRegion), &entry.region,
                sizeof(MemoryRegion));
    descriptors.push_back(entry.ram->memory().fd());
  };
  for (const auto& entry : table.entries()) add(entry);
  add(rings);
  TRY(set(Request::VHOST_USER_SET_MEM_TABLE, payload, descriptors));
  // Messages are worked on in turn: an answer to a later one tells that this one is done.
  if (has_protocol(VHOST_USER_PROTOCOL_F_REPLY_ACK)) return {};
  auto answered = get(Request::VHOST_USER_GET_FEATURES);
  if (!answered) return std::move(answered).error();
  return {};
}

Result<void> UserSession::start_ring(unsigned index, const RingPlace& place, int kick, int call,
                                     bool enabled) {
  using enum Request;
  TRY(set_object(VHOST_USER_SET_VRING_NUM, VringState{index, place.size}));
  TRY(set_object(VHOST_USER_SET_VRING_BASE, VringState{index, place.base}));
  TRY(set_object(VHOST_USER_SET_VRING_ADDR, VringAddress{.index = index,
                                                         .flags = 0,
                                                         .descriptors = place.descriptors,
                                                         .used = place.used,
                                                         .available = place.available,
                                                         .log = 0}));
  const uint64_t number = index;
  TRY(set_object(VHOST_USER_SET_VRING_CALL, number, {&call, 1}));
  TRY(set_object(VHOST_USER_SET_VRING_KICK, number, {&kick, 1}));
  return enable_ring(index, enabled);
}

Result<void> UserSession::enable_ring(unsigned index, bool enabled) {
  if (!extended_) return {};
  return set_object(Request::VHOST_USER_SET_VRING_ENABLE, VringState{index, enabled ? 1u : 0u});
}

Result<void> UserSession::announce(const std::array<uint8_t, 6>& address) {
  uint64_t payload = 0;
  std::memcpy(&payload, address.data(), address.size());
  return set_object(Request::VHOST_USER_SEND_RARP, payload);
}

Result<void> UserSession::stop_ring(unsigned index) {
  using enum Request;
  TRY(enable_ring(index, false));
  const VringState state{index, 0};
  TRY(channel_.send(VHOST_USER_GET_VRING_BASE, 0, std::as_bytes(std::span(&state, 1))));
  TRY_ASSIGN(const auto reply, channel_.receive(VHOST_USER_GET_VRING_BASE, sizeof state));
  VringState answer{};
  std::memcpy(&answer, reply.data(), sizeof answer);
  if (answer.index == index) return {};
  channel_.shutdown();
  return Error(ErrorKind::kCorrupt,
               fmt::format("asked to stop queue {}, it stopped {}", index, answer.index));
}

Result<std::vector<std::byte>> UserSession::config(uint32_t size) {
  using enum Request;
  ASSERT(size <= kMostConfig, "a configuration is small");
  const ConfigHeader header{0, size, 0};
  std::vector<std::byte> payload(sizeof header + size);
  std::memcpy(payload.data(), &header, sizeof header);
  TRY(channel_.send(VHOST_USER_GET_CONFIG, 0, payload));
  TRY_ASSIGN(auto reply, channel_.receive(VHOST_USER_GET_CONFIG, payload.size()));
  ConfigHeader answer{};
  std::memcpy(&answer, reply.data(), sizeof answer);
  if (answer.offset != 0 || answer.size != size) {
    channel_.shutdown();
    return Error(ErrorKind::kCorrupt, fmt::format("asked for {} bytes of configuration, it gave {} from {}",
                                                  size, answer.size, answer.offset));
  }
  reply.erase(reply.begin(), reply.begin() + sizeof answer);
  return reply;
}

Result<void> UserSession::set_config(uint32_t offset, std::span<const std::byte> bytes) {
  const ConfigHeader header{offset, static_cast<uint32_t>(bytes.size()), 0};
  std::vector<std::byte> payload(sizeof header + bytes.size());
  std::memcpy(payload.data(), &header, sizeof header);
  if (!bytes.empty()) std::memcpy(payload.data() + sizeof header, bytes.data(), bytes.size());
  return set(Request::VHOST_USER_SET_CONFIG, payload);
}

}  // namespace ostler::virtio::vhost_user
