#include "devices/pci/bus.h"

#include <fmt/format.h>

namespace ostler::pci {

Bus::Bus(Window memory, Window ports, bus::IrqSink& pirq, bus::MsiSink& msi)
    : memory_(memory), ports_(ports), pirq_(pirq), msi_(msi) {}

Bus::~Bus() {
  for (auto& function : functions_)
    if (function) function->detach();
}

Result<Address> Bus::add(std::shared_ptr<Function> function, std::optional<Address> address,
                         bool multifunction) {
  const std::unique_lock lock(mutex_);
  if (!address) {
    for (uint8_t slot = 1; slot < 32 && !address; ++slot) {
      bool free = true;
      for (uint8_t i = 0; i < 8; ++i) free = free && !functions_[Address{slot, i}.devfn()];
      if (free) address = Address{slot, 0};
    }
    if (!address)
      return Error(ErrorKind::kNoResource, function->name() +
                                               ": no PCI slot is free; use fewer devices, or "
                                               "multifunction=on with addr=slot.function");
  }
  if (functions_[address->devfn()])
    return Error(
        ErrorKind::kBusy,
        fmt::format("{}: PCI address {:02x}.{} is taken by {}; choose another addr", function->name(),
                    address->slot, address->function, functions_[address->devfn()]->name()));
  if (address->function != 0) {
    const auto& first = functions_[Address{address->slot, 0}.devfn()];
    if (!first || (first->config_read(reg::kHeaderType, 1) & 0x80) == 0)
      return Error(ErrorKind::kInvalidArgument,
                   fmt::format("{}: PCI address {:02x}.{} needs a device with multifunction=on at {:02x}.0",
                               function->name(), address->slot, address->function, address->slot));
  }
  function->attach(*this, *address, multifunction);
  functions_[address->devfn()] = std::move(function);
  return *address;
}

bool Bus::remove(Function& function) {
  std::shared_ptr<Function> removed;
  {
    const std::unique_lock lock(mutex_);
    auto& slot = functions_[function.address().devfn()];
    if (slot.get() != &function) return false;
    removed = std::move(slot);
    slot.reset();
  }
  removed->detach();
  removed->reset_device();  // no DMA from now on
  const std::unique_lock lock(mutex_);
  retired_.push_back(std::move(removed));
  return true;
}

size_t Bus::collect() {
  // Destroyed without the lock: a device's destructor may wait for its back end.
  std::vector<std::shared_ptr<Function>> dead;
  {
    const std::unique_lock lock(mutex_);
    dead.swap(retired_);
  }
  return dead.size();
}

std::shared_ptr<Function> Bus::at(uint8_t devfn) const {
  const std::shared_lock lock(mutex_);
  return functions_[devfn];
}

std::vector<std::shared_ptr<Function>> Bus::functions() const {
  const std::shared_lock lock(mutex_);
  std::vector<std::shared_ptr<Function>> all;
  for (const auto& function : functions_)
    if (function) all.push_back(function);
  return all;
}

uint32_t Bus::config_read(uint8_t devfn, uint16_t offset, unsigned size) {
  const auto function = at(devfn);
  if (!function) return size == 4 ? 0xffffffff : (1u << (8 * size)) - 1;
  return function->config_read(offset, size);
}

void Bus::config_write(uint8_t devfn, uint16_t offset, unsigned size, uint32_t value) {
  if (const auto function = at(devfn)) function->config_write(offset, size, value);
}

void Bus::reset() {
  for (const auto& function : functions()) function->reset();
}

void Bus::set_pin(Address address, uint8_t pin, bool level) {
  if (pin == 0) return;
  const unsigned wire = wire_of(address, pin);
  const std::lock_guard lock(wire_mutex_);
  const bool before = drivers_[wire].any();
  drivers_[wire].set(address.devfn(), level);
  const bool now = drivers_[wire].any();
  if (before != now) pirq_.set_irq(wire, now);
}

}  // namespace ostler::pci
