#include "devices/virtio/vsock/connection.h"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <string_view>

namespace ostler::virtio::vsock {
namespace {

constexpr uint32_t kMostData = 64 * 1024;  // in one packet
constexpr size_t kLongestGreeting = 32;

ssize_t send_some(int fd, std::span<iovec> spans) {
  msghdr message{};
  message.msg_iov = spans.data();
  message.msg_iovlen = spans.size();
  ssize_t result = 0;
  do {
    result = ::sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (result < 0 && errno == EINTR);
  return result;
}

ssize_t receive_some(int fd, std::span<iovec> spans, int flags = 0) {
  msghdr message{};
  message.msg_iov = spans.data();
  message.msg_iovlen = spans.size();
  ssize_t result = 0;
  do {
    result = ::recvmsg(fd, &message, MSG_DONTWAIT | flags);
  } while (result < 0 && errno == EINTR);
  return result;
}

}  // namespace

void Connection::happened(uint32_t events) {
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) readable_ = true;
  if ((events & (EPOLLHUP | EPOLLERR)) != 0) hung_up_ = true;
  if (state_ != State::kOpen && state_ != State::kDraining) return;
  if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0) flush();
  host_ended();
}

// The host's program is gone, and what it has sent is with the guest or not wanted.
void Connection::host_ended() {
  if (hung_up_ && (end_of_file_ || (guest_shutdown_ & VIRTIO_VSOCK_SHUTDOWN_RCV) != 0))
    shutdown_ = kShutdownBoth;
}

Connection::Greeting Connection::read_greeting(uint32_t& port) {
  // Looks first: what follows the line is already for the guest.
  std::array<char, kLongestGreeting> text;
  iovec span{text.data(), text.size()};
  const ssize_t seen = receive_some(fd(), {&span, 1}, MSG_PEEK);
  if (seen < 0 && errno == EAGAIN) return Greeting::kMore;
  if (seen <= 0) return Greeting::kBad;
  std::string_view line(text.data(), static_cast<size_t>(seen));
  const size_t end = line.find('\n');
  if (end == std::string_view::npos) return line.size() < text.size() ? Greeting::kMore : Greeting::kBad;
  span.iov_len = end + 1;
  if (receive_some(fd(), {&span, 1}) != static_cast<ssize_t>(end + 1)) return Greeting::kBad;
  line = line.substr(0, end);
  constexpr std::string_view kVerb = "CONNECT ";
  if (!line.starts_with(kVerb)) return Greeting::kBad;
  line.remove_prefix(kVerb.size());
  const auto [stop, error] = std::from_chars(line.data(), line.data() + line.size(), port);
  return error == std::errc() && stop == line.data() + line.size() ? Greeting::kWhole : Greeting::kBad;
}

void Connection::request(Ports ports) {
  ports_ = ports;
  state_ = State::kRequested;
  pending_request_ = true;
}

bool Connection::accepted() {
  state_ = State::kOpen;
  std::string line = fmt::format("OK {}\n", ports_.host);
  iovec span{line.data(), line.size()};
  return send_some(fd(), {&span, 1}) == static_cast<ssize_t>(line.size());
}

void Connection::peer_credit(const Header& header) {
  peer_alloc_ = header.buf_alloc;
  peer_forwarded_ = header.fwd_cnt;
  if (peer_room() != 0) asked_for_credit_ = false;
}

uint32_t Connection::peer_room() const {
  const uint32_t in_flight = sent_bytes_ - peer_forwarded_;
  return in_flight < peer_alloc_ ? peer_alloc_ - in_flight : 0;
}

// A guest that waits for room in our buffer must not wait for ever, one that does not wait need not hear of
// each byte.
bool Connection::credit_due() const {
  return pending_credit_ || forwarded_ - told_forwarded_ >= kBufferBytes / 2;
}

bool Connection::written(ssize_t result, size_t& taken) {
  if (result > 0) taken += static_cast<size_t>(result);
  if (result >= 0 || errno == EAGAIN) return true;
  deaf_ = true;
  shutdown_ |= VIRTIO_VSOCK_SHUTDOWN_RCV;
  return false;
}

