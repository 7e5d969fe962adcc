#include "chardev/logged.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/log.h"

namespace ostler::chardev {
namespace {

constexpr size_t kQueueSize = 64 * 1024;  // bytes; a faster guest waits

}  // namespace

Result<Fd> Logged::open_file(const std::string& path, bool append) {
  // Not blocking: a pipe whose reader sleeps must not stop the loop. Files do not care.
  const int flags = O_WRONLY | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | (append ? O_APPEND : O_TRUNC);
  Fd file(::open(path.c_str(), flags, 0666));
  if (!file) return errno_error(fmt::format("logfile: cannot open '{}' for writing", path), errno);
  return file;
}

Logged::Logged(event::Loop& loop, std::unique_ptr<CharBackend> inner, Fd file, std::string path)
    : loop_(loop), inner_(std::move(inner)), file_(std::move(file)), path_(std::move(path)) {}

Logged::~Logged() {
  frontend_ = nullptr;
  inner_.reset();
  flush();
}

void Logged::attach(CharFrontend* frontend) {
  frontend_ = frontend;
  inner_->attach(frontend);
}

size_t Logged::write(std::span<const std::byte> bytes) {
  bool post = false;
  size_t taken = 0;
  {
    const std::lock_guard lock(mutex_);
    const size_t room = std::min(bytes.size(), kQueueSize - queue_.size());
    taken = inner_->write(bytes.first(room));
    short_ |= room < bytes.size();
    queue_.insert(queue_.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(taken));
    post = !queue_.empty() && !std::exchange(flush_posted_, true);
  }
  if (post)
    loop_.post([this, alive = std::weak_ptr<char>(alive_)] {
      if (!alive.expired()) flush();
    });
  return taken;
}

void Logged::flush() {
  std::vector<std::byte> bytes;
  bool tell = false;
  {
    const std::lock_guard lock(mutex_);
    std::swap(bytes, queue_);
    flush_posted_ = false;
    tell = std::exchange(short_, false);
  }
  put(bytes);
  if (tell && frontend_ != nullptr) frontend_->writable();
}

void Logged::put(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t done = ::write(file_.get(), bytes.data(), bytes.size());
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) {
      if (!std::exchange(told_, true))
        log::warning(
            fmt::format("logfile '{}' cannot be written: {}; it misses what the guest writes until it can",
                        path_, std::strerror(errno)));
      return;
    }
    bytes = bytes.subspan(static_cast<size_t>(done));
  }
}

}  // namespace ostler::chardev
