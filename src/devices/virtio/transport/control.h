// The registers that both transports show in their own layouts: status and its state machine, feature
// negotiation, queue setup (Virtio 1.2 §3.1). A transitional PCI device has two sets of registers: the modern
// ones and those of virtio 0.9.5, which Virtio 1.2 calls legacy. The transport's register lock guards
// everything but the status byte and which interface drives.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "devices/virtio/device.h"
#include "state/archive.h"

namespace ostler::virtio {

// The one that the driver wrote to first; only a reset lets it use the other one.
enum class Interface : uint8_t { kNone, kLegacy, kModern };

class Control {
 public:
  explicit Control(Device& device);

  Device& device() { return device_; }

  // Before a write to `interface`'s registers: false when the other one drives, and nothing is to be written.
  bool claim(Interface interface);
  Interface interface() const { return interface_.load(std::memory_order_acquire); }

  uint8_t status() const { return status_.load(std::memory_order_acquire); }
  // True when the write was a reset: the transport clears its own interrupt state then.
  bool write_status(uint8_t value);
  // Any thread. True when DRIVER_OK is set, so that the driver has to be told. A legacy driver does not know
  // the bit and does not get it.
  bool set_needs_reset();
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

  // ---- the legacy interface (legacy_control.cpp) ----
  uint32_t legacy_features() const;  // offered
  uint32_t legacy_driver_features() const { return static_cast<uint32_t>(driver_features_); }
  void write_legacy_driver_features(uint32_t value);
  // True when the write was a reset.
  bool write_legacy_status(uint8_t value);
  // The selected queue's first page of 4 KiB; 0: it has no place.
  uint32_t legacy_queue_page() const;
  void write_legacy_queue_page(uint32_t page);
  // Any thread: whether start_legacy() has nothing left to do.
  bool activated() const { return activated_.load(std::memory_order_acquire); }
  // §3.1.2: such drivers may use a device before DRIVER_OK, which then begins to work at the first
  // notification.
  void start_legacy(unsigned queue);

  void state(state::Archive& archive);

 private:
  void activate();
  QueueSetup* writable_queue();
  bool features_accepted() const;

  Device& device_;
  std::atomic<uint8_t> status_{0};
  uint64_t driver_features_ = 0;
  std::vector<QueueSetup> queues_;
  std::atomic<bool> activated_{false};  // DRIVER_OK came and the queues could be used
  std::atomic<Interface> interface_{Interface::kNone};
};

}  // namespace ostler::virtio
