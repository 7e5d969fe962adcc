#include "block/nbd/link.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "base/lazy_library.h"
#include "block/nbd/protocol.h"
#include "block/nbd/tls_tunnel.h"

namespace ostler::block::nbd {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kFirstPause = kSecond / 10, kLongestPause = 16 * kSecond;
constexpr int kGoodbyeMilliseconds = 1000;
constexpr const char* kAllocation = "base:allocation";

Error last_error(const std::string& where) {
  const char* const text = nbd_get_error();
  const int code = nbd_get_errno();
  return Error(ErrorKind::kIo, fmt::format("{}: {}", where, text != nullptr ? text : strerror(code)), code);
}

// Lets the handle's state go on for what its socket is ready for. `timeout` in milliseconds.
bool step(nbd_handle* handle, int timeout) {
  const unsigned direction = nbd_aio_get_direction(handle);
  pollfd entry = {nbd_aio_get_fd(handle), 0, 0};
  if ((direction & LIBNBD_AIO_DIRECTION_READ) != 0) entry.events |= POLLIN;
  if ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0) entry.events |= POLLOUT;
  if (poll(&entry, 1, timeout) <= 0) return false;
  if ((entry.revents & (POLLIN | POLLHUP | POLLERR)) != 0 && (direction & LIBNBD_AIO_DIRECTION_READ) != 0)
    nbd_aio_notify_read(handle);
  else if (entry.revents != 0)
    nbd_aio_notify_write(handle);
  return true;
}

}  // namespace

// A request that libnbd has; completed by its callback, under mutex_.
struct Link::Sent {
  Link& link;
  Request& request;
  Handle handle = nullptr;
  std::coroutine_handle<> waiter = nullptr;
  IoContext* context = nullptr;
  int error = 0;

  bool await_ready() const noexcept { return false; }
  bool await_suspend(std::coroutine_handle<> self) {
    waiter = self;
    context = IoContext::current();
    const std::lock_guard lock(link.mutex_);
    if (link.handle_ != handle) {
      error = ENOTCONN;
      return false;
    }
    ++link.in_flight_;
    if (link.issue(handle.get(), *this) < 0) {
      --link.in_flight_;
      error = nbd_get_errno() != 0 ? nbd_get_errno() : EIO;
      return false;
    }
    // What the socket did not take at once is sent by the thread.
    if ((nbd_aio_get_direction(handle.get()) & LIBNBD_AIO_DIRECTION_WRITE) != 0) link.kick();
    return true;
  }
  int await_resume() const noexcept { return error; }

  static int done(void* user, int* error) {
    auto* const sent = static_cast<Sent*>(user);
    sent->error = *error;
    --sent->link.in_flight_;
    sent->context->post(sent->waiter);
    return 1;  // libnbd forgets it
  }
  static int extent(void* user, const char* context_name, uint64_t, uint32_t* entries, size_t count, int*) {
    auto* const sent = static_cast<Sent*>(user);
    if (std::strcmp(context_name, kAllocation) == 0 && count >= 2) {
      sent->request.extent_bytes = entries[0];
      sent->request.extent_flags = entries[1];
    }
    return 0;
  }
};

Link::Link(Remote remote, std::shared_ptr<const TlsCredentials> tls, uint64_t reconnect_nanoseconds)
    : remote_(std::move(remote)),
      tls_(std::move(tls)),
      reconnect_(reconnect_nanoseconds),
      event_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  ASSERT(event_, "a process may have one more file descriptor");
}

Link::~Link() {
  close();
}

void Link::kick() {
  const uint64_t one = 1;
  static_cast<void>(write(event_.get(), &one, sizeof one) < 0);
}

Result<void> Link::set_up(nbd_handle* handle) const {
  const std::string where = remote_.uri();
  if (nbd_set_export_name(handle, remote_.export_name.c_str()) < 0 ||
      nbd_add_meta_context(handle, kAllocation) < 0)
    return last_error(where);
  return {};
}

