#include "devices/virtio/vhost_user/back_end_requests.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace ostler::virtio::vhost_user {

// Until the message has `size` bytes.
BackEndRequests::Read BackEndRequests::fill(size_t size) {
  while (have_ < size) {
    const ssize_t got = ::recv(socket_.get(), message_.data() + have_, size - have_, MSG_DONTWAIT);
    if (got > 0) {
      have_ += static_cast<size_t>(got);
      continue;
    }
    if (got < 0 && errno == EINTR) continue;
    return got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) ? Read::kLater : Read::kEnd;
  }
  return Read::kAll;
}

Result<void> BackEndRequests::serve() {
  for (unsigned left = kAtATime; open_ && left != 0; --left) {
    Header header{};
    Read read = fill(sizeof header);
    if (read == Read::kAll) {
      std::memcpy(&header, message_.data(), sizeof header);
      if ((header.flags & kVersionMask) != kVersion || (header.flags & kReply) != 0 ||
          header.size > kMostPayload)
        return failed(fmt::format("its request {} has flags {:#x} and {} bytes", header.request, header.flags,
                                  header.size));
      read = fill(sizeof header + header.size);
    }
    if (read == Read::kLater) return {};
    if (read == Read::kEnd) {
      open_ = false;
      return {};
    }
    have_ = 0;
    TRY(answer(header));
  }
  return {};
}

Result<void> BackEndRequests::answer(const Header& header) {
  const bool known = header.request == VHOST_USER_BACKEND_CONFIG_CHANGE_MSG;
  if (known) config_changed_ = true;
  if ((header.flags & kNeedReply) == 0) return {};
  struct {
    Header header;
    std::array<std::byte, sizeof(uint64_t)> failed{};
  } reply{{header.request, kVersion | kReply, sizeof(uint64_t)}};
  reply.failed[0] = std::byte{known ? uint8_t{0} : uint8_t{1}};
  static_assert(sizeof reply == sizeof(Header) + sizeof(uint64_t));
  for (;;) {
    const ssize_t sent = ::send(socket_.get(), &reply, sizeof reply, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent == static_cast<ssize_t>(sizeof reply)) return {};
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && (errno == EPIPE || errno == ECONNRESET)) {
      open_ = false;
      return {};
    }
    return failed("it does not read the answers to its requests");
  }
}

}  // namespace ostler::virtio::vhost_user
