#include "net/stream_backend.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/log.h"

namespace ostler::net {
namespace {

constexpr int kConnectTimeoutMs = 10'000;
constexpr int64_t kNsPerSecond = 1'000'000'000;
constexpr int64_t kMeetAgainNs = 100'000'000;
constexpr int kReadsAtOnce = 8;  // then other descriptors get their turn

int socket_error(const Fd& fd) {
  int error = 0;
  socklen_t size = sizeof error;
  getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size);
  return error;
}

bool is_socket(const std::string& path) {
  struct stat status {};
  return ::lstat(path.c_str(), &status) == 0 && S_ISSOCK(status.st_mode);
}

}  // namespace

StreamBackend::StreamBackend(event::Loop& loop, StreamOptions options)
    : loop_(loop),
      options_(std::move(options)),
      timer_(loop, [this] { retry(); }),
      update_task_(loop, [this] { update(); }),
      deliver_task_(loop,
                    [this] {
                      if (!held_) return;
                      read();
                      update();
                    }),
      acceptor_(loop, fmt::format("network '{}'", options_.id), [this] { accept(); }) {}

Result<std::unique_ptr<StreamBackend>> StreamBackend::create(event::Loop& loop,
                                                             const StreamOptions& options) {
  std::unique_ptr<StreamBackend> backend(new StreamBackend(loop, options));
  TRY(backend->start());
  return backend;
}

StreamBackend::~StreamBackend() {
  timer_.cancel();
  acceptor_.stop();
  if (connecting_) loop_.unwatch(connecting_.get());
  if (watching_) loop_.unwatch(peer_.get());
  if (owns_path_) ::unlink(options_.address.path.c_str());
}

Result<void> StreamBackend::start() {
  using Role = StreamOptions::Role;
  if (options_.address.kind == Endpoint::Kind::kFd) {
    TRY_ASSIGN(Fd fd, take_socket(options_.address.fd, SOCK_STREAM));
    int listening = 0;
    socklen_t size = sizeof listening;
    getsockopt(fd.get(), SOL_SOCKET, SO_ACCEPTCONN, &listening, &size);
    if (listening != 0) {
      listener_ = std::move(fd);
      acceptor_.start(listener_.get());
    } else {
      use(std::move(fd));
    }
    return {};
  }
  TRY_ASSIGN(address_, resolve(options_.address, SOCK_STREAM, options_.role == Role::kServer));
  if (options_.role == Role::kServer) return listen();
  if (options_.role == Role::kEither) return meet();
  if (options_.reconnect_seconds != 0) {
    retry();
    return {};
  }
  TRY_ASSIGN(Fd peer, connect_now());
  use(std::move(peer));
  return {};
}

