#include "net/user_backend.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <slirp/libslirp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>

#include "base/lazy_library.h"
#include "base/log.h"

namespace ostler::net {
namespace {

constexpr size_t kMaxOutgoing = 512;
constexpr size_t kMaxIncoming = 512;
constexpr int64_t kNsPerMs = 1000000;

uint32_t epoll_events(int slirp_events) {
  uint32_t events = 0;
  if ((slirp_events & SLIRP_POLL_IN) != 0) events |= EPOLLIN;
  if ((slirp_events & SLIRP_POLL_OUT) != 0) events |= EPOLLOUT;
  if ((slirp_events & SLIRP_POLL_PRI) != 0) events |= EPOLLPRI;
  return events;
}

int slirp_events(uint32_t epoll) {
  int events = 0;
  if ((epoll & EPOLLIN) != 0) events |= SLIRP_POLL_IN;
  if ((epoll & EPOLLOUT) != 0) events |= SLIRP_POLL_OUT;
  if ((epoll & EPOLLPRI) != 0) events |= SLIRP_POLL_PRI;
  if ((epoll & EPOLLERR) != 0) events |= SLIRP_POLL_ERR;
  if ((epoll & EPOLLHUP) != 0) events |= SLIRP_POLL_HUP;
  return events;
}

Error invalid(std::string message) {
  return Error(ErrorKind::kInvalidArgument, std::move(message));
}

// "10.0.2.0/24" or "10.0.2.0/255.255.255.0".
Result<void> parse_network(const std::string& text, in_addr& network, in_addr& mask) {
  const auto wrong = [&] {
    return invalid("net: '" + text + "' is not an IPv4 network (example: 10.0.2.0/24)");
  };
  const size_t slash = text.find('/');
  if (inet_pton(AF_INET, text.substr(0, slash).c_str(), &network) != 1) return wrong();
  mask.s_addr = htonl(0xffffff00);
  if (slash != std::string::npos) {
    const std::string tail = text.substr(slash + 1);
    unsigned bits = 0;
    const auto [end, error] = std::from_chars(tail.data(), tail.data() + tail.size(), bits);
    if (error == std::errc() && end == tail.data() + tail.size()) {
      if (bits < 4 || bits > 28) return invalid("net: a prefix of /" + tail + " is outside /4 to /28");
      mask.s_addr = htonl(~uint32_t{0} << (32 - bits));
    } else if (inet_pton(AF_INET, tail.c_str(), &mask) != 1) {
      return wrong();
    }
    const uint32_t inverse = ~ntohl(mask.s_addr);
    if ((inverse & (inverse + 1)) != 0 || inverse < 15) return wrong();
  }
  network.s_addr &= mask.s_addr;
  return {};
}

Result<in_addr> address_in(const char* option, const std::string& text, in_addr network, in_addr mask,
                           uint32_t preset) {
  in_addr address;
  address.s_addr = network.s_addr | htonl(preset);
  if (text.empty()) return address;
  if (inet_pton(AF_INET, text.c_str(), &address) != 1)
    return invalid(fmt::format("{}: '{}' is not an IPv4 address", option, text));
  if ((address.s_addr & mask.s_addr) != network.s_addr)
    return invalid(fmt::format("{}: {} is outside the network; change net or {}", option, text, option));
  return address;
}

Result<in6_addr> address6(const char* option, const std::string& text, const in6_addr& prefix, uint8_t last) {
  in6_addr address = prefix;
  address.s6_addr[15] = last;
  if (!text.empty() && inet_pton(AF_INET6, text.c_str(), &address) != 1)
    return invalid(fmt::format("{}: '{}' is not an IPv6 address", option, text));
  return address;
}

const char* text_or_null(const std::string& text) {
  return text.empty() ? nullptr : text.c_str();
}

}  // namespace

// What libslirp calls; `opaque` is the back end. All on the loop's thread.
struct UserBackend::Callbacks {
  static UserBackend& self(void* opaque) { return *static_cast<UserBackend*>(opaque); }

