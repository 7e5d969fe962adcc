#include "devices/virtio/transport/queue_doorbells.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

namespace ostler::virtio {

QueueDoorbells::QueueDoorbells(Device& device, event::Loop& loop,
                               const std::function<bus::Doorbell(unsigned queue)>& place)
    : device_(device), loop_(loop) {
  for (unsigned queue = 0; queue < device.queue_count(); ++queue) {
    Fd fd(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    if (!fd || !loop.watch(fd.get(), EPOLLIN, [this, queue](uint32_t) { serve(queue); })) return;
    list_.push_back(place(queue));
    list_.back().fd = fd.get();
    fds_.push_back(std::move(fd));
  }
}

QueueDoorbells::~QueueDoorbells() {
  for (const Fd& fd : fds_) loop_.unwatch(fd.get());
}

void QueueDoorbells::serve(unsigned queue) {
  const std::lock_guard lock(mutex_);
  uint64_t count = 0;
  if (read(fds_[queue].get(), &count, sizeof count) == sizeof count) device_.notify(queue);
}

void QueueDoorbells::drain() {
  for (unsigned queue = 0; queue < fds_.size(); ++queue) serve(queue);
}

}  // namespace ostler::virtio
