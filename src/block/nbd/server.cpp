#include "block/nbd/server.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "block/io_context.h"
#include "block/nbd/transmission.h"

namespace ostler::block::nbd {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kPauseWithoutDescriptors = kSecond / 10;

}  // namespace

struct Server::Client {
  explicit Client(Fd socket) : channel(make_socket_channel(std::move(socket))), receiver(*channel) {}
  std::unique_ptr<Channel> below;  // of a channel with TLS: outlives it
  std::unique_ptr<Channel> channel;
  Receiver receiver;
  uint64_t deadline = 0;  // of the negotiation; 0: it is over
  ExportList offered;     // what it may use, or has chosen
  bool dropped = false;   // its export has been removed
};

Server::Server(Settings settings)
    : settings_(std::move(settings)),
      stop_event_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      timer_(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)) {
  exports_ = settings_.exports;
  ASSERT(stop_event_ && timer_, "a process may have a few more file descriptors");
}

Server::~Server() {
  ASSERT(running_ == 0, "a server is not removed while it runs");
  if (!path_.empty()) unlink(path_.c_str());
}

Result<void> Server::listen_on_path(std::string path) {
  TRY_ASSIGN(Fd socket, listen_unix(path));
  listeners_.push_back(std::move(socket));
  path_ = std::move(path);
  return {};
}

Result<void> Server::listen_on_address(const std::string& host, uint16_t port) {
  TRY_ASSIGN(std::vector<Fd> sockets, listen_tcp(host, port));
  for (Fd& socket : sockets) listeners_.push_back(std::move(socket));
  return {};
}

uint16_t Server::port() const {
  for (const Fd& listener : listeners_)
    if (const uint16_t port = port_of(listener.get()); port != 0) return port;
  return 0;
}

void Server::stop() {
  const uint64_t one = 1;
  static_cast<void>(write(stop_event_.get(), &one, sizeof one) < 0);
}

Task<void> Server::run() {
  running_ = static_cast<unsigned>(listeners_.size()) + 1;
  spawn(watch());
  for (const Fd& listener : listeners_) spawn(accept_on(listener.get()));
  static_cast<void>(co_await poll_for(stop_event_.get(), POLLIN));
  stopping_ = true;
  for (const Fd& listener : listeners_) ::shutdown(listener.get(), SHUT_RDWR);
  for (const auto& client : clients_) client->channel->shutdown();
  arm_timer();
  std::unique_lock lock(mutex_);
  room_.wake_all();
  while (running_ != 0) co_await idle_.wait(lock);
}

Task<void> Server::accept_on(int listener) {
  while (!stopping_) {
    if (is_full()) {
      std::unique_lock lock(mutex_);
      while (is_full() && !stopping_) co_await room_.wait(lock);
      continue;
    }
    Fd socket(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (socket) {
      auto& client = clients_.emplace_back(std::make_unique<Client>(std::move(socket)));
      client->deadline = IoContext::now() + settings_.negotiation_seconds * kSecond;
      ++running_;
      arm_timer();
      spawn(serve(client.get()));
      continue;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
      static_cast<void>(co_await poll_for(listener, POLLIN));
    } else if (errno != EINTR && errno != ECONNABORTED && !stopping_) {
      // Descriptors or memory have run out: clients that leave give some back.
      co_await IoContext::current()->sleep_until(IoContext::now() + kPauseWithoutDescriptors);
    }
  }
  const std::lock_guard lock(mutex_);
  --running_;
  idle_.wake_all();
}

Task<void> Server::serve(Client* client) {
  bool agreed = false;
  {
    client->offered = exports_;
    Negotiation negotiation(client->channel, client->receiver, exports_, settings_.tls.get());
    agreed = co_await negotiation.run();
    client->below = negotiation.take_plain();
    client->deadline = 0;
    const Session session = negotiation.take_session();
    client->offered.assign(agreed ? 1 : 0, session.disk);
    if (agreed && !stopping_ && !client->dropped) {
      Transmission transmission(*client->channel, client->receiver, session);
      co_await transmission.run();
    }
  }
  std::erase_if(clients_, [client](const auto& each) { return each.get() == client; });
  if (agreed && clients_.empty() && !settings_.persistent) stop();
  const std::lock_guard lock(mutex_);
  --running_;
  room_.wake_all();
  left_.wake_all();
  idle_.wake_all();
}

// Ends connections that take too long to get through the negotiation.
Task<void> Server::watch() {
  while (!stopping_) {
    static_cast<void>(co_await poll_for(timer_.get(), POLLIN));
    uint64_t times = 0;
    static_cast<void>(read(timer_.get(), &times, sizeof times) < 0);
    const uint64_t now = IoContext::now();
    for (const auto& client : clients_)
      if (client->deadline != 0 && client->deadline <= now) client->channel->shutdown();
    arm_timer();
  }
  const std::lock_guard lock(mutex_);
  --running_;
  idle_.wake_all();
}

Result<void> Server::add(std::shared_ptr<const Export> disk) {
  const std::string& name = disk->settings().name;
  for (const auto& each : exports_)
    if (each->settings().name == name)
      return Error(ErrorKind::kBusy, fmt::format("the NBD server has an export '{}' already", name));
  exports_.push_back(std::move(disk));
  return {};
}

Task<Result<void>> Server::remove(std::string name) {
  const auto found = std::ranges::find(
      exports_, name, [](const auto& each) -> const std::string& { return each->settings().name; });
  if (found == exports_.end())
    co_return Error(ErrorKind::kNotFound, fmt::format("the NBD server has no export '{}'", name));
  std::shared_ptr<const Export> disk = *found;
  exports_.erase(found);
  const auto uses = [&disk](const auto& client) { return std::ranges::count(client->offered, disk) != 0; };
  for (const auto& client : clients_) {
    if (!uses(client)) continue;
    client->dropped = true;
    client->channel->shutdown();
  }
  std::unique_lock lock(mutex_);
  while (std::ranges::any_of(clients_, uses)) co_await left_.wait(lock);
  lock.unlock();
  disk = nullptr;  // the node is nobody's from here on, before the caller hears of it
  co_return Result<void>();
}

void Server::arm_timer() {
  uint64_t first = 0;
  for (const auto& client : clients_)
    if (client->deadline != 0 && (first == 0 || client->deadline < first)) first = client->deadline;
  if (stopping_) first = 1;
  // A deadline that has passed is looked at again a while later: the connection is about to end.
  const uint64_t now = IoContext::now();
  if (!stopping_ && first != 0 && first <= now) first = now + kSecond;
  itimerspec time = {};
  time.it_value.tv_sec = static_cast<time_t>(first / kSecond);
  time.it_value.tv_nsec = static_cast<long>(first % kSecond);
  timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &time, nullptr);
}

}  // namespace ostler::block::nbd
