#include "devices/ide/piix_ide.h"

#include <fmt/format.h>

namespace ostler::ide {
namespace {

constexpr uint16_t kTiming[] = {0x40, 0x42};  // IDETIM of each channel
constexpr uint16_t kSlaveTiming = 0x44;       // SIDETIM
constexpr uint16_t kDecode = 0x8000;          // of IDETIM: the channel answers
constexpr unsigned kBusMasterPorts = 2 * BusMaster::kPorts;

}  // namespace

PiixIde::PiixIde(memory::AddressSpace& memory, bus::IrqLine primary, bus::IrqLine secondary)
    : Function("piix3-ide", {.vendor = 0x8086,
                             .device = 0x7010,
                             .class_code = 0x010180,  // fixed addresses, a bus master
                             .subsystem_vendor = 0x1af4,
                             .subsystem = 0x1100}),
      channels_{std::make_unique<Channel>(memory, primary), std::make_unique<Channel>(memory, secondary)},
      bus_master_("ide bus master", *this, kBusMasterPorts) {
  config().set16(pci::reg::kStatus, 0x0280);
  for (unsigned i = 0; i < kChannels; ++i) config().allow(kTiming[i], 2, 0xffff);
  config().allow(kSlaveTiming, 1, 0xff);
  add_bar(4, pci::BarKind::kIo, bus_master_);
  for (const auto& channel : channels_) channel->allow(false, false);
}

PiixIde::~PiixIde() = default;

void PiixIde::preset() {
  const std::lock_guard lock(mutex_);
  for (unsigned i = 0; i < kChannels; ++i) config().set16(kTiming[i], kDecode);
  config().set16(pci::reg::kCommand, pci::command::kIo);
  config().seal();
  config_changed_locked(0, pci::ConfigSpace::kConventional);
}

Result<PiixIde::Place> PiixIde::attach(std::unique_ptr<Drive> drive, const std::string& bus, unsigned unit) {
  if (!bus.empty() && bus != "ide.0" && bus != "ide.1")
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("there is no IDE bus '{}'; known are ide.0, ide.1", bus));
  for (unsigned c = 0; c < kChannels; ++c) {
    if (!bus.empty() && bus.back() != static_cast<char>('0' + c)) continue;
    for (unsigned u = 0; u < Channel::kUnits; ++u) {
      if (unit < Channel::kUnits && unit != u) continue;
      if (channels_[c]->has(u)) continue;
      TRY(channels_[c]->attach(u, std::move(drive)));
      return Place{c, u};
    }
  }
  if (!bus.empty() && unit < Channel::kUnits)
    return Error(ErrorKind::kBusy,
                 fmt::format("unit {} of the bus '{}' is taken by another drive", unit, bus));
  if (!bus.empty()) return Error(ErrorKind::kNoResource, fmt::format("the bus '{}' has no free place", bus));
  return Error(ErrorKind::kNoResource,
               "the IDE buses have no free place for another drive; four is the most");
}

uint64_t PiixIde::io_read(uint64_t offset, unsigned size) {
  return chipset::read_bytes(offset, size, [this](uint64_t at) {
    const auto port = static_cast<unsigned>(at);
    return channels_[port / BusMaster::kPorts & 1]->read_bus_master(port % BusMaster::kPorts);
  });
}

void PiixIde::io_write(uint64_t offset, unsigned size, uint64_t value) {
  chipset::write_bytes(offset, size, value, [this](uint64_t at, uint8_t byte) {
    const auto port = static_cast<unsigned>(at);
    channels_[port / BusMaster::kPorts & 1]->write_bus_master(port % BusMaster::kPorts, byte);
  });
}

void PiixIde::config_changed_locked(uint16_t, unsigned) {
  const uint16_t command = config().get16(pci::reg::kCommand);
  for (unsigned i = 0; i < kChannels; ++i)
    channels_[i]->allow((command & pci::command::kIo) != 0 && (config().get16(kTiming[i]) & kDecode) != 0,
                        (command & pci::command::kBusMaster) != 0);
}

void PiixIde::quiesce() {
  for (const auto& channel : channels_) channel->quiesce();
}

void PiixIde::reset_device() {
  for (const auto& channel : channels_) channel->reset();
}

void PiixIde::device_state(state::Archive& archive) {
  archive.section("piix ide", 1);
  for (const auto& channel : channels_) channel->state(archive);
}

}  // namespace ostler::ide
