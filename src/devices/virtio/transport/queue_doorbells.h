// Eventfds that stand for the notifications of a device's queues, served on an event loop's thread.
#pragma once

#include <functional>
#include <mutex>
#include <span>
#include <vector>

#include "base/fd.h"
#include "bus/doorbells.h"
#include "devices/virtio/device.h"
#include "event/loop.h"

namespace ostler::virtio {

// Made before the loop runs, destroyed when it does not run any more, both by its transport.
class QueueDoorbells {
 public:
  // `place` tells each queue's register. Without eventfds (the process has no descriptor left) there is none,
  // and notifications are accesses as ever.
  QueueDoorbells(Device& device, event::Loop& loop,
                 const std::function<bus::Doorbell(unsigned queue)>& place);
  ~QueueDoorbells();
  QueueDoorbells(const QueueDoorbells&) = delete;
  QueueDoorbells& operator=(const QueueDoorbells&) = delete;

  std::span<const bus::Doorbell> list() const { return list_; }
  // Serves what was signalled and waits for what is being served; while no vCPU runs none comes later.
  void drain();

 private:
  void serve(unsigned queue);

  Device& device_;
  event::Loop& loop_;
  std::vector<Fd> fds_;
  std::vector<bus::Doorbell> list_;
  std::mutex mutex_;  // above the device's locks
};

}  // namespace ostler::virtio
