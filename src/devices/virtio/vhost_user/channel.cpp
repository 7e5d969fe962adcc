#include "devices/virtio/vhost_user/channel.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "base/assert.h"

namespace ostler::virtio::vhost_user {
namespace {

Error closed() {
  return Error(ErrorKind::kIo, "it has closed the connection");
}

}  // namespace

void Channel::shutdown() {
  open_ = false;
  ::shutdown(socket_.get(), SHUT_RDWR);
}

Result<void> Channel::wait(short events, Deadline deadline) {
  for (;;) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    // poll() leaves a negative descriptor out.
    std::array<pollfd, 2> polls = {{{socket_.get(), events, 0}, {other_, POLLIN, 0}}};
    const int ready =
        ::poll(polls.data(), polls.size(), left.count() > 0 ? static_cast<int>(left.count()) : 0);
    if (ready < 0 && errno != EINTR) return errno_error("poll", errno);
    if (ready > 0 && polls[0].revents != 0) return {};
    // Also for a back end that keeps the other socket busy.
    if (ready == 0 || left.count() <= 0) return Error(ErrorKind::kIo, "it does not answer");
    if (ready < 0) continue;
    TRY_ASSIGN(const bool more, serve_other_());
    if (!more) other_ = -1;
  }
}

Result<void> Channel::send(Request request, uint32_t flags, std::span<const std::byte> payload,
                           std::span<const int> descriptors) {
  ASSERT(descriptors.size() <= kMostRegions, "a message has few descriptors");
  if (!open_) return closed();
  const Header header{static_cast<uint32_t>(request), flags | kVersion,
                      static_cast<uint32_t>(payload.size())};
  std::vector<std::byte> bytes(sizeof header + payload.size());
  std::memcpy(bytes.data(), &header, sizeof header);
  if (!payload.empty()) std::memcpy(bytes.data() + sizeof header, payload.data(), payload.size());

  const Deadline deadline = std::chrono::steady_clock::now() + patience_;
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(kMostRegions * sizeof(int))> control{};
  for (size_t done = 0; done < bytes.size();) {
    iovec piece{bytes.data() + done, bytes.size() - done};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    if (done == 0 && !descriptors.empty()) {  // they go with the first byte
      message.msg_control = control.data();
      message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
      cmsghdr* rights = CMSG_FIRSTHDR(&message);
      rights->cmsg_level = SOL_SOCKET;
      rights->cmsg_type = SCM_RIGHTS;
      rights->cmsg_len = CMSG_LEN(descriptors.size_bytes());
      std::memcpy(CMSG_DATA(rights), descriptors.data(), descriptors.size_bytes());
    }
    const ssize_t sent = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0) {
      done += static_cast<size_t>(sent);
      continue;
    }
    if (errno == EINTR) continue;
    if (errno == EPIPE || errno == ECONNRESET) return failed(closed());
    if (errno != EAGAIN && errno != EWOULDBLOCK) return failed(errno_error("sendmsg", errno));
    if (auto room = wait(POLLOUT, deadline); !room) return failed(std::move(room).error());
  }
  return {};
}

Result<void> Channel::read_all(std::span<std::byte> to, Deadline deadline) {
  while (!to.empty()) {
    const ssize_t got = ::recv(socket_.get(), to.data(), to.size(), MSG_DONTWAIT);
    if (got > 0) {
      to = to.subspan(static_cast<size_t>(got));
      continue;
    }
    if (got == 0 || errno == ECONNRESET) return closed();
    if (errno == EINTR) continue;
    if (errno != EAGAIN && errno != EWOULDBLOCK) return errno_error("recv", errno);
    TRY(wait(POLLIN, deadline));
  }
  return {};
}

Result<std::vector<std::byte>> Channel::receive(Request request, size_t size) {
  if (!open_) return closed();
  const Deadline deadline = std::chrono::steady_clock::now() + patience_;
  Header header{};
  if (auto read = read_all(std::as_writable_bytes(std::span(&header, 1)), deadline); !read)
    return failed(std::move(read).error());
  if (header.request != static_cast<uint32_t>(request) || (header.flags & kReply) == 0 ||
      (header.flags & kVersionMask) != kVersion || header.size != size)
    return failed(
        Error(ErrorKind::kCorrupt,
              fmt::format("its answer to request {} is of type {}, flags {:#x}, {} bytes",
                          static_cast<uint32_t>(request), header.request, header.flags, header.size)));
  std::vector<std::byte> payload(size);
  if (auto read = read_all(payload, deadline); !read) return failed(std::move(read).error());
  return payload;
}

}  // namespace ostler::virtio::vhost_user