bool Connection::take(memory::Dma& dma, const Chain& chain, uint32_t length) {
  if ((guest_shutdown_ & VIRTIO_VSOCK_SHUTDOWN_SEND) != 0) return false;
  if (uint64_t{received_ - told_forwarded_} + length > kBufferBytes) return false;
  received_ += length;
  size_t taken = 0;
  if (kept() == 0 && !deaf_ && length != 0) {
    memory::Mapping mapping;
    if (!chain.map_readable(dma, sizeof(Header), length, mapping)) return false;
    written(send_some(fd(), mapping.spans), taken);
  }
  if (deaf_) {
    forwarded_ += length;
    return true;
  }
  forwarded_ += static_cast<uint32_t>(taken);
  const size_t rest = length - taken;
  if (rest == 0) return true;
  buffer_.erase(buffer_.begin(), buffer_.begin() + static_cast<ptrdiff_t>(sent_));
  sent_ = 0;
  const size_t before = buffer_.size();
  buffer_.resize(before + rest);
  return chain.read(dma, sizeof(Header) + taken, std::span(buffer_).subspan(before));
}

void Connection::flush() {
  if (kept() != 0) {
    iovec span{buffer_.data() + sent_, kept()};
    size_t taken = 0;
    if (!written(send_some(fd(), {&span, 1}), taken)) taken = kept();
    sent_ += taken;
    forwarded_ += static_cast<uint32_t>(taken);
  }
  if (kept() != 0) return;
  buffer_ = {};
  sent_ = 0;
  if ((guest_shutdown_ & VIRTIO_VSOCK_SHUTDOWN_SEND) != 0) ::shutdown(fd(), SHUT_WR);
}

bool Connection::shut(uint32_t flags) {
  guest_shutdown_ |= flags & kShutdownBoth;
  if ((guest_shutdown_ & VIRTIO_VSOCK_SHUTDOWN_RCV) != 0) ::shutdown(fd(), SHUT_RD);
  flush();
  host_ended();
  return guest_shutdown_ == kShutdownBoth;
}

bool Connection::reads() const {
  return readable_ && !end_of_file_ && (guest_shutdown_ & VIRTIO_VSOCK_SHUTDOWN_RCV) == 0 &&
         (peer_room() != 0 || !asked_for_credit_);
}

bool Connection::has_packet() const {
  if (state_ == State::kRequested) return pending_request_;
  if (state_ != State::kOpen) return false;
  return pending_response_ || shutdown_ != told_shutdown_ || reads() || credit_due();
}

Header Connection::header(Op op, uint32_t length, uint32_t flags) {
  pending_credit_ = false;
  told_forwarded_ = forwarded_;
  Header header{};
  header.len = length;
  header.type = VIRTIO_VSOCK_TYPE_STREAM;
  header.op = op;
  header.flags = flags;
  header.buf_alloc = kBufferBytes;
  header.fwd_cnt = forwarded_;
  return header;
}

std::optional<Header> Connection::next_packet(memory::Dma& dma, const Chain& chain) {
  if (!has_packet()) return std::nullopt;
  if (pending_request_) {
    pending_request_ = false;
    return header(VIRTIO_VSOCK_OP_REQUEST);
  }
  if (pending_response_) {
    pending_response_ = false;
    return header(VIRTIO_VSOCK_OP_RESPONSE);
  }
  if (shutdown_ == told_shutdown_ && reads()) {
    if (auto packet = read_packet(dma, chain)) return packet;
    if (broken_) return header(VIRTIO_VSOCK_OP_RST);
  }
  if (shutdown_ != told_shutdown_) {
    told_shutdown_ = shutdown_;
    return header(VIRTIO_VSOCK_OP_SHUTDOWN, 0, shutdown_);
  }
  if (credit_due()) return header(VIRTIO_VSOCK_OP_CREDIT_UPDATE);
  return std::nullopt;
}

std::optional<Header> Connection::read_packet(memory::Dma& dma, const Chain& chain) {
  const uint32_t room = peer_room();
  if (room == 0) {
    asked_for_credit_ = true;
    return header(VIRTIO_VSOCK_OP_CREDIT_REQUEST);
  }
  const auto most = std::min<uint64_t>({room, kMostData, chain.writable_bytes() - sizeof(Header)});
  memory::Mapping mapping;
  if (!chain.map_writable(dma, sizeof(Header), most, mapping)) {
    broken_ = true;
    return std::nullopt;
  }
  const ssize_t got = receive_some(fd(), mapping.spans);
  if (got > 0) {
    dma.written(mapping, static_cast<uint64_t>(got));
    sent_bytes_ += static_cast<uint32_t>(got);
    return header(VIRTIO_VSOCK_OP_RW, static_cast<uint32_t>(got));
  }
  if (got == 0) {
    end_of_file_ = true;
    shutdown_ |= VIRTIO_VSOCK_SHUTDOWN_SEND;
    host_ended();
  } else if (errno == EAGAIN) {
    readable_ = false;
  } else {
    broken_ = true;
  }
  return std::nullopt;
}

}  // namespace ostler::virtio::vsock
