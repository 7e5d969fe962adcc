// The ports of virtio 0.9.5 over PCI (Virtio 1.2 §4.1.4.10), BAR 0 of a transitional or legacy device:
//
//     0x00  4  device features        0x0c  2  queue size        0x12  1  status
//     0x04  4  driver features        0x0e  2  queue select      0x13  1  ISR
//     0x08  4  queue page             0x10  2  queue notify
//     0x14  2, 2  vectors of configuration and queue, while MSI-X is on
//     then the device's configuration, little-endian as the guest
//
// Threads: any vCPU's; locks are those of its Pci.
#pragma once

#include "bus/io_handler.h"
#include "memory/region.h"

namespace ostler::virtio {

class Pci;

class LegacyPorts final : public bus::IoHandler {
 public:
  explicit LegacyPorts(Pci& pci);

  memory::Region& region() { return region_; }

  std::string_view name() const override;
  uint64_t io_read(uint64_t offset, unsigned size) override;
  void io_write(uint64_t offset, unsigned size, uint64_t value) override;

 private:
  uint64_t config_offset() const;
  uint32_t read_register(uint64_t offset);
  void write_register(uint64_t offset, uint32_t value);

  Pci& pci_;
  memory::IoRegion region_;
};

}  // namespace ostler::virtio
