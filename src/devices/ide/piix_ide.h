// The IDE function of the PIIX3, 8086:7010 (82371SB §2.5 to §2.8): two channels at the PC's old addresses,
// and a bus master in BAR 4. Timings are registers without effect.
#pragma once

#include <array>
#include <memory>

#include "bus/io_handler.h"
#include "devices/ide/channel.h"
#include "devices/pci/function.h"

namespace ostler::ide {

class PiixIde final : public pci::Function, private bus::IoHandler {
 public:
  static constexpr unsigned kChannels = 2;
  struct Ports {
    uint16_t command, control;
    unsigned irq;
  };
  static constexpr Ports kPorts[kChannels] = {{0x1f0, 0x3f6, 14}, {0x170, 0x376, 15}};

  PiixIde(memory::AddressSpace& memory, bus::IrqLine primary, bus::IrqLine secondary);
  ~PiixIde() override;

  Channel& channel(unsigned index) { return *channels_[index]; }

  // What firmware would do: both channels answer. Once on the bus; kept over resets.
  void preset();
  struct Place {
    unsigned channel, unit;
  };
  // Where "bus" and "unit" of a device say, or the first place that is free. kInvalidArgument: no such bus;
  // kBusy; kNoResource.
  Result<Place> attach(std::unique_ptr<Drive> drive, const std::string& bus, unsigned unit);
  void quiesce();

 private:
  std::string_view name() const override { return "ide bus master"; }
  uint64_t io_read(uint64_t offset, unsigned size) override;
  void io_write(uint64_t offset, unsigned size, uint64_t value) override;
  void config_changed_locked(uint16_t offset, unsigned size) override;
  void reset_device() override;
  void device_state(state::Archive& archive) override;

  std::array<std::unique_ptr<Channel>, kChannels> channels_;
  memory::IoRegion bus_master_;
};

}  // namespace ostler::ide
