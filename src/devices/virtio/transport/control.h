// The registers that both transports show in their own layouts: status and its state machine, feature
// negotiation, queue setup (Virtio 1.2 §3.1). The transport's register lock guards everything but the status
// byte.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "devices/virtio/device.h"
#include "state/archive.h"

namespace ostler::virtio {

class Control {
 public:
  explicit Control(Device& device);

  Device& device() { return device_; }

  uint8_t status() const { return status_.load(std::memory_order_acquire); }
  // True when the write was a reset: the transport clears its own interrupt state then.
  bool write_status(uint8_t value);
  // Any thread. True when DRIVER_OK is set, so that the driver has to be told.
  bool set_needs_reset() { return (status_.fetch_or(status::kNeedsReset) & status::kDriverOk) != 0; }
  void reset();

  uint32_t device_feature_select = 0;
  uint32_t driver_feature_select = 0;
  uint16_t queue_select = 0;

  uint32_t device_features() const;  // the selected word
  uint32_t driver_features() const;
  void write_driver_features(uint32_t value);

  // Of the selected queue; null when there is no such queue.
  const QueueSetup* queue() const;
  uint16_t queue_max_size() const;  // 0: no such queue
  // Ignored, with a log line, when the driver has enabled the queue or there is none.
  void write_queue_size(uint16_t value);
  // Low or high half of one part's address.
  enum class Part { kDescriptors, kDriver, kDevice };
  void write_queue_address(Part part, bool high, uint32_t value);
  void write_queue_enable(bool on);
  // §2.6.1: waits for the queue's requests in flight.
  void write_queue_reset();

  void state(state::Archive& archive);

 private:
  QueueSetup* writable_queue();
  bool features_accepted() const;

  Device& device_;
  std::atomic<uint8_t> status_{0};
  uint64_t driver_features_ = 0;
  std::vector<QueueSetup> queues_;
  bool activated_ = false;  // DRIVER_OK came and the queues could be used
};

}  // namespace ostler::virtio