Result<std::shared_ptr<TlsTunnel>> Link::open_tunnel(const MayWait& may_wait) const {
  auto server = dial(remote_, may_wait);
  if (!server) return std::move(server).error().with_context(remote_.uri());
  auto tunnel = TlsTunnel::open(*std::move(server), tls_,
                                remote_.tls_hostname.empty() ? remote_.host : remote_.tls_hostname, may_wait);
  if (!tunnel) return std::move(tunnel).error().with_context(remote_.uri());
  return std::shared_ptr<TlsTunnel>(*std::move(tunnel));
}

Result<void> Link::begin_connecting(nbd_handle* handle, TlsTunnel* tunnel) const {
  int status = 0;
  if (tunnel != nullptr) {
    Fd end = tunnel->take_end();
    status = nbd_aio_connect_socket(handle, end.get());
    if (status == 0) end.release();  // it is libnbd's
  } else if (remote_.path.empty()) {
    status = nbd_aio_connect_tcp(handle, remote_.host.c_str(), remote_.port.c_str());
  } else {
    status = nbd_aio_connect_unix(handle, remote_.path.c_str());
  }
  if (status < 0) return last_error(remote_.uri());
  return {};
}

Result<RemoteDisk> Link::describe(nbd_handle* handle) const {
  const int64_t size = nbd_get_size(handle);
  if (size < 0) return last_error(remote_.uri());
  RemoteDisk disk;
  disk.size = static_cast<uint64_t>(size);
  disk.read_only = nbd_is_read_only(handle) != 0;
  disk.can_flush = nbd_can_flush(handle) > 0;
  disk.can_trim = nbd_can_trim(handle) > 0;
  disk.can_zero = nbd_can_zero(handle) > 0;
  disk.can_fast_zero = nbd_can_fast_zero(handle) > 0;
  disk.can_fua = nbd_can_fua(handle) > 0;
  disk.can_tell_status = nbd_can_meta_context(handle, kAllocation) > 0;
  const int64_t least = nbd_get_block_size(handle, LIBNBD_SIZE_MINIMUM),
                most = nbd_get_block_size(handle, LIBNBD_SIZE_MAXIMUM);
  if (least > 1) disk.least = static_cast<uint32_t>(std::min<int64_t>(least, 65536));
  if (most > 0) disk.most = static_cast<uint32_t>(std::clamp<int64_t>(most, disk.least, kMostTransfer));
  disk.most -= disk.most % disk.least;
  return disk;
}

Error Link::connection_ended(const TlsTunnel* tunnel) const {
  Error error = last_error(remote_.uri());
  if (tunnel == nullptr) return error;
  const std::string why = tunnel->failure();
  if (!why.empty()) return Error(ErrorKind::kIo, remote_.uri() + ": no TLS with this server: " + why);
  // TLS 1.3: a server looks at a client's certificate when the client has done its part of the handshake.
  // What libnbd sees of it depends on whether it was writing.
  if (error.host_errno() == 0 || error.host_errno() == EPIPE || error.host_errno() == ECONNRESET)
    return Error(ErrorKind::kIo, error.message() +
                                     "; it may want a client's certificate that its authority has signed "
                                     "(client-cert.pem)");
  return error;
}

