#include "devices/virtio/transport/pci.h"

#include <algorithm>

#include "base/bytes.h"
#include "base/log.h"
#include "devices/virtio/transport/legacy_ports.h"

namespace ostler::virtio {
namespace {

constexpr unsigned kLegacyBar = 0, kMsixBar = 1, kBar = 4;
constexpr uint64_t kCommon = 0x0000, kIsr = 0x1000, kDevice = 0x2000, kNotify = 0x3000, kBarSize = 0x4000;
constexpr uint64_t kPart = 0x1000;
constexpr uint32_t kNotifyMultiplier = 4;

// §4.1.4
enum CapabilityType : uint8_t {
  VIRTIO_PCI_CAP_COMMON_CFG = 1,
  VIRTIO_PCI_CAP_NOTIFY_CFG = 2,
  VIRTIO_PCI_CAP_ISR_CFG = 3,
  VIRTIO_PCI_CAP_DEVICE_CFG = 4,
  VIRTIO_PCI_CAP_PCI_CFG = 5,
};
// Offsets within a capability.
constexpr uint16_t kCapBar = 4, kCapOffset = 8, kCapLength = 12, kCapData = 16;

// §4.1.4.3, struct virtio_pci_common_cfg.
enum Common : uint64_t {
  kDeviceFeatureSelect = 0x00,
  kDeviceFeature = 0x04,
  kDriverFeatureSelect = 0x08,
  kDriverFeature = 0x0c,
  kConfigMsixVector = 0x10,
  kNumQueues = 0x12,
  kDeviceStatus = 0x14,
  kConfigGeneration = 0x15,
  kQueueSelect = 0x16,
  kQueueSize = 0x18,
  kQueueMsixVector = 0x1a,
  kQueueEnable = 0x1c,
  kQueueNotifyOff = 0x1e,
  kQueueDescLow = 0x20,
  kQueueDescHigh = 0x24,
  kQueueDriverLow = 0x28,
  kQueueDriverHigh = 0x2c,
  kQueueDeviceLow = 0x30,
  kQueueDeviceHigh = 0x34,
  kQueueNotifyData = 0x38,
  kQueueReset = 0x3a,
  kCommonEnd = 0x3c,
};

// The width of the field at each offset; 0: no field starts here.
unsigned field_size(uint64_t offset) {
  if (offset < kConfigMsixVector) return offset % 4 == 0 ? 4 : 0;
  if (offset == kDeviceStatus || offset == kConfigGeneration) return 1;
  if (offset < kQueueDescLow || offset == kQueueNotifyData || offset == kQueueReset)
    return offset % 2 == 0 ? 2 : 0;
  return offset < kQueueNotifyData && offset % 4 == 0 ? 4 : 0;
}

}  // namespace

Pci::Pci(std::unique_ptr<Device> device, std::optional<uint16_t> vectors, PciInterfaces interfaces)
    : pci::Function(device->name(), pci_identity(device->type(), interfaces)),
      device_(std::move(device)),
      region_(device_->name(), *this, kBarSize),
      control_(*device_) {
  const unsigned count = vectors.value_or(static_cast<uint16_t>(device_->queue_count() + 1));
  if (count != 0) {
    msix_.emplace(device_->name() + "-msix", count);
    add_bar(kMsixBar, pci::BarKind::kMemory32, msix_->region());
    msix_->add_capability(config(), kMsixBar);
  }
  if (interfaces != PciInterfaces::kModern) {
    legacy_ = std::make_unique<LegacyPorts>(*this);
    add_bar(kLegacyBar, pci::BarKind::kIo, legacy_->region());
  }
  if (interfaces != PciInterfaces::kLegacy) {
    add_bar(kBar, pci::BarKind::kMemory64, region_, true);
    add_capabilities();
  }
  clear_interrupts();
  device_->connect(*this);
}

Pci::~Pci() {
  device_->reset();
}

void Pci::serve_on(event::Loop& loop) {
  doorbells_ = std::make_unique<QueueDoorbells>(*device_, loop, [](unsigned queue) {
    return bus::Doorbell{.offset = kNotify + queue * kNotifyMultiplier, .value = {}};
  });
}

std::span<const bus::Doorbell> Pci::doorbells() const {
  return doorbells_ ? doorbells_->list() : std::span<const bus::Doorbell>();
}

void Pci::quiesce() {
  if (doorbells_) doorbells_->drain();
  device_->quiesce();
}

void Pci::add_capabilities() {
  struct Part {
    CapabilityType type;
    uint64_t offset;
    uint32_t length;
    uint16_t extra;  // bytes after the common part
  };
  const auto queues = device_->queue_count();
  const Part parts[] = {{VIRTIO_PCI_CAP_COMMON_CFG, kCommon, kCommonEnd, 0},
                        {VIRTIO_PCI_CAP_ISR_CFG, kIsr, 4, 0},
                        {VIRTIO_PCI_CAP_DEVICE_CFG, kDevice, kPart, 0},
                        {VIRTIO_PCI_CAP_NOTIFY_CFG, kNotify, queues * kNotifyMultiplier, 4},
                        {VIRTIO_PCI_CAP_PCI_CFG, 0, 0, 4}};
  for (const Part& part : parts) {
    uint8_t body[18] = {};  // from cap_len on
    body[0] = static_cast<uint8_t>(16 + part.extra);
    body[1] = part.type;
    body[2] = part.type == VIRTIO_PCI_CAP_PCI_CFG ? 0 : kBar;
    store_le<uint32_t>(body + 6, static_cast<uint32_t>(part.offset));
    store_le<uint32_t>(body + 10, part.length);
    if (part.type == VIRTIO_PCI_CAP_NOTIFY_CFG) store_le<uint32_t>(body + 14, kNotifyMultiplier);
    const uint16_t at =
        config().add_capability(pci::kCapabilityVendor, std::span(body).first(14u + part.extra));
    if (part.type != VIRTIO_PCI_CAP_PCI_CFG) continue;
    window_capability_ = at;
    config().allow(static_cast<uint16_t>(at + kCapBar), 1, 0xff);
    config().allow(static_cast<uint16_t>(at + kCapOffset), 4, 0xffffffff);
    config().allow(static_cast<uint16_t>(at + kCapLength), 4, 0xffffffff);
  }
}

void Pci::config_changed_locked(uint16_t, unsigned) {
  if (!msix_) return;
  const bool before = msix_->enabled();
  message_fds_.store(bus() != nullptr ? bus()->message_fds() : nullptr);
  msix_->update(config(), bus_master() && bus() != nullptr ? &bus()->msi() : nullptr);
  if (msix_->enabled() != before) device_->interrupts_changed();
}

// §4.1.4.9: reading or writing pci_cfg_data accesses the BAR.
bool Pci::window(uint64_t& offset, unsigned& size) {
  const std::lock_guard lock(mutex_);
  const auto field = [&](uint16_t at) { return static_cast<uint16_t>(window_capability_ + at); };
  const uint32_t length = config().get32(field(kCapLength));
  offset = config().get32(field(kCapOffset));
  size = length;
  return config().get8(field(kCapBar)) == kBar && (length == 1 || length == 2 || length == 4) &&
         offset % length == 0 && offset + length <= kBarSize;
}

bool Pci::read_special(uint16_t offset, unsigned size, uint32_t& value) {
  if (window_capability_ == 0 || offset != window_capability_ + kCapData) return false;
  uint64_t at = 0;
  unsigned length = 0;
  value = window(at, length) ? static_cast<uint32_t>(io_read(at, length)) : 0;
  value &= static_cast<uint32_t>(size_mask(size));
  return true;
}

bool Pci::write_special(uint16_t offset, unsigned size, uint32_t value) {
  if (window_capability_ == 0 || offset != window_capability_ + kCapData) return false;
  uint64_t at = 0;
  unsigned length = 0;
  if (window(at, length)) io_write(at, length, value & size_mask(std::min(size, length)));
  return true;
}

uint64_t Pci::io_read(uint64_t offset, unsigned size) {
  const uint64_t at = offset % kPart;
  switch (offset - at) {
    case kCommon: {
      const unsigned width = field_size(at);
      if (width == 0 || width != size) {  // §4.1.3.1: fields are accessed by their own width
        log::guest_error("{}: read of {} bytes at {:#x}", device_->name(), size, at);
        return 0;
      }
      const std::lock_guard lock(registers_mutex_);
      return read_common_locked(at);
    }
    case kIsr:
      return at == 0 ? take_isr() : 0;
    case kDevice: {
      std::array<std::byte, 8> bytes{};
      device_->read_config(at, std::span(bytes).first(size));
      return load_le<uint64_t>(bytes.data());
    }
    default:
      return 0;
  }
}

void Pci::io_write(uint64_t offset, unsigned size, uint64_t value) {
  const uint64_t at = offset % kPart;
  switch (offset - at) {
    case kCommon: {
      // §4.1.3.1: a 64-bit field may be written in two halves; wider accesses arrive as one here.
      if (size == 8 && field_size(at) == 4 && at >= kQueueDescLow) {
        io_write(offset, 4, value & 0xffffffff);
        io_write(offset + 4, 4, value >> 32);
        return;
      }
      const unsigned width = field_size(at);
      if (width == 0 || width != size) {
        log::guest_error("{}: write of {} bytes at {:#x}", device_->name(), size, at);
        return;
      }
      const std::lock_guard lock(registers_mutex_);
      write_common_locked(at, static_cast<uint32_t>(value));
      return;
    }
    case kDevice: {
      if (control_.interface() == Interface::kLegacy) return;
      std::array<std::byte, 8> bytes;
      store_le(bytes.data(), value);
      device_->write_config(at, std::span(bytes).first(size));
      return;
    }
    case kNotify:  // without the register lock: requests are served on this thread
      device_->notify(static_cast<unsigned>(at / kNotifyMultiplier));
      return;
    default:
      return;
  }
}

uint32_t Pci::read_common_locked(uint64_t offset) {
  const QueueSetup* queue = control_.queue();
  switch (offset) {
    case kDeviceFeatureSelect:
      return control_.device_feature_select;
    case kDeviceFeature:
      return control_.device_features();
    case kDriverFeatureSelect:
      return control_.driver_feature_select;
    case kDriverFeature:
      return control_.driver_features();
    case kConfigMsixVector:
      return config_vector_.load();
    case kNumQueues:
      return device_->queue_count();
    case kDeviceStatus:
      return control_.status();
    case kConfigGeneration:
      return device_->config_generation() & 0xff;
    case kQueueSelect:
      return control_.queue_select;
    default:
      break;
  }
  if (queue == nullptr) return 0;  // §4.1.4.3.1: size 0 tells that the queue does not exist
  switch (offset) {
    case kQueueSize:
      return queue->size;
    case kQueueMsixVector:
      return queue_vectors_[control_.queue_select].load();
    case kQueueEnable:
      return queue->enabled ? 1 : 0;
    case kQueueNotifyOff:
      return control_.queue_select;
    case kQueueNotifyData:
      return control_.queue_select;
    case kQueueReset:
      return 0;  // resets are done when the write returns
    case kQueueDescLow:
      return static_cast<uint32_t>(queue->descriptors);
    case kQueueDescHigh:
      return static_cast<uint32_t>(queue->descriptors >> 32);
    case kQueueDriverLow:
      return static_cast<uint32_t>(queue->driver);
    case kQueueDriverHigh:
      return static_cast<uint32_t>(queue->driver >> 32);
    case kQueueDeviceLow:
      return static_cast<uint32_t>(queue->device);
    case kQueueDeviceHigh:
      return static_cast<uint32_t>(queue->device >> 32);
    default:
      return 0;
  }
}

uint16_t Pci::checked_vector(uint32_t value) const {
  // §4.1.5.1.2.1: a vector that cannot be had reads back as NO_VECTOR.
  return msix_ && value < msix_->vectors() ? static_cast<uint16_t>(value) : VIRTIO_MSI_NO_VECTOR;
}

void Pci::write_common_locked(uint64_t offset, uint32_t value) {
  using enum Control::Part;
  // Both interfaces reset, and what only selects is no use of the device.
  const bool selects =
      offset == kDeviceFeatureSelect || offset == kDriverFeatureSelect || offset == kQueueSelect;
  if (!selects && !(offset == kDeviceStatus && value == 0) && !control_.claim(Interface::kModern)) return;
  switch (offset) {
    case kDeviceFeatureSelect:
      control_.device_feature_select = value;
      break;
    case kDriverFeatureSelect:
      control_.driver_feature_select = value;
      break;
    case kDriverFeature:
      control_.write_driver_features(value);
      break;
    case kConfigMsixVector:
      config_vector_.store(checked_vector(value));
      break;
    case kDeviceStatus:
      if (control_.write_status(static_cast<uint8_t>(value))) clear_interrupts();
      break;
    case kQueueSelect:
      control_.queue_select = static_cast<uint16_t>(value);
      break;
    case kQueueSize:
      control_.write_queue_size(static_cast<uint16_t>(value));
      break;
    case kQueueMsixVector:
      if (control_.queue() != nullptr) write_queue_vector(control_.queue_select, checked_vector(value));
      break;
    case kQueueEnable:
      if (value == 1)
        control_.write_queue_enable(true);
      else  // §4.1.4.3.2: the driver must not write 0
        log::guest_error("{}: queue_enable written with {}", device_->name(), value);
      break;
    case kQueueReset:
      if (value == 1) control_.write_queue_reset();
      break;
    case kQueueDescLow:
      control_.write_queue_address(kDescriptors, false, value);
      break;
    case kQueueDescHigh:
      control_.write_queue_address(kDescriptors, true, value);
      break;
    case kQueueDriverLow:
      control_.write_queue_address(kDriver, false, value);
      break;
    case kQueueDriverHigh:
      control_.write_queue_address(kDriver, true, value);
      break;
    case kQueueDeviceLow:
      control_.write_queue_address(Control::Part::kDevice, false, value);
      break;
    case kQueueDeviceHigh:
      control_.write_queue_address(Control::Part::kDevice, true, value);
      break;
    default:
      log::guest_error("{}: write of {:#x} to {:#x}", device_->name(), value, offset);
  }
}

void Pci::write_queue_vector(unsigned queue, uint16_t vector) {
  const std::lock_guard lock(lent_mutex_);
  queue_vectors_[queue].store(vector);
  if (lent_[queue]) msix_->assign_source(*lent_[queue], vector);  // none: VIRTIO_MSI_NO_VECTOR
}

bool Pci::can_lend_interrupt(unsigned queue) const {
  return lends_ && msix_ && msix_->enabled() && queue_vectors_[queue].load() != VIRTIO_MSI_NO_VECTOR &&
         message_fds_.load() != nullptr;
}

void Pci::lend_interrupts(std::span<LentInterrupt> each) {
  const std::lock_guard lock(lent_mutex_);
  std::vector<pci::Msix::Assignment> assignments;
  for (LentInterrupt& interrupt : each) {
    if (!can_lend_interrupt(interrupt.queue)) continue;
    auto& source = lent_[interrupt.queue];
    source = msix_->add_source(interrupt.fd, *message_fds_.load());
    interrupt.lent = source.has_value();
    if (source) assignments.push_back({*source, queue_vectors_[interrupt.queue].load()});
  }
  msix_->assign_sources(assignments);
}

void Pci::take_interrupt_back(unsigned queue) {
  const std::lock_guard lock(lent_mutex_);
  if (lent_[queue]) msix_->remove_source(*std::exchange(lent_[queue], std::nullopt));
}

// §4.1.4.5.1: reading clears, and de-asserts the pin.
uint8_t Pci::take_isr() {
  const std::lock_guard lock(isr_mutex_);
  set_interrupt(false);
  return std::exchange(isr_, uint8_t{0});
}

void Pci::clear_interrupts() {
  config_vector_.store(VIRTIO_MSI_NO_VECTOR);
  for (auto& vector : queue_vectors_) vector.store(VIRTIO_MSI_NO_VECTOR);
  const std::lock_guard lock(isr_mutex_);
  isr_ = 0;
  set_interrupt(false);
}

void Pci::raise(uint16_t vector, uint8_t isr_bit) {
  if (msix_ && msix_->enabled()) {
    if (vector != VIRTIO_MSI_NO_VECTOR) msix_->notify(vector);
    return;
  }
  const std::lock_guard lock(isr_mutex_);
  isr_ |= isr_bit;
  set_interrupt(true);
}

void Pci::interrupt_queue(unsigned queue) {
  raise(queue_vectors_[queue].load(), 1);
}
void Pci::interrupt_config() {
  raise(config_vector_.load(), 2);
}
void Pci::needs_reset() {
  if (control_.set_needs_reset()) interrupt_config();
}

void Pci::reset_device() {
  const std::lock_guard lock(registers_mutex_);
  control_.reset();
  clear_interrupts();
  if (msix_) msix_->reset();
}

void Pci::device_state(state::Archive& archive) {
  const std::lock_guard lock(registers_mutex_);
  archive.section("virtio-pci", 1);
  if (msix_) msix_->state(archive);
  archive.section("virtio-pci-interrupts", 1);
  uint16_t vector = config_vector_.load();
  archive.field("config_vector", vector);
  archive.check(vector == checked_vector(vector), "config_vector");
  config_vector_.store(vector);
  for (unsigned i = 0; i < device_->queue_count(); ++i) {
    vector = queue_vectors_[i].load();
    archive.field("queue_vector", vector);
    archive.check(vector == checked_vector(vector), "queue_vector");
    queue_vectors_[i].store(vector);
  }
  {
    const std::lock_guard isr_lock(isr_mutex_);
    archive.field("isr", isr_);
  }
  control_.state(archive);
}

}  // namespace ostler::virtio
