// What a legacy driver writes (Virtio 1.2 §2.7.2, §3.1.2, §4.1.5.1.3.2): 32 feature bits without FEATURES_OK,
// queues of the device's size at one page number, use of the device before DRIVER_OK.
#include "base/log.h"
#include "devices/virtio/transport/control.h"

namespace ostler::virtio {
namespace {

constexpr uint64_t kPage = 4096;

// §2.7.2: descriptor table and available ring together, the used ring on the page after them.
QueueSetup legacy_setup(uint16_t size, uint32_t page) {
  QueueSetup setup{.enabled = true, .size = size};
  setup.descriptors = page * kPage;
  setup.driver = setup.descriptors + 16 * uint64_t{size};
  const uint64_t end = setup.driver + 2 * (3 + uint64_t{size});
  setup.device = (end + kPage - 1) & ~(kPage - 1);
  return setup;
}

}  // namespace

uint32_t Control::legacy_features() const {
  return static_cast<uint32_t>(device_.features() | feature(VIRTIO_F_NOTIFY_ON_EMPTY) |
                               feature(VIRTIO_F_ANY_LAYOUT));
}

void Control::write_legacy_driver_features(uint32_t value) {
  if (activated_) {
    log::guest_error("{}: features written while the device runs", device_.name());
    return;
  }
  if ((value & ~legacy_features()) != 0)
    log::guest_error("{}: features {:#x} were not offered", device_.name(), value);
  driver_features_ = value & legacy_features();
}

bool Control::write_legacy_status(uint8_t value) {
  if (value == 0) {
    reset();
    return true;
  }
  if (!claim(Interface::kLegacy)) return false;
  // There is no FEATURES_OK here: it reads as 0.
  const uint8_t before = status_.fetch_or(
      value & (status::kAcknowledge | status::kDriver | status::kDriverOk | status::kFailed));
  if ((value & ~before & status::kDriverOk) != 0 && !activated_) activate();
  return false;
}

uint32_t Control::legacy_queue_page() const {
  const QueueSetup* const setup = queue();
  return setup != nullptr && setup->enabled ? static_cast<uint32_t>(setup->descriptors / kPage) : 0;
}

void Control::write_legacy_queue_page(uint32_t page) {
  if (queue_select >= queues_.size()) return;
  QueueSetup& setup = queues_[queue_select];
  const uint16_t size = device_.queue_max_size(queue_select);
  if (page == 0) {
    if (activated_) device_.reset_queue(queue_select);
    setup = {.size = size};
    return;
  }
  if (setup.enabled) {
    log::guest_error("{}: queue {} changed while in use", device_.name(), queue_select);
    return;
  }
  setup = legacy_setup(size, page);
  if (activated_) device_.enable_queue(queue_select, setup);
}

void Control::start_legacy(unsigned queue) {
  if (activated_ || interface() != Interface::kLegacy) return;
  if (queue < queues_.size() && queues_[queue].enabled) activate();
}

}  // namespace ostler::virtio
