#include "event/acceptor.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/log.h"

namespace ostler::event {

Acceptor::Acceptor(Loop& loop, std::string what, std::function<void()> somebody)
    : loop_(loop), what_(std::move(what)), somebody_(std::move(somebody)), rest_(loop, [this] { watch(); }) {}

void Acceptor::start(int listener) {
  if (started()) return;
  listener_ = listener;
  watch();
}

void Acceptor::stop() {
  rest_.cancel();
  unwatch();
  listener_ = -1;
}

void Acceptor::watch() {
  if (!started() || watched_) return;  // a callback of the timer may be late
  watched_ = loop_.watch(listener_, EPOLLIN, [this](uint32_t) { somebody_(); });
}

void Acceptor::unwatch() {
  if (std::exchange(watched_, false)) loop_.unwatch(listener_);
}

Fd Acceptor::accept() {
  Fd peer(::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!peer) failed(errno);
  return peer;
}

void Acceptor::failed(int error) {
  if (error != EMFILE && error != ENFILE && error != ENOBUFS && error != ENOMEM) return;
  // Once: peers that come and go at the limit must not fill the log.
  if (!std::exchange(told_, true))
    log::warning(what_ + ": whoever comes has to wait: " + std::strerror(error) +
                 "; raise the limit of open files (ulimit -n)");
  unwatch();
  rest_.start(kRestNs);
}

}  // namespace ostler::event
