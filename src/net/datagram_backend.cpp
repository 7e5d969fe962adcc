#include "net/datagram_backend.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace ostler::net {
namespace {

constexpr int kReadsAtOnce = 64;
constexpr int64_t kFirstPauseNs = 500'000, kLongestPauseNs = 64'000'000;

bool is_multicast(const SocketAddress& address) {
  if (address.family() == AF_INET)
    return IN_MULTICAST(ntohl(reinterpret_cast<const sockaddr_in*>(&address.storage)->sin_addr.s_addr));
  return address.family() == AF_INET6 &&
         IN6_IS_ADDR_MULTICAST(&reinterpret_cast<const sockaddr_in6*>(&address.storage)->sin6_addr);
}

}  // namespace

DatagramBackend::DatagramBackend(event::Loop& loop, DatagramOptions options)
    : loop_(loop),
      options_(std::move(options)),
      timer_(loop, [this] { wake(); }),
      deliver_task_(loop,
                    [this] {
                      if (held_) read();
                    }),
      wake_task_(loop,
                 [this] {
                   const std::lock_guard lock(receiver_mutex_);
                   if (receiver_ != nullptr) receiver_->sendable(0);
                 }),
      retry_task_(loop,
                  [this] {
                    const std::lock_guard lock(send_mutex_);
                    timer_.set(loop_.clock().now() + pause_ns_);
                  }),
      buffer_(kMaxFrame + 1) {}

Result<std::unique_ptr<DatagramBackend>> DatagramBackend::create(event::Loop& loop,
                                                                 const DatagramOptions& options) {
  std::unique_ptr<DatagramBackend> backend(new DatagramBackend(loop, options));
  TRY(backend->start());
  return backend;
}

DatagramBackend::~DatagramBackend() {
  timer_.cancel();
  if (fd_) loop_.unwatch(fd_.get());
  if (!own_path_.empty()) ::unlink(own_path_.c_str());
}

Result<void> DatagramBackend::bind(const SocketAddress& address, const std::string& text) {
  const bool path = address.family() == AF_UNIX && !options_.local.abstract;
  struct stat status {};
  // A socket that an earlier run left; anything else of that name is not ours to remove.
  if (path && ::lstat(text.c_str(), &status) == 0 && S_ISSOCK(status.st_mode)) ::unlink(text.c_str());
  if (::bind(fd_.get(), address.get(), address.size) != 0)
    return errno_error(fmt::format("cannot use the address {}", text), errno);
  if (path) own_path_ = text;
  return {};
}

