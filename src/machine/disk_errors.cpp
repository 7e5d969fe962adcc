#include "machine/disk_errors.h"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/log.h"

namespace ostler::machine {

DiskErrors::DiskErrors(event::Loop& loop, Actions actions, std::chrono::milliseconds interval)
    : loop_(loop),
      actions_(std::move(actions)),
      interval_(interval),
      timer_(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)) {
  loop_.watch(timer_.get(), EPOLLIN, [this](uint32_t) {
    uint64_t times = 0;
    if (::read(timer_.get(), &times, sizeof times) == sizeof times) tick();
  });
}

DiskErrors::~DiskErrors() {
  loop_.unwatch(timer_.get());
}

void DiskErrors::failed(const std::string& disk, int error) {
  loop_.post([this, disk, error] { on_failed(disk, error); });
}

void DiskErrors::on_failed(const std::string& disk, int error) {
  ++errors_;
  if (waiting_ || actions_.paused()) return;
  actions_.pause();
  waiting_ = true;
  sent_again_ = false;
  const bool full = error == ENOSPC || error == EDQUOT;
  char text[128];
  log::warning(fmt::format("the guest is paused: disk '{}': {}; it goes on when {}", disk,
                           strerror_r(error, text, sizeof text),
                           full ? "there is room" : "it is resumed, and tries again"));
  arm(full);
}

void DiskErrors::tick() {
  if (!waiting_) return;
  if (sent_again_ && errors_ == 0) {
    forget();
    log::warning("the guest goes on: its disks take writes again");
    actions_.resume();
    return;
  }
  errors_ = 0;
  sent_again_ = true;
  actions_.send_again();
}

void DiskErrors::forget() {
  waiting_ = false;
  arm(false);
}

void DiskErrors::arm(bool on) {
  itimerspec time = {};
  if (on) {
    time.it_interval.tv_sec = interval_.count() / 1000;
    time.it_interval.tv_nsec = interval_.count() % 1000 * 1'000'000;
    time.it_value = time.it_interval;
  }
  timerfd_settime(timer_.get(), 0, &time, nullptr);
}

}  // namespace ostler::machine