// On the thread, or before it runs. A silent server is given up after a while.
Result<Link::Handle> Link::open_handle() {
  TRY(ostler_lazy_nbd.load());
  const uint64_t deadline = IoContext::now() + kConnectSeconds * kSecond;
  const MayWait may_wait = [this, deadline]() -> Result<void> {
    if (IoContext::now() > deadline)
      return Error(ErrorKind::kIo, fmt::format("no answer for {} seconds", kConnectSeconds), ETIMEDOUT);
    const std::lock_guard lock(mutex_);
    if (closing_) return Error(ErrorKind::kState, "closed while connecting");
    give_up_in_time();
    return {};
  };
  std::shared_ptr<TlsTunnel> tunnel;
  if (tls_ != nullptr) {
    TRY_ASSIGN(tunnel, open_tunnel(may_wait));
  }
  // The tunnel ends after the handle that goes through it.
  const Handle handle(nbd_create(), [tunnel](nbd_handle* each) { nbd_close(each); });
  if (!handle) return last_error(remote_.uri());
  TRY(set_up(handle.get()));
  if (auto begun = begin_connecting(handle.get(), tunnel.get()); !begun)
    return tunnel != nullptr ? connection_ended(tunnel.get()) : std::move(begun).error();
  while (nbd_aio_is_ready(handle.get()) == 0) {
    if (nbd_aio_is_dead(handle.get()) != 0 || nbd_aio_is_closed(handle.get()) != 0)
      return connection_ended(tunnel.get());
    if (auto waited = may_wait(); !waited) return std::move(waited).error().with_context(remote_.uri());
    step(handle.get(), 100);
  }
  return handle;
}

Result<void> Link::connect() {
  TRY_ASSIGN(const Handle handle, open_handle());
  TRY_ASSIGN(disk_, describe(handle.get()));
  handle_ = handle;
  try {
    thread_ = std::thread([this] { watch(); });
  } catch (const std::system_error& error) {
    return Error(
        ErrorKind::kNoResource,
        remote_.uri() + ": the host does not let a further thread start; raise the limit (ulimit -u)",
        error.code().value());
  }
  return {};
}

void Link::close() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
    gave_up_ = true;
    connected_.wake_all();
  }
  kick();
  if (thread_.joinable()) thread_.join();
  if (handle_) {
    nbd_aio_disconnect(handle_.get(), 0);
    const uint64_t deadline = IoContext::now() + kGoodbyeMilliseconds * (kSecond / 1000);
    while (nbd_aio_is_closed(handle_.get()) == 0 && nbd_aio_is_dead(handle_.get()) == 0 &&
           IoContext::now() < deadline)
      step(handle_.get(), kGoodbyeMilliseconds);
    handle_ = nullptr;
  }
}

void Link::cancel() {
  const std::lock_guard lock(mutex_);
  ++cancels_;
  connected_.wake_all();
  if (handle_ && in_flight_ != 0) shutdown(nbd_aio_get_fd(handle_.get()), SHUT_RDWR);
}

int64_t Link::issue(nbd_handle* handle, Sent& sent) {
  const Request& request = sent.request;
  const nbd_completion_callback done = {.callback = Sent::done, .user_data = &sent, .free = nullptr};
  switch (request.kind) {
    case Request::Kind::kRead:
      return nbd_aio_pread(handle, request.data, request.bytes, request.offset, done, request.flags);
    case Request::Kind::kWrite:
      return nbd_aio_pwrite(handle, request.data, request.bytes, request.offset, done, request.flags);
    case Request::Kind::kFlush:
      return nbd_aio_flush(handle, done, request.flags);
    case Request::Kind::kTrim:
      return nbd_aio_trim(handle, request.bytes, request.offset, done, request.flags);
    case Request::Kind::kZero:
      return nbd_aio_zero(handle, request.bytes, request.offset, done, request.flags);
    case Request::Kind::kStatus:
      break;
  }
  const nbd_extent_callback extent = {.callback = Sent::extent, .user_data = &sent, .free = nullptr};
  return nbd_aio_block_status(handle, request.bytes, request.offset, extent, done, request.flags);
}

