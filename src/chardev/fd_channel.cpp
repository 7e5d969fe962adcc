#include "chardev/fd_channel.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

namespace ostler::chardev {

FdChannel::~FdChannel() {
  disconnect();
}

void FdChannel::schedule(void (FdChannel::*what)()) {
  loop_.post([this, what, alive = std::weak_ptr<char>(alive_)] {
    if (!alive.expired()) (this->*what)();
  });
}

void FdChannel::attach(CharFrontend* frontend) {
  frontend_ = frontend;
  if (frontend_ == nullptr) return;
  if (connected()) frontend_->event(CharEvent::kOpened);
  input_wanted_ = true;
  schedule(&FdChannel::update_interest);
}

void FdChannel::connect(int in, int out, size_t chunk) {
  in_ = in;
  out_ = out;
  chunk_ = chunk;
  input_wanted_ = true;
  output_waiting_ = false;
  connected_.store(true, std::memory_order_release);
  if (in_ >= 0)
    in_watched_ = loop_.watch(in_, EPOLLIN, [this](uint32_t events) {
      if ((events & EPOLLOUT) != 0) flush();
      if (in_ >= 0 && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) readable();
    });
  if (out_ >= 0 && out_ != in_) out_watched_ = loop_.watch(out_, 0, [this](uint32_t) { flush(); });
  if (frontend_ != nullptr) frontend_->event(CharEvent::kOpened);
  schedule(&FdChannel::update_interest);
}

void FdChannel::disconnect() {
  if (!connected()) return;
  flush();
  if (!connected()) return;  // flush() found the peer gone
  connected_.store(false, std::memory_order_release);
  if (in_watched_) loop_.unwatch(in_);
  if (out_watched_) loop_.unwatch(out_);
  in_ = out_ = -1;
  in_watched_ = out_watched_ = output_waiting_ = false;
  writing_.clear();
  written_ = 0;
  bool tell = false;
  {
    const std::lock_guard lock(mutex_);
    queue_.clear();
    tell = short_;
    short_ = false;
  }
  if (frontend_ == nullptr) return;
  if (tell) frontend_->writable();  // output is dropped from now on
  frontend_->event(CharEvent::kClosed);
}

size_t FdChannel::write(std::span<const std::byte> bytes) {
  if (!connected()) return bytes.size();
  bool post = false;
  size_t taken = 0;
  {
    const std::lock_guard lock(mutex_);
    taken = std::min(bytes.size(), kQueueSize - queue_.size());
    queue_.insert(queue_.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(taken));
    short_ |= taken < bytes.size();
    post = !flush_posted_ && taken != 0;
    flush_posted_ |= post;
  }
  if (post) schedule(&FdChannel::flush);
  return taken;
}

// What is queued when it is called. What comes meanwhile is another task's: a guest that keeps writing to a
// descriptor that keeps taking must not keep the loop.
void FdChannel::flush() {
  bool tell = false, taken = false;
  for (;;) {
    if (written_ == writing_.size()) {
      writing_.clear();
      written_ = 0;
      const std::lock_guard lock(mutex_);
      tell |= short_;
      short_ = false;
      flush_posted_ = taken && !queue_.empty();
      if (flush_posted_) schedule(&FdChannel::flush);
      if (std::exchange(taken, true)) break;
      std::swap(queue_, writing_);
      if (writing_.empty()) break;
    }
    if (out_ < 0) {
      written_ = writing_.size();  // nobody to write to
      continue;
    }
    if (!write_some()) {
      written_ = writing_.size();
      peer_closed();
      return;
    }
    if (written_ != writing_.size()) break;  // the descriptor is full
  }
  output_waiting_ = written_ != writing_.size();
  update_interest();
  if (tell && frontend_ != nullptr) frontend_->writable();
}

bool FdChannel::write_some() {
  while (written_ < writing_.size()) {
    const size_t size = std::min(writing_.size() - written_, chunk_);
    if (chunk_ != kQueueSize) {
      pollfd poll_out{out_, POLLOUT, 0};
      const int ready = ::poll(&poll_out, 1, 0);
      if (ready == 0) return true;
      if (ready > 0 && (poll_out.revents & POLLOUT) == 0) return false;  // hung up
    }
    const ssize_t put = ::write(out_, writing_.data() + written_, size);
    if (put > 0) {
      written_ += static_cast<size_t>(put);
    } else if (put < 0 && errno == EINTR) {
      continue;
    } else if (put < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      return true;
    } else {
      return false;
    }
  }
  return true;
}

// Registers what we wait for; a regular file is never waited for and is read by tasks.
void FdChannel::update_interest() {
  if (!connected()) return;
  const uint32_t in = input_wanted_ && frontend_ != nullptr ? static_cast<uint32_t>(EPOLLIN) : 0;
  const uint32_t out = output_waiting_ ? static_cast<uint32_t>(EPOLLOUT) : 0;
  if (in_ >= 0 && in_ == out_) {
    loop_.rewatch(in_, in | out);
    return;
  }
  if (in_watched_) loop_.rewatch(in_, in);
  if (out_watched_) loop_.rewatch(out_, out);
  if (in_ >= 0 && !in_watched_ && in != 0) readable();
}

void FdChannel::accept_input() {
  if (input_paused_.exchange(false, std::memory_order_acq_rel))
    schedule(&FdChannel::update_interest_and_resume);
}

void FdChannel::update_interest_and_resume() {
  input_wanted_ = true;
  update_interest();
}

void FdChannel::readable() {
  std::array<std::byte, 4096> buffer;
  if (frontend_ == nullptr) {
    input_wanted_ = false;
    update_interest();
    return;
  }
  size_t room = frontend_->can_receive();
  if (room == 0) {
    // Announce the pause, then look again: accept_input() either comes after and resumes, or came before and
    // is seen.
    input_paused_.store(true, std::memory_order_seq_cst);
    room = frontend_->can_receive();
    if (room == 0) {
      input_wanted_ = false;
      if (in_watched_) update_interest();
      return;
    }
    input_paused_.store(false, std::memory_order_seq_cst);
  }
  const ssize_t got = ::read(in_, buffer.data(), std::min(room, buffer.size()));
  if (got > 0) {
    frontend_->receive(std::span(buffer).first(static_cast<size_t>(got)));
    if (!in_watched_ && in_ >= 0) schedule(&FdChannel::readable_again);
    return;
  }
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  end_of_input();
}

void FdChannel::readable_again() {
  if (in_ >= 0 && connected()) readable();
}

// The other end of a pipe or terminal stopped writing. Output may go on where it has a descriptor of its own.
void FdChannel::end_of_input() {
  if (out_ < 0 || out_ == in_) {
    peer_closed();
    return;
  }
  if (in_watched_) loop_.unwatch(in_);
  in_watched_ = false;
  in_ = -1;
}

}  // namespace ostler::chardev
