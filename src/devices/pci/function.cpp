#include "devices/pci/function.h"

#include <bit>

#include "base/assert.h"
#include "devices/pci/bus.h"

namespace ostler::pci {
namespace {

constexpr uint32_t kBarIo = 1;
constexpr uint32_t kBarMemory64 = 4;
constexpr uint32_t kBarPrefetchable = 8;

bool overlaps(uint16_t offset, unsigned size, uint16_t first, uint16_t end) {
  return offset < end && offset + size > first;
}

}  // namespace

Function::Function(std::string name, const Identity& identity)
    : name_(std::move(name)), interrupt_pin_(identity.interrupt_pin) {
  config_.set16(reg::kVendorId, identity.vendor);
  config_.set16(reg::kDeviceId, identity.device);
  config_.set8(reg::kRevision, identity.revision);
  config_.set8(reg::kClass, static_cast<uint8_t>(identity.class_code));
  config_.set16(reg::kClass + 1, static_cast<uint16_t>(identity.class_code >> 8));
  config_.set16(reg::kSubsystemVendorId, identity.subsystem_vendor);
  config_.set16(reg::kSubsystemId, identity.subsystem);
  config_.set8(reg::kInterruptPin, identity.interrupt_pin);
  config_.allow(reg::kCommand, 2,
                command::kBusMaster | (identity.interrupt_pin != 0 ? command::kInterruptDisable : 0));
  config_.allow(reg::kCacheLine, 1, 0xff);
  config_.allow(reg::kLatencyTimer, 1, 0xff);
  config_.allow(reg::kInterruptLine, 1, 0xff);
  config_.clear_on_write(reg::kStatus, 2, 0xf900);
}

Function::~Function() {
  ASSERT(bus_ == nullptr, "the bus lets go of a function before it dies");
}

void Function::add_bar(unsigned index, BarKind kind, memory::Region& region, bool prefetchable) {
  const uint64_t size = region.size();
  ASSERT(std::has_single_bit(size) && index < 6 && bars_[index].kind == BarKind::kNone,
         "devices declare BARs of powers of two, each once");
  bars_[index] = {kind, &region, size, false, 0};
  const auto at = static_cast<uint16_t>(reg::kBar0 + 4 * index);
  const auto mask = static_cast<uint32_t>(~(size - 1));
  const uint16_t command_bit = kind == BarKind::kIo ? command::kIo : command::kMemory;
  // allow() replaces a mask, so the command bits of earlier BARs are kept here.
  command_mask_ |= command_bit;
  config_.allow(reg::kCommand, 2,
                command_mask_ | command::kBusMaster | (interrupt_pin_ != 0 ? command::kInterruptDisable : 0));
  switch (kind) {
    case BarKind::kNone:
      break;
    case BarKind::kIo:
      ASSERT(size >= 4 && size <= 256, "PCI 3.0 §6.2.5.1: at most 256 ports");
      config_.set32(at, kBarIo);
      config_.allow(at, 4, mask & ~3u);
      break;
    case BarKind::kMemory32:
      ASSERT(size >= 16 && size <= 0x80000000, "PCI 3.0 §6.2.5.1");
      config_.set32(at, prefetchable ? kBarPrefetchable : 0);
      config_.allow(at, 4, mask & ~15u);
      break;
    case BarKind::kMemory64:
      ASSERT(size >= 16 && index < 5, "a 64-bit BAR takes two registers");
      config_.set32(at, kBarMemory64 | (prefetchable ? kBarPrefetchable : 0));
      config_.allow(at, 4, mask & ~15u);
      config_.allow(static_cast<uint16_t>(at + 4), 4, static_cast<uint32_t>(~(size - 1) >> 32));
      break;
  }
}

uint32_t Function::config_read(uint16_t offset, unsigned size) {
  uint32_t value = 0;
  if (read_special(offset, size, value)) return value;
  const std::lock_guard lock(mutex_);
  value = config_.read(offset, size);
  if (overlaps(offset, size, reg::kStatus, reg::kStatus + 1)) {
    const std::lock_guard interrupt_lock(interrupt_mutex_);
    if (interrupt_level_) value |= uint32_t{kStatusInterrupt} << (8 * (reg::kStatus - offset));
  }
  return value;
}

void Function::config_write(uint16_t offset, unsigned size, uint32_t value) {
  if (write_special(offset, size, value)) return;
  const std::lock_guard lock(mutex_);
  config_.write(offset, size, value);
  if (overlaps(offset, size, reg::kCommand, reg::kCommand + 2) ||
      overlaps(offset, size, reg::kBar0, reg::kBar0 + 24))
    update_mappings_locked();
  config_changed_locked(offset, size);
}

bool Function::wanted_address(unsigned index, uint64_t& address) const {
  const Bar& bar = bars_[index];
  const auto at = static_cast<uint16_t>(reg::kBar0 + 4 * index);
  const uint16_t enabled = config_.get16(reg::kCommand);
  if (bar.kind == BarKind::kIo) {
    address = config_.get32(at) & ~3u;
    return (enabled & command::kIo) != 0 && address != 0 &&
           address + bar.size <= memory::AddressSpace::kPortSize;
  }
  if ((enabled & command::kMemory) == 0) return false;
  address = config_.get32(at) & ~15u;
  uint64_t limit = uint64_t{1} << 32;
  if (bar.kind == BarKind::kMemory64) {
    address |= uint64_t{config_.get32(static_cast<uint16_t>(at + 4))} << 32;
    limit = memory::AddressSpace::kMemorySize;
  }
  // Zero is what an unassigned BAR holds, and the top of the range is what sizing leaves for a moment.
  return address != 0 && address <= limit - bar.size &&
         !(bar.kind == BarKind::kMemory32 && address + bar.size == limit);
}

void Function::update_mappings_locked() {
  const uint16_t command_value = config_.get16(reg::kCommand);
  bus_master_.store((command_value & command::kBusMaster) != 0, std::memory_order_release);
  update_interrupt_locked();
  for (unsigned i = 0; i < bars_.size(); ++i) {
    Bar& bar = bars_[i];
    if (bar.kind == BarKind::kNone) continue;
    uint64_t address = 0;
    const bool wanted = bus_ != nullptr && wanted_address(i, address);
    if (wanted == bar.mapped && (!wanted || address == bar.address)) continue;
    if (bus_ == nullptr) continue;
    const bool port = bar.kind == BarKind::kIo;
    const auto& window = port ? bus_->ports() : bus_->memory();
    memory::Transaction change(window.space);
    if (wanted && bar.mapped)
      change.move(*bar.region, address - window.first);
    else if (wanted)
      change.add(window.region, address - window.first, *bar.region);
    else
      change.remove(*bar.region);
    bar.mapped = wanted;
    bar.address = address;
  }
}

void Function::update_interrupt_locked() {
  const std::lock_guard lock(interrupt_mutex_);
  interrupt_disabled_ = (config_.get16(reg::kCommand) & command::kInterruptDisable) != 0;
  const bool drive = interrupt_level_ && !interrupt_disabled_;
  if (drive == interrupt_driven_ || bus_ == nullptr) return;
  interrupt_driven_ = drive;
  bus_->set_pin(address_, interrupt_pin_, drive);
}

void Function::set_interrupt(bool level) {
  if (interrupt_pin_ == 0) return;
  const std::lock_guard lock(interrupt_mutex_);
  interrupt_level_ = level;
  const bool drive = level && !interrupt_disabled_;
  if (drive == interrupt_driven_ || bus_ == nullptr) return;
  interrupt_driven_ = drive;
  bus_->set_pin(address_, interrupt_pin_, drive);
}

void Function::attach(Bus& bus, Address address, bool multifunction) {
  const std::lock_guard lock(mutex_);
  const std::lock_guard interrupt_lock(interrupt_mutex_);
  address_ = address;
  bus_ = &bus;
  if (multifunction)
    config_.set8(reg::kHeaderType, static_cast<uint8_t>(config_.get8(reg::kHeaderType) | 0x80));
  if (config_.get8(reg::kInterruptLine) == 0)
    config_.set8(reg::kInterruptLine, bus.interrupt_line(address, config_.get8(reg::kInterruptPin)));
  config_.seal();
}

void Function::detach() {
  const std::lock_guard lock(mutex_);
  config_.reset();
  update_mappings_locked();
  config_changed_locked(0, ConfigSpace::kConventional);  // MSI-X is off now
  const std::lock_guard interrupt_lock(interrupt_mutex_);
  if (interrupt_driven_) bus_->set_pin(address_, interrupt_pin_, false);
  interrupt_driven_ = false;
  bus_ = nullptr;
}

void Function::reset() {
  {
    const std::lock_guard lock(mutex_);
    config_.reset();
    update_mappings_locked();
    config_changed_locked(0, ConfigSpace::kConventional);
  }
  set_interrupt(false);
  reset_device();
}

void Function::state(state::Archive& archive) {
  {
    const std::lock_guard lock(mutex_);
    archive.section("pci-function", 1);
    config_.state(archive);
    if (archive.loading()) {
      if (archive.failed()) return;
      update_mappings_locked();
      config_changed_locked(0, ConfigSpace::kConventional);
    }
    const std::lock_guard interrupt_lock(interrupt_mutex_);
    archive.field("interrupt_level", interrupt_level_);
    archive.check(interrupt_pin_ != 0 || !interrupt_level_, "interrupt_level");
    if (archive.loading() && !archive.failed() && bus_ != nullptr) {
      interrupt_driven_ = interrupt_level_ && !interrupt_disabled_;
      bus_->set_pin(address_, interrupt_pin_, interrupt_driven_);
    }
  }
  device_state(archive);
}

}  // namespace ostler::pci