Result<void> StreamBackend::listen() {
  const auto failed = [&](int error) {
    return errno_error(fmt::format("cannot listen on {}", options_.address.text()), error);
  };
  Fd fd(::socket(address_.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return failed(errno);
  const bool path = address_.family() == AF_UNIX && !options_.address.abstract;
  const int yes = 1;
  if (address_.family() != AF_UNIX) setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  // A socket that an earlier run left; anything else of that name is not ours to remove.
  if (path && is_socket(options_.address.path)) ::unlink(options_.address.path.c_str());
  if (::bind(fd.get(), address_.get(), address_.size) != 0) return failed(errno);
  owns_path_ = path;
  if (::listen(fd.get(), 1) != 0) return failed(errno);
  listener_ = std::move(fd);
  acceptor_.start(listener_.get());
  return {};
}

Result<Fd> StreamBackend::connect_now() {
  const auto failed = [&](int error) {
    const Error plain = errno_error(fmt::format("cannot connect to {}", options_.address.text()), error);
    return Error(plain.kind(),
                 plain.message() +
                     "; start the other side first, or say -netdev stream,…,reconnect=1 to wait "
                     "for it",
                 error);
  };
  Fd fd(::socket(address_.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return failed(errno);
  if (::connect(fd.get(), address_.get(), address_.size) == 0) return fd;
  if (errno != EINPROGRESS) return failed(errno);
  pollfd waiting = {.fd = fd.get(), .events = POLLOUT, .revents = 0};
  if (::poll(&waiting, 1, kConnectTimeoutMs) != 1) return failed(ETIMEDOUT);
  if (const int error = socket_error(fd); error != 0) return failed(error);
  return fd;
}

bool StreamBackend::connect_later() {
  Fd fd(::socket(address_.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return false;
  if (::connect(fd.get(), address_.get(), address_.size) == 0) {
    use(std::move(fd));
    return true;
  }
  if (errno != EINPROGRESS) return false;
  connecting_ = std::move(fd);
  loop_.watch(connecting_.get(), EPOLLOUT, [this](uint32_t) { connecting_done(); });
  return true;
}

void StreamBackend::connecting_done() {
  const bool failed = socket_error(connecting_) != 0;
  loop_.unwatch(connecting_.get());
  Fd fd = std::move(connecting_);
  if (!failed) return use(std::move(fd));
  timer_.start(options_.reconnect_seconds * kNsPerSecond);
}

// Two guests that start at the same time must not both listen, nor take each other's new socket for one that
// an earlier run left: the folder is locked while one of them looks.
Result<void> StreamBackend::meet() {
  const std::string folder = std::filesystem::absolute(options_.address.path).parent_path().string();
  const Fd lock(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!lock) return errno_error(fmt::format("cannot open the folder of {}", options_.address.path), errno);
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    timer_.start(kMeetAgainNs);
    return {};
  }
  return connect_or_listen();
}

Result<void> StreamBackend::connect_or_listen() {
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (fd && ::connect(fd.get(), address_.get(), address_.size) == 0) {
    use(std::move(fd));
    return {};
  }
  if (errno == EAGAIN)
    return Error(ErrorKind::kBusy,
                 fmt::format("{} has a peer already; a socket joins two guests", options_.address.path));
  return listen();
}

void StreamBackend::retry() {
  if (peer_ || connecting_ || listener_) return;
  if (options_.role == StreamOptions::Role::kEither) {
    if (!meet()) timer_.start(kNsPerSecond);
    return;
  }
  if (!connect_later()) timer_.start(options_.reconnect_seconds * kNsPerSecond);
}

void StreamBackend::accept() {
  Fd peer = acceptor_.accept();
  if (!peer) return;
  acceptor_.stop();  // later peers wait
  use(std::move(peer));
}

void StreamBackend::use(Fd peer) {
  const int yes = 1;
  setsockopt(peer.get(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);  // fails on UNIX sockets: no matter
  reader_.reset();
  held_ = false;
  {
    const std::lock_guard lock(send_mutex_);
    peer_ = std::move(peer);
    rest_.clear();
  }
  up_.store(true);
  update();
  const std::lock_guard lock(receiver_mutex_);
  if (receiver_ != nullptr) receiver_->link_changed(true);
}

void StreamBackend::lose(std::string_view why) {
  const int64_t now = event::host_monotonic_ns();
  if (last_message_ == 0 || now - last_message_ >= kNsPerSecond) {
    last_message_ = now;
    log::warning(fmt::format("network '{}': {}; the link is down", options_.id, why));
  }
  if (watching_) loop_.unwatch(peer_.get());
  watching_ = false;
  bool wake = false;
  {
    const std::lock_guard lock(send_mutex_);
    peer_.reset();
    rest_.clear();
    wake = std::exchange(refused_, false);
  }
  up_.store(false);
  {
    const std::lock_guard lock(receiver_mutex_);
    if (receiver_ != nullptr) {
      receiver_->link_changed(false);
      if (wake) receiver_->sendable(0);
    }
  }
  // At once would let a peer that leaves at once keep this thread.
  using Role = StreamOptions::Role;
  if (listener_)
    acceptor_.start(listener_.get());
  else if (options_.role == Role::kEither)
    timer_.start(kMeetAgainNs);
  else if (options_.reconnect_seconds != 0)
    timer_.start(options_.reconnect_seconds * kNsPerSecond);
}

void StreamBackend::attach(Receiver* receiver) {
  const std::lock_guard lock(receiver_mutex_);
  receiver_ = receiver;
}

bool StreamBackend::send(const Frame& frame, unsigned) {
  if (frame.bytes.size() > kMaxFrame || frame.header != VnetHeader{}) return true;
  const std::lock_guard lock(send_mutex_);
  if (!peer_) return true;
  if (!rest_.empty()) {
    refused_ = true;
    return false;
  }
  uint32_t length = htonl(static_cast<uint32_t>(frame.bytes.size()));
  iovec pieces[] = {{&length, sizeof length},
                    {const_cast<std::byte*>(frame.bytes.data()), frame.bytes.size()}};
  msghdr message{};
  message.msg_iov = pieces;
  message.msg_iovlen = 2;
  const ssize_t sent = ::sendmsg(peer_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent < 0 && errno == EAGAIN) {
    refused_ = true;
    update_task_.post();
    return false;
  }
  if (sent < 0) return true;  // the loop sees that the peer is gone
  const auto done = static_cast<size_t>(sent);
  if (done == sizeof length + frame.bytes.size()) return true;
  if (done < sizeof length) {
    const auto head = std::as_bytes(std::span(&length, 1)).subspan(done);
    rest_.assign(head.begin(), head.end());
  }
  const auto tail = frame.bytes.subspan(done < sizeof length ? 0 : done - sizeof length);
  rest_.insert(rest_.end(), tail.begin(), tail.end());
  update_task_.post();
  return true;
}

void StreamBackend::receiver_ready(unsigned) {
  deliver_task_.post();
}

void StreamBackend::wake_sender(unsigned) {
  {
    const std::lock_guard lock(send_mutex_);
    refused_ = true;
  }
  update_task_.post();
}

void StreamBackend::update() {
  bool wake = false, waiting = false;
  {
    const std::lock_guard lock(send_mutex_);
    if (peer_ && !rest_.empty()) {
      const ssize_t sent = ::send(peer_.get(), rest_.data(), rest_.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent > 0) rest_.erase(rest_.begin(), rest_.begin() + sent);
    }
    // Room for a whole frame or not: the socket tells by being writable.
    pollfd writable = {.fd = peer_.get(), .events = POLLOUT, .revents = 0};
    const bool room = !peer_ || (rest_.empty() && ::poll(&writable, 1, 0) == 1);
    if (room) wake = std::exchange(refused_, false);
    waiting = refused_ || !rest_.empty();
  }
  if (wake) {
    const std::lock_guard lock(receiver_mutex_);
    if (receiver_ != nullptr) receiver_->sendable(0);
  }
  if (!peer_) return;
  const uint32_t events = (held_ ? 0u : uint32_t{EPOLLIN}) | (waiting ? uint32_t{EPOLLOUT} : 0u);
  if (!watching_)
    loop_.watch(peer_.get(), events, [this](uint32_t now) { ready(now); });
  else if (events != watched_)
    loop_.rewatch(peer_.get(), events);
  watching_ = true;
  watched_ = events;
}

void StreamBackend::ready(uint32_t events) {
  if (held_ && (events & (EPOLLHUP | EPOLLERR)) != 0) {
    // It would be told again and again; the reader finds out when there is room.
    loop_.unwatch(peer_.get());
    watching_ = false;
    return;
  }
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) read();
  if (peer_) update();
}

bool StreamBackend::deliver() {
  bool any = false;
  held_ = false;
  {
    const std::lock_guard lock(receiver_mutex_);
    while (const auto frame = reader_.next()) {
      if (receiver_ != nullptr && !receiver_->receive({*frame}, 0)) {
        held_ = true;
        break;
      }
      reader_.pop();
      any = true;
    }
    if (any && receiver_ != nullptr) receiver_->received_all(0);
  }
  if (reader_.broken()) lose("the peer announced a frame larger than any, and was disconnected");
  return !held_;
}

void StreamBackend::read() {
  if (!peer_ || !deliver()) return;
  for (int left = kReadsAtOnce; left != 0 && peer_; --left) {
    const auto space = reader_.space();
    const ssize_t got = ::recv(peer_.get(), space.data(), space.size(), MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got < 0) return lose(fmt::format("the connection broke: {}", std::strerror(errno)));
    if (got == 0) return lose("the peer left");
    reader_.filled(static_cast<size_t>(got));
    if (!deliver()) return;
  }
}

}  // namespace ostler::net
