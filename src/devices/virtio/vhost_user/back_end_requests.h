// What a back end says by itself, on a socket of its own (VHOST_USER_SET_BACKEND_REQ_FD): that the device's
// configuration has changed. Other messages belong to features that are not asked for; whoever sends one and
// wants to know is told that it failed. The back end is not trusted: messages are small, descriptors in them
// are dropped by the kernel, and it is never waited for.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "base/fd.h"
#include "base/result.h"
#include "devices/virtio/vhost_user/messages.h"

namespace ostler::virtio::vhost_user {

// One thread at a time.
class BackEndRequests {
 public:
  explicit BackEndRequests(Fd socket) : socket_(std::move(socket)) {}

  // Takes what has come and answers it, a few messages at most: the descriptor stays readable while there are
  // more. Error, kCorrupt: the back end broke the rules, or does not read the answers.
  Result<void> serve();
  // Whether the configuration has changed since last asked.
  bool take_config_change() { return std::exchange(config_changed_, false); }
  bool config_changed() const { return config_changed_; }
  // False: the back end has closed it, which it may, or serve() has failed.
  bool open() const { return open_; }
  int fd() const { return socket_.get(); }

 private:
  static constexpr unsigned kAtATime = 16;
  static constexpr uint32_t kMostPayload = 256;  // bytes

  enum class Read { kAll, kLater, kEnd };
  Read fill(size_t size);
  Result<void> answer(const Header& header);
  Error failed(std::string why) {
    open_ = false;
    return Error(ErrorKind::kCorrupt, std::move(why));
  }

  const Fd socket_;
  std::array<std::byte, sizeof(Header) + kMostPayload> message_{};
  size_t have_ = 0;  // bytes of message_
  bool config_changed_ = false;
  bool open_ = true;
};

}  // namespace ostler::virtio::vhost_user
