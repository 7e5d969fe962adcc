#include "devices/virtio/transport/mmio.h"

#include <array>

#include "base/bytes.h"
#include "base/log.h"

namespace ostler::virtio {
namespace {

// §4.2.2, table 4.1.
enum Register : uint64_t {
  kMagicValue = 0x000,
  kVersion = 0x004,
  kDeviceId = 0x008,
  kVendorId = 0x00c,
  kDeviceFeatures = 0x010,
  kDeviceFeaturesSel = 0x014,
  kDriverFeatures = 0x020,
  kDriverFeaturesSel = 0x024,
  kQueueSel = 0x030,
  kQueueNumMax = 0x034,
  kQueueNum = 0x038,
  kQueueReady = 0x044,
  kQueueNotify = 0x050,
  kInterruptStatus = 0x060,
  kInterruptAck = 0x064,
  kStatus = 0x070,
  kQueueDescLow = 0x080,
  kQueueDescHigh = 0x084,
  kQueueDriverLow = 0x090,
  kQueueDriverHigh = 0x094,
  kQueueDeviceLow = 0x0a0,
  kQueueDeviceHigh = 0x0a4,
  kShmLenLow = 0x0b0,
  kShmBaseHigh = 0x0bc,
  kQueueReset = 0x0c0,
  kConfigGeneration = 0x0fc,
  kConfig = 0x100,
};
constexpr uint32_t kMagic = 0x74726976;   // "virt"
constexpr uint32_t kVendor = 0x4c54534f;  // "OSTL"
constexpr uint32_t kInterruptUsedBuffer = 1;
constexpr uint32_t kInterruptConfig = 2;

}  // namespace

Mmio::Mmio(std::unique_ptr<Device> device, bus::IrqLine line)
    : device_(std::move(device)), line_(line), control_(*device_) {
  device_->connect(*this);
}

Mmio::~Mmio() {
  device_->reset();
}

void Mmio::serve_on(event::Loop& loop) {
  doorbells_ = std::make_unique<QueueDoorbells>(
      *device_, loop, [](unsigned queue) { return bus::Doorbell{.offset = kQueueNotify, .value = queue}; });
}

std::span<const bus::Doorbell> Mmio::doorbells() const {
  return doorbells_ ? doorbells_->list() : std::span<const bus::Doorbell>();
}

void Mmio::quiesce() {
  if (doorbells_) doorbells_->drain();
  device_->quiesce();
}

void Mmio::reset() {
  const std::lock_guard lock(mutex_);
  control_.reset();
  acknowledge(~0u);
}

uint64_t Mmio::io_read(uint64_t offset, unsigned size) {
  if (offset >= kConfig) {
    std::array<std::byte, 8> bytes{};
    device_->read_config(offset - kConfig, std::span(bytes).first(size));
    return load_le<uint64_t>(bytes.data());
  }
  if (size != 4 || offset % 4 != 0) {  // §4.2.2.2: the driver uses aligned 32-bit accesses only
    log::guest_error("{}: register read of {} bytes at {:#x}", device_->name(), size, offset);
    return 0;
  }
  const std::lock_guard lock(mutex_);
  return read_register_locked(offset);
}

uint32_t Mmio::read_register_locked(uint64_t offset) {
  switch (offset) {
    case kMagicValue:
      return kMagic;
    case kVersion:
      return 2;
    case kDeviceId:
      return device_->type();
    case kVendorId:
      return kVendor;
    case kDeviceFeatures:
      return control_.device_features();
    case kQueueNumMax:
      return control_.queue_max_size();
    case kQueueReady:
      return control_.queue() != nullptr && control_.queue()->enabled ? 1 : 0;
    case kQueueReset:
      return 0;  // resets are done when the write returns
    case kInterruptStatus: {
      const std::lock_guard lock(interrupt_mutex_);
      return interrupt_status_;
    }
    case kStatus:
      return control_.status();
    case kConfigGeneration:
      return device_->config_generation();
    default:
      // §4.2.2: no shared memory regions: their length reads as -1.
      if (offset >= kShmLenLow && offset <= kShmBaseHigh) return 0xffffffff;
      log::guest_error("{}: read of register {:#x}", device_->name(), offset);
      return 0;
  }
}

void Mmio::io_write(uint64_t offset, unsigned size, uint64_t value) {
  if (offset >= kConfig) {
    std::array<std::byte, 8> bytes;
    store_le(bytes.data(), value);
    device_->write_config(offset - kConfig, std::span(bytes).first(size));
    return;
  }
  if (size != 4 || offset % 4 != 0) {
    log::guest_error("{}: register write of {} bytes at {:#x}", device_->name(), size, offset);
    return;
  }
  if (offset == kQueueNotify) {  // without the register lock: requests are served on this thread
    device_->notify(static_cast<uint16_t>(value));  // §4.2.3.3: the upper half is for NOTIFICATION_DATA
    return;
  }
  const std::lock_guard lock(mutex_);
  write_register_locked(offset, static_cast<uint32_t>(value));
}

void Mmio::write_register_locked(uint64_t offset, uint32_t value) {
  using enum Control::Part;
  switch (offset) {
    case kDeviceFeaturesSel:
      control_.device_feature_select = value;
      break;
    case kDriverFeatures:
      control_.write_driver_features(value);
      break;
    case kDriverFeaturesSel:
      control_.driver_feature_select = value;
      break;
    case kQueueSel:
      control_.queue_select = value > 0xffff ? uint16_t{0xffff} : static_cast<uint16_t>(value);
      break;
    case kQueueNum:
      control_.write_queue_size(value > 0xffff ? uint16_t{0} : static_cast<uint16_t>(value));
      break;
    case kQueueReady:
      control_.write_queue_enable((value & 1) != 0);
      break;
    case kQueueReset:
      if (value == 1) control_.write_queue_reset();
      break;
    case kInterruptAck:
      acknowledge(value);
      break;
    case kStatus:
      if (control_.write_status(static_cast<uint8_t>(value))) acknowledge(~0u);
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
      control_.write_queue_address(kDevice, false, value);
      break;
    case kQueueDeviceHigh:
      control_.write_queue_address(kDevice, true, value);
      break;
    default:
      log::guest_error("{}: write of {:#x} to register {:#x}", device_->name(), value, offset);
  }
}

void Mmio::raise(uint32_t bits) {
  const std::lock_guard lock(interrupt_mutex_);
  interrupt_status_ |= bits;
  line_.set(true);
}

void Mmio::acknowledge(uint32_t bits) {
  const std::lock_guard lock(interrupt_mutex_);
  interrupt_status_ &= ~bits;
  line_.set(interrupt_status_ != 0);
}

void Mmio::interrupt_queue(unsigned) {
  raise(kInterruptUsedBuffer);
}
void Mmio::interrupt_config() {
  raise(kInterruptConfig);
}
void Mmio::needs_reset() {
  if (control_.set_needs_reset()) raise(kInterruptConfig);
}

void Mmio::state(state::Archive& archive) {
  const std::lock_guard lock(mutex_);
  archive.section("virtio-mmio", 1);
  control_.state(archive);
  const std::lock_guard interrupt_lock(interrupt_mutex_);
  archive.field("interrupt_status", interrupt_status_);
  archive.check((interrupt_status_ & ~3u) == 0, "interrupt_status");
}

}  // namespace ostler::virtio
