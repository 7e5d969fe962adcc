#include "devices/virtio/transport/control.h"

#include "base/log.h"

namespace ostler::virtio {

Control::Control(Device& device) : device_(device) {
  reset();
}

void Control::reset() {
  device_.reset();
  activated_ = false;
  interface_.store(Interface::kNone, std::memory_order_release);
  status_.store(0, std::memory_order_release);
  device_feature_select = driver_feature_select = 0;
  queue_select = 0;
  driver_features_ = 0;
  queues_.assign(device_.queue_count(), QueueSetup{});
  for (unsigned i = 0; i < device_.queue_count(); ++i) queues_[i].size = device_.queue_max_size(i);
}

bool Control::claim(Interface interface) {
  const Interface now = interface_.load(std::memory_order_acquire);
  if (now == interface) return true;
  if (now != Interface::kNone) {
    log::guest_error("{}: the {} interface is written while the other one drives", device_.name(),
                     interface == Interface::kLegacy ? "legacy" : "modern");
    return false;
  }
  interface_.store(interface, std::memory_order_release);
  if (interface == Interface::kLegacy) device_.set_legacy_driver();
  return true;
}

bool Control::set_needs_reset() {
  if (interface() == Interface::kLegacy) return false;
  return (status_.fetch_or(status::kNeedsReset) & status::kDriverOk) != 0;
}

bool Control::features_accepted() const {
  if (interface() == Interface::kLegacy) return (driver_features_ & ~uint64_t{legacy_features()}) == 0;
  if ((driver_features_ & ~device_.features()) != 0) return false;
  return (driver_features_ & feature(VIRTIO_F_VERSION_1)) != 0;  // §6.1: or the driver is a legacy one
}

void Control::activate() {
  activated_ = device_.activate(driver_features_, queues_);
}

bool Control::write_status(uint8_t value) {
  if (value == 0) {
    reset();
    return true;
  }
  const uint8_t old = status();
  // The driver only ever adds bits (§2.1.1), and NEEDS_RESET is the device's.
  uint8_t added = value & static_cast<uint8_t>(~old);
  if ((old & ~value & ~status::kNeedsReset) != 0)
    log::guest_error("{}: status bits taken back without a reset", device_.name());
  added &= status::kAcknowledge | status::kDriver | status::kDriverOk | status::kFeaturesOk | status::kFailed;
  if ((added & status::kFeaturesOk) != 0 && !features_accepted()) {
    log::guest_error("{}: features {:#x} were not offered", device_.name(), driver_features_);
    added &= static_cast<uint8_t>(~status::kFeaturesOk);  // §3.1.1 step 6: the driver sees it missing
  }
  if ((added & status::kDriverOk) != 0 && ((old | added) & status::kFeaturesOk) == 0) {
    log::guest_error("{}: DRIVER_OK before FEATURES_OK", device_.name());
    added &= static_cast<uint8_t>(~status::kDriverOk);
  }
  status_.fetch_or(added);
  if ((added & status::kDriverOk) != 0) {
    activate();
    if (!activated_) status_.fetch_or(status::kNeedsReset);
  }
  return false;
}

uint32_t Control::device_features() const {
  if (device_feature_select > 1) return 0;
  return static_cast<uint32_t>(device_.features() >> (32 * device_feature_select));
}

uint32_t Control::driver_features() const {
  if (driver_feature_select > 1) return 0;
  return static_cast<uint32_t>(driver_features_ >> (32 * driver_feature_select));
}

void Control::write_driver_features(uint32_t value) {
  if ((status() & status::kFeaturesOk) != 0) {
    log::guest_error("{}: features written after FEATURES_OK", device_.name());
    return;
  }
  if (driver_feature_select > 1) {
    if (value != 0) log::guest_error("{}: features beyond bit 63", device_.name());
    return;
  }
  const unsigned shift = 32 * driver_feature_select;
  driver_features_ = (driver_features_ & ~(uint64_t{0xffffffff} << shift)) | uint64_t{value} << shift;
}

const QueueSetup* Control::queue() const {
  return queue_select < queues_.size() ? &queues_[queue_select] : nullptr;
}

uint16_t Control::queue_max_size() const {
  return queue_select < queues_.size() ? device_.queue_max_size(queue_select) : uint16_t{0};
}

QueueSetup* Control::writable_queue() {
  if (queue_select >= queues_.size()) return nullptr;
  QueueSetup& setup = queues_[queue_select];
  // While the device runs, only what was reset can be set up.
  const bool resettable = activated_ && (driver_features_ & feature(VIRTIO_F_RING_RESET)) != 0;
  if (!setup.enabled && ((status() & status::kDriverOk) == 0 || resettable)) return &setup;
  log::guest_error("{}: queue {} changed while in use", device_.name(), queue_select);
  return nullptr;
}

void Control::write_queue_size(uint16_t value) {
  if (QueueSetup* setup = writable_queue()) setup->size = value;  // judged at DRIVER_OK
}

void Control::write_queue_address(Part part, bool high, uint32_t value) {
  QueueSetup* setup = writable_queue();
  if (setup == nullptr) return;
  uint64_t& address = part == Part::kDescriptors ? setup->descriptors
                      : part == Part::kDriver    ? setup->driver
                                                 : setup->device;
  const unsigned shift = high ? 32 : 0;
  address = (address & ~(uint64_t{0xffffffff} << shift)) | uint64_t{value} << shift;
}

void Control::write_queue_enable(bool on) {
  if (queue_select >= queues_.size()) return;
  QueueSetup& setup = queues_[queue_select];
  if (activated_ && (driver_features_ & feature(VIRTIO_F_RING_RESET)) != 0 && on && !setup.enabled) {
    setup.enabled = true;  // after its reset
    device_.enable_queue(queue_select, setup);
    return;
  }
  if ((status() & status::kDriverOk) != 0) {
    log::guest_error("{}: queue {} {} while the device runs", device_.name(), queue_select,
                     on ? "enabled" : "disabled");
    return;
  }
  setup.enabled = on;
}

void Control::write_queue_reset() {
  if (queue_select >= queues_.size()) return;
  if (!activated_ || (driver_features_ & feature(VIRTIO_F_RING_RESET)) == 0) {
    log::guest_error("{}: reset of queue {} without RING_RESET", device_.name(), queue_select);
    return;
  }
  device_.reset_queue(queue_select);
  queues_[queue_select] = {.size = device_.queue_max_size(queue_select)};
}

void Control::state(state::Archive& archive) {
  archive.section("virtio-control", 2);
  uint8_t status_byte = status();
  archive.field("status", status_byte);
  archive.field("device_feature_select", device_feature_select);
  archive.field("driver_feature_select", driver_feature_select);
  archive.field("queue_select", queue_select);
  archive.field("driver_features", driver_features_);
  for (QueueSetup& setup : queues_) {
    archive.field("enabled", setup.enabled);
    archive.field("size", setup.size);
    archive.field("descriptors", setup.descriptors);
    archive.field("driver", setup.driver);
    archive.field("device", setup.device);
  }
  bool activated = activated_;
  archive.field("activated", activated);
  Interface driving = interface();
  if (archive.version() >= 2)
    archive.field("interface", driving);
  else
    driving = status_byte == 0 ? Interface::kNone : Interface::kModern;
  archive.check(driving <= Interface::kModern, "interface");
  interface_.store(driving, std::memory_order_release);
  const bool started = driving == Interface::kLegacy || (status_byte & status::kDriverOk) != 0;
  archive.check(!activated || (started && features_accepted()), "activated");
  // The driver that goes on from there activates what it has agreed to.
  const bool agreed = driving != Interface::kLegacy && (status_byte & status::kFeaturesOk) != 0;
  archive.check(!agreed || features_accepted(), "driver_features");
  if (archive.loading()) status_.store(status_byte, std::memory_order_release);
  activated_ = activated;
  device_.state(archive, activated, driver_features_, queues_);
  if (archive.loading() && driving == Interface::kLegacy) device_.set_legacy_driver();
}

}  // namespace ostler::virtio