// A socket on the group's port, on the interface that has the local address.
Result<void> DatagramBackend::join() {
  const int yes = 1;
  setsockopt(fd_.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (remote_.family() != AF_INET)
    return Error(ErrorKind::kUnsupported,
                 fmt::format("{}: multicast is understood for IPv4", options_.remote.text()));
  TRY(bind(remote_, options_.remote.text()));
  ip_mreq group{};
  group.imr_multiaddr = reinterpret_cast<const sockaddr_in*>(&remote_.storage)->sin_addr;
  if (options_.local.kind == Endpoint::Kind::kInet) {
    Endpoint interface = options_.local;
    if (interface.port.empty()) interface.port = "0";
    interface.ipv6 = false;
    TRY_ASSIGN(const SocketAddress address, resolve(interface, SOCK_DGRAM, true));
    group.imr_interface = reinterpret_cast<const sockaddr_in*>(&address.storage)->sin_addr;
    setsockopt(fd_.get(), IPPROTO_IP, IP_MULTICAST_IF, &group.imr_interface, sizeof group.imr_interface);
  }
  if (setsockopt(fd_.get(), IPPROTO_IP, IP_ADD_MEMBERSHIP, &group, sizeof group) != 0)
    return errno_error(
        fmt::format("cannot join the multicast group {}; give localaddr, an address of the interface to use",
                    options_.remote.text()),
        errno);
  setsockopt(fd_.get(), IPPROTO_IP, IP_MULTICAST_LOOP, &yes, sizeof yes);  // guests of this host
  return {};
}

Result<void> DatagramBackend::start() {
  using Kind = Endpoint::Kind;
  if (options_.remote.kind != Kind::kNone) {
    TRY_ASSIGN(remote_, resolve(options_.remote, SOCK_DGRAM, false));
  }
  if (options_.local.kind == Kind::kFd) {
    TRY_ASSIGN(fd_, take_socket(options_.local.fd, SOCK_DGRAM));
  } else {
    if (options_.remote.kind == Kind::kNone)
      return Error(ErrorKind::kInvalidArgument, "remote is missing: whom to send frames to");
    fd_ = Fd(::socket(remote_.family(), SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd_) return errno_error("cannot make a datagram socket", errno);
    if (is_multicast(remote_)) {
      TRY(join());
    } else if (options_.local.kind != Kind::kNone) {
      TRY_ASSIGN(const SocketAddress local, resolve(options_.local, SOCK_DGRAM, true));
      if (local.family() != remote_.family())
        return Error(ErrorKind::kInvalidArgument, fmt::format("{} and {} are addresses of different kinds",
                                                              options_.local.text(), options_.remote.text()));
      TRY(bind(local, options_.local.text()));
    }
  }
  loop_.watch(fd_.get(), EPOLLIN, [this](uint32_t) { read(); });
  return {};
}

void DatagramBackend::attach(Receiver* receiver) {
  const std::lock_guard lock(receiver_mutex_);
  receiver_ = receiver;
}

bool DatagramBackend::send(const Frame& frame, unsigned) {
  if (frame.bytes.size() > kMaxFrame || frame.header != VnetHeader{}) return true;
  const std::lock_guard lock(send_mutex_);
  const bool connected = remote_.size == 0;
  const ssize_t sent =
      ::sendto(fd_.get(), frame.bytes.data(), frame.bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT,
               connected ? nullptr : remote_.get(), connected ? 0 : remote_.size);
  if (sent >= 0 || errno != EAGAIN) {  // the peer is not there, or the frame too large for it: lost
    pause_ns_ = 0;
    return true;
  }
  if (!refused_) {
    refused_ = true;
    pause_ns_ = std::clamp(2 * pause_ns_, kFirstPauseNs, kLongestPauseNs);
    retry_task_.post();
  }
  return false;
}

void DatagramBackend::wake() {
  {
    const std::lock_guard lock(send_mutex_);
    if (!std::exchange(refused_, false)) return;
  }
  const std::lock_guard lock(receiver_mutex_);
  if (receiver_ != nullptr) receiver_->sendable(0);
}

bool DatagramBackend::deliver() {
  const std::lock_guard lock(receiver_mutex_);
  return receiver_ == nullptr || receiver_->receive({std::span(buffer_).first(filled_)}, 0);
}

void DatagramBackend::read() {
  const bool was_held = std::exchange(held_, false);
  bool any = false;
  if (was_held) {
    held_ = !deliver();
    any = !held_;
  }
  for (int left = kReadsAtOnce; left != 0 && !held_; --left) {
    const ssize_t got = ::recv(fd_.get(), buffer_.data(), buffer_.size(), MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) break;
    filled_ = static_cast<size_t>(got);
    // An error that a frame of ours met; or not a frame.
    if (got < static_cast<ssize_t>(kMinFrame) || filled_ > kMaxFrame) continue;
    held_ = !deliver();
    any = any || !held_;
  }
  if (any) {
    const std::lock_guard lock(receiver_mutex_);
    if (receiver_ != nullptr) receiver_->received_all(0);
  }
  // A full card stops the reading, and the kernel drops what its buffer does not hold.
  if (held_ != was_held) loop_.rewatch(fd_.get(), held_ ? 0u : uint32_t{EPOLLIN});
}

}  // namespace ostler::net