Task<int> Link::run(Request& request) {
  unsigned cancels = 0;
  {
    const std::lock_guard lock(mutex_);
    cancels = cancels_;
  }
  for (;;) {
    Handle handle;
    {
      std::unique_lock lock(mutex_);
      while (!handle_ && !gave_up_ && cancels == cancels_) co_await connected_.wait(lock);
      if (cancels != cancels_) co_return -ECANCELED;
      if (!handle_) co_return -EIO;
      handle = handle_;
    }
    Sent sent{*this, request, handle};
    const int error = co_await sent;
    if (error == 0) co_return 0;
    const std::lock_guard lock(mutex_);
    const bool lost =
        handle_ != handle || nbd_aio_is_dead(handle.get()) != 0 || nbd_aio_is_closed(handle.get()) != 0;
    if (!lost) co_return -error;
    if (cancels != cancels_) co_return -ECANCELED;
    if (reconnect_ == 0) co_return -EIO;
    // The thread may not have noticed yet.
    if (handle_ == handle) handle_ = nullptr;
    kick();
  }
}

void Link::watch() {
  for (;;) {
    Handle handle;
    pollfd entries[2] = {{event_.get(), POLLIN, 0}, {-1, 0, 0}};
    {
      const std::lock_guard lock(mutex_);
      if (closing_) return;
      if (handle_ && (nbd_aio_is_dead(handle_.get()) != 0 || nbd_aio_is_closed(handle_.get()) != 0))
        handle_ = nullptr;
      handle = handle_;
      if (handle) {
        const unsigned direction = nbd_aio_get_direction(handle.get());
        entries[1].fd = nbd_aio_get_fd(handle.get());
        entries[1].events = static_cast<short>(((direction & LIBNBD_AIO_DIRECTION_READ) != 0 ? POLLIN : 0) |
                                               ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0 ? POLLOUT : 0));
      }
    }
    if (!handle) {
      reconnect();
      continue;
    }
    if (poll(entries, 2, -1) <= 0) continue;
    uint64_t times = 0;
    static_cast<void>(read(event_.get(), &times, sizeof times) < 0);
    if (entries[1].revents == 0) continue;
    const std::lock_guard lock(mutex_);
    // It may have changed meanwhile.
    const unsigned direction = nbd_aio_get_direction(handle.get());
    if ((entries[1].revents & (POLLIN | POLLHUP | POLLERR)) != 0 &&
        (direction & LIBNBD_AIO_DIRECTION_READ) != 0)
      nbd_aio_notify_read(handle.get());
    else if ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0)
      nbd_aio_notify_write(handle.get());
  }
}

bool Link::pause(uint64_t nanoseconds) {
  const uint64_t until = IoContext::now() + nanoseconds;
  for (;;) {
    {
      const std::lock_guard lock(mutex_);
      if (closing_) return false;
    }
    const uint64_t now = IoContext::now();
    if (now >= until) return true;
    pollfd entry = {event_.get(), POLLIN, 0};
    poll(&entry, 1, static_cast<int>((until - now) / 1'000'000 + 1));
    uint64_t times = 0;
    static_cast<void>(read(event_.get(), &times, sizeof times) < 0);
  }
}

// With mutex_ held.
void Link::give_up_in_time() {
  if (lost_at_ == 0 || gave_up_ || IoContext::now() - lost_at_ < reconnect_) return;
  gave_up_ = true;
  connected_.wake_all();
}

// Until the connection is there again, or the link is closed. Those who wait give up in between.
void Link::reconnect() {
  lost_at_ = IoContext::now();
  for (uint64_t wait = kFirstPause;; wait = std::min(2 * wait, kLongestPause)) {
    uint64_t step_pause = wait;
    {
      const std::lock_guard lock(mutex_);
      if (closing_) return;
      give_up_in_time();
      if (!gave_up_) step_pause = std::min(wait, reconnect_ / 2 + 1);
    }
    auto handle = open_handle();
    if (handle) {
      const auto disk = describe(handle->get());
      // Another disk under the same name would be written over.
      if (disk && disk->size == disk_.size && (disk_.read_only || !disk->read_only) &&
          disk->least <= disk_.least && disk->most >= disk_.most) {
        const std::lock_guard lock(mutex_);
        handle_ = *std::move(handle);
        gave_up_ = false;
        connected_.wake_all();
        return;
      }
    }
    if (!pause(step_pause)) return;
  }
}

}  // namespace ostler::block::nbd