  static ssize_t send_packet(const void* data, size_t size, void* opaque) {
    self(opaque).deliver(std::span(static_cast<const std::byte*>(data), size));
    return static_cast<ssize_t>(size);
  }
  static void guest_error(const char* message, void*) { log::guest_error("user network: {}", message); }
  static int64_t clock_get_ns(void* opaque) { return self(opaque).loop_.clock().now(); }
  static void* timer_new(SlirpTimerCb callback, void* callback_opaque, void* opaque) {
    return new event::Timer(self(opaque).loop_, [callback, callback_opaque] { callback(callback_opaque); });
  }
  static void timer_free(void* timer, void*) { delete static_cast<event::Timer*>(timer); }
  static void timer_mod(void* timer, int64_t expire_ms, void*) {
    static_cast<event::Timer*>(timer)->set(expire_ms * kNsPerMs);
  }
  static void register_poll_fd(int, void*) {}
  // Just before slirp closes it.
  static void unregister_poll_fd(int fd, void* opaque) {
    if (self(opaque).watched_.erase(fd) != 0) self(opaque).unwatch(fd);
  }
  // Called from within slirp, on this thread: refresh_polls() follows anyway.
  static void notify(void*) {}

  static constexpr SlirpCb table{
      .send_packet = send_packet,
      .guest_error = guest_error,
      .clock_get_ns = clock_get_ns,
      .timer_new = timer_new,
      .timer_free = timer_free,
      .timer_mod = timer_mod,
      .register_poll_fd = register_poll_fd,
      .unregister_poll_fd = unregister_poll_fd,
      .notify = notify,
      .init_completed = nullptr,
      .timer_new_opaque = nullptr,
  };
};

UserBackend::UserBackend(event::Loop& loop)
    : loop_(loop), timer_(loop, [this] { service(); }), self_(std::make_shared<UserBackend*>(this)) {}

Result<std::unique_ptr<UserBackend>> UserBackend::create(event::Loop& loop, const UserOptions& options) {
  std::unique_ptr<UserBackend> backend(new UserBackend(loop));
  TRY(backend->start(options));
  return backend;
}

Result<void> UserBackend::start(const UserOptions& options) {
  if (!options.ipv4 && !options.ipv6)
    return invalid("ipv4 and ipv6 are both off, and nothing could pass; leave one out");
  // The guest would only be told that there is no such file.
  std::error_code gone;
  if (!options.tftp.empty() && !std::filesystem::is_directory(options.tftp, gone))
    return invalid(
        fmt::format("tftp: '{}' is no folder; name the one that holds the guest's files", options.tftp));
  SlirpConfig config = {};
  config.version = 4;
  config.restricted = options.restrict_access ? 1 : 0;
  config.in_enabled = options.ipv4;
  TRY(parse_network(options.net, config.vnetwork, config.vnetmask));
  TRY_ASSIGN(config.vhost, address_in("host", options.host, config.vnetwork, config.vnetmask, 2));
  TRY_ASSIGN(config.vdhcp_start,
             address_in("dhcpstart", options.dhcpstart, config.vnetwork, config.vnetmask, 15));
  TRY_ASSIGN(config.vnameserver, address_in("dns", options.dns, config.vnetwork, config.vnetmask, 3));
  if (config.vhost.s_addr == config.vnameserver.s_addr)
    return invalid("host and dns are the same address; give them different ones");
  config.in6_enabled = options.ipv6;
  if (inet_pton(AF_INET6, options.ipv6_prefix.c_str(), &config.vprefix_addr6) != 1)
    return invalid("ipv6-prefix: '" + options.ipv6_prefix + "' is not an IPv6 address");
  config.vprefix_len = options.ipv6_prefix_length;
  TRY_ASSIGN(config.vhost6, address6("ipv6-host", options.ipv6_host, config.vprefix_addr6, 2));
  TRY_ASSIGN(config.vnameserver6, address6("ipv6-dns", options.ipv6_dns, config.vprefix_addr6, 3));
  config.vhostname = text_or_null(options.hostname);
  config.vdomainname = text_or_null(options.domainname);
  config.tftp_path = text_or_null(options.tftp);
  config.bootfile = text_or_null(options.bootfile);
  std::vector<const char*> search;
  for (const auto& domain : options.dnssearch) search.push_back(domain.c_str());
  search.push_back(nullptr);
  if (search.size() > 1) config.vdnssearch = search.data();

  TRY(ostler_lazy_slirp.load());
  slirp_ = slirp_new(&config, &Callbacks::table, this);
  if (slirp_ == nullptr) return Error(ErrorKind::kNoResource, "libslirp could not be started");

  for (const HostForward& forward : options.host_forwards) {
    const in_addr guest = forward.guest.s_addr != 0 ? forward.guest : config.vdhcp_start;
    if (slirp_add_hostfwd(slirp_, forward.udp ? 1 : 0, forward.host, forward.host_port, guest,
                          forward.guest_port) != 0)
      return errno_error(
          fmt::format("hostfwd: {} port {} of the host cannot be used; choose another port, or stop the "
                      "program that has it",
                      forward.udp ? "udp" : "tcp", forward.host_port),
          errno);
  }
  for (const GuestForward& forward : options.guest_forwards) TRY(forward_from_guest(forward));
  refresh_polls();
  return {};
}

Result<void> UserBackend::forward_from_guest(const GuestForward& forward) {
  in_addr server = forward.server;
  bool open = false;
  if (forward.chardev.empty()) {
    open = slirp_add_exec(slirp_, forward.command.c_str(), &server, forward.port) == 0;
  } else {
    if (forward.device == nullptr)
      return invalid(fmt::format("guestfwd: there is no character device '{}'", forward.chardev));
    TRY_ASSIGN(auto channel, GuestChannel::create(loop_, *forward.device));
    open = slirp_add_unix(slirp_, channel->path().c_str(), &server, forward.port) == 0;
    channels_.push_back(std::move(channel));
  }
  if (open) return {};
  return invalid(
      fmt::format("guestfwd: port {} cannot be forwarded from that address; it must lie in net and be "
                  "neither host nor dns",
                  forward.port));
}

UserBackend::~UserBackend() {
  *self_ = nullptr;
  timer_.cancel();
  if (slirp_ != nullptr) slirp_cleanup(slirp_);
  for (const auto& [fd, events] : watched_) unwatch(fd);
}

void UserBackend::attach(Receiver* receiver) {
  const std::lock_guard lock(receiver_mutex_);
  receiver_ = receiver;
}

// At most one task of a kind waits on the loop, however many frames come.
void UserBackend::post(void (UserBackend::*task)(), std::atomic<bool>& posted) {
  if (posted.exchange(true)) return;
  loop_.post([self = self_, task] {
    if (*self != nullptr) ((*self)->*task)();
  });
}

bool UserBackend::send(const Frame& frame, unsigned) {
  if (frame.bytes.size() > kMaxFrame || frame.header != VnetHeader{}) return true;
  {
    const std::lock_guard lock(outgoing_mutex_);
    if (outgoing_.size() >= kMaxOutgoing) {
      refused_ = true;
      return false;
    }
    outgoing_.emplace_back(frame.bytes.begin(), frame.bytes.end());
  }
  post(&UserBackend::drain_outgoing, outgoing_posted_);
  return true;
}

void UserBackend::wake_sender(unsigned) {
  {
    const std::lock_guard lock(outgoing_mutex_);
    refused_ = true;
  }
  post(&UserBackend::drain_outgoing, outgoing_posted_);
}

void UserBackend::receiver_ready(unsigned) {
  post(&UserBackend::drain_incoming, incoming_posted_);
}

void UserBackend::drain_outgoing() {
  outgoing_posted_.store(false);
  std::deque<std::vector<std::byte>> frames;
  bool wake = false;
  {
    const std::lock_guard lock(outgoing_mutex_);
    frames.swap(outgoing_);
    wake = std::exchange(refused_, false);
  }
  unsigned count = 0;
  for (const auto& frame : frames) {
    slirp_input(slirp_, reinterpret_cast<const uint8_t*>(frame.data()), static_cast<int>(frame.size()));
    if (++count % GuestChannel::kMostWaiting != 0) continue;
    for (const auto& channel : channels_) channel->accept();
  }
  for (const auto& channel : channels_) channel->accept();
  if (!frames.empty()) refresh_polls();
  if (!wake) return;
  const std::lock_guard lock(receiver_mutex_);
  if (receiver_ != nullptr) receiver_->sendable(0);
}

void UserBackend::deliver(std::span<const std::byte> frame) {
  const std::lock_guard lock(receiver_mutex_);
  if (receiver_ == nullptr) return;
  if (incoming_.empty() && receiver_->receive(frame, 0)) return receiver_->received_all(0);
  // TCP sends again what is dropped here; the guest was slow.
  if (incoming_.size() < kMaxIncoming) incoming_.emplace_back(frame.begin(), frame.end());
}

void UserBackend::drain_incoming() {
  incoming_posted_.store(false);
  const std::lock_guard lock(receiver_mutex_);
  while (!incoming_.empty() && receiver_ != nullptr && receiver_->receive({incoming_.front()}, 0))
    incoming_.pop_front();
  if (receiver_ != nullptr) receiver_->received_all(0);
}

void UserBackend::watch(int fd, uint32_t events) {
  int listens = 0;
  socklen_t size = sizeof listens;
  if (::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0 || listens == 0) {
    loop_.watch(fd, events, [this, fd](uint32_t ready) { fd_ready(fd, ready); });
    return;
  }
  const auto acceptor = std::make_shared<event::Acceptor>(loop_, "user network, a forwarded port",
                                                          [this, fd] { somebody_came(fd); });
  acceptors_[fd] = acceptor;
  acceptor->start(fd);
}

void UserBackend::unwatch(int fd) {
  if (acceptors_.erase(fd) == 0) loop_.unwatch(fd);
}

// slirp accepts, and does not say what keeps it from that.
void UserBackend::somebody_came(int listener) {
  const auto acceptor = acceptors_.at(listener);  // slirp may close the socket
  Fd room(::fcntl(listener, F_DUPFD_CLOEXEC, 0));
  if (!room) return acceptor->failed(errno);
  room.reset();
  fd_ready(listener, EPOLLIN);
}

void UserBackend::fd_ready(int fd, uint32_t events) {
  for (Poll& poll : polls_)
    if (poll.fd == fd) poll.revents |= slirp_events(events) & (poll.events | SLIRP_POLL_ERR | SLIRP_POLL_HUP);
  service();
}

void UserBackend::service() {
  slirp_pollfds_poll(
      slirp_, 0,
      [](int index, void* opaque) {
        const auto& polls = Callbacks::self(opaque).polls_;
        return index >= 0 && static_cast<size_t>(index) < polls.size()
                   ? polls[static_cast<size_t>(index)].revents
                   : 0;
      },
      this);
  refresh_polls();
}

void UserBackend::refresh_polls() {
  polls_.clear();
  uint32_t timeout_ms = UINT32_MAX;
  slirp_pollfds_fill(
      slirp_, &timeout_ms,
      [](int fd, int events, void* opaque) {
        auto& polls = Callbacks::self(opaque).polls_;
        polls.push_back({fd, events, 0});
        return static_cast<int>(polls.size() - 1);
      },
      this);
  std::unordered_map<int, uint32_t> wanted;
  for (const Poll& poll : polls_) wanted[poll.fd] |= epoll_events(poll.events);
  for (auto it = watched_.begin(); it != watched_.end();) {
    if (wanted.contains(it->first)) {
      ++it;
      continue;
    }
    unwatch(it->first);
    it = watched_.erase(it);
  }
  for (const auto& [fd, events] : wanted) {
    const auto found = watched_.find(fd);
    if (found == watched_.end())
      watch(fd, events);
    else if (found->second != events && !acceptors_.contains(fd))
      loop_.rewatch(fd, events);
    watched_[fd] = events;
  }
  if (timeout_ms == UINT32_MAX)
    timer_.cancel();
  else
    timer_.set(loop_.clock().now() + int64_t{timeout_ms} * kNsPerMs);
}

}  // namespace ostler::net
