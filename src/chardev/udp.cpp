// Datagrams to one address and back. What the guest writes at once is one datagram (several where it is
// larger than kMostBytes); what the other side sends waits until the guest has room, one datagram at a time,
// and what comes meanwhile waits in the host's kernel, or is lost there. The socket is connected: the kernel
// drops what others send.
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <vector>

#include "base/fd.h"
#include "chardev/backends.h"

namespace ostler::chardev {
namespace {

constexpr size_t kMostBytes = 8192;         // sent in one
constexpr size_t kLargestBytes = 64 << 10;  // of a received one; none is larger

class Udp final : public CharBackend {
 public:
  Udp(event::Loop& loop, Fd socket) : loop_(loop), socket_(std::move(socket)) {
    loop_.watch(socket_.get(), 0, [this](uint32_t) { receive(); });
  }
  ~Udp() override { loop_.unwatch(socket_.get()); }
  Udp(const Udp&) = delete;
  Udp& operator=(const Udp&) = delete;

  void attach(CharFrontend* frontend) override {
    frontend_ = frontend;
    if (frontend_ != nullptr) frontend_->event(CharEvent::kOpened);
    loop_.rewatch(socket_.get(), frontend_ != nullptr ? uint32_t{EPOLLIN} : 0);
    if (frontend_ != nullptr) post();
  }
  size_t write(std::span<const std::byte> bytes) override {
    // Datagrams may be lost: so is what the host has no room for, and what nobody listens to.
    for (auto rest = bytes; !rest.empty();) {
      const size_t part = std::min(rest.size(), kMostBytes);
      static_cast<void>(::send(socket_.get(), rest.data(), part, MSG_DONTWAIT | MSG_NOSIGNAL));
      rest = rest.subspan(part);
    }
    return bytes.size();
  }
  void accept_input() override {
    if (paused_.exchange(false)) post();
  }

 private:
  void post() {
    loop_.post([this, alive = std::weak_ptr<char>(alive_)] {
      if (!alive.expired()) receive();
    });
  }
  // On the loop's thread: one datagram, then other descriptors get their turn.
  void receive() {
    if (frontend_ == nullptr || !deliver()) return;
    std::vector<std::byte> datagram(kLargestBytes);
    const ssize_t got = ::recv(socket_.get(), datagram.data(), datagram.size(), MSG_DONTWAIT);
    if (got <= 0) return;  // an error is of a datagram of ours that nobody took
    datagram.resize(static_cast<size_t>(got));
    received_ = std::move(datagram);
    given_ = 0;
    deliver();
  }
  // False: the guest has no room for all of it.
  bool deliver() {
    while (given_ < received_.size() && frontend_ != nullptr) {
      // First announce that we wait, then look: accept_input() comes later and resumes, or its room is seen.
      paused_.store(true);
      const size_t room = frontend_->can_receive();
      if (room == 0) {
        loop_.rewatch(socket_.get(), 0);
        return false;
      }
      const auto part = std::span(received_).subspan(given_, std::min(room, received_.size() - given_));
      given_ += part.size();
      frontend_->receive(part);
    }
    paused_.store(false);
    if (frontend_ != nullptr) loop_.rewatch(socket_.get(), EPOLLIN);
    return true;
  }

  event::Loop& loop_;
  const Fd socket_;
  CharFrontend* frontend_ = nullptr;
  std::vector<std::byte> received_;
  size_t given_ = 0;  // of received_, to the front end
  std::atomic<bool> paused_{false};
  std::shared_ptr<char> alive_ = std::make_shared<char>();
};

}  // namespace

Result<std::unique_ptr<CharBackend>> make_udp(event::Loop& loop, const Options& options) {
  TRY_ASSIGN(const SocketAddress to, udp_address(options.host, options.port, false));
  Fd socket(::socket(to.get()->sa_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return errno_error(fmt::format("character device: no socket for '{}'", to.text), errno);
  if (!options.local_host.empty() || !options.local_port.empty()) {
    TRY_ASSIGN(const SocketAddress from,
               udp_address(options.local_host, options.local_port, true, to.get()->sa_family));
    if (::bind(socket.get(), from.get(), from.size) != 0)
      return errno_error(fmt::format("character device: cannot take the address '{}'", from.text), errno);
  }
  if (::connect(socket.get(), to.get(), to.size) != 0)
    return errno_error(fmt::format("character device: cannot reach '{}'", to.text), errno);
  return std::unique_ptr<CharBackend>(std::make_unique<Udp>(loop, std::move(socket)));
}

}  // namespace ostler::chardev
