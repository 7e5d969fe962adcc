// The fixed functions of the i440fx-shaped PC: host bridge (82441FX datasheet 290549), ISA bridge with the
// PIRQ router (82371SB, 290550) and the power management function (82371AB, 290562). Their configuration
// space; the chips behind the ISA bridge live in devices/chipset.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>

#include "bus/irq.h"
#include "devices/pci/function.h"

namespace ostler::pci {

// 8086:1237 at 00.0. PAM and SMRAM are plain storage: the machine's memory below 1 MiB is always RAM.
class I440fxHostBridge final : public Function {
 public:
  I440fxHostBridge();
};

// 8086:7000 at 01.0. Takes the four PIRQ wires. Each goes to I/O APIC input `first_gsi` + wire, and, as the
// guest programs registers 0x60-0x63, to an ISA interrupt of the 8259 pair.
class Piix3 final : public Function, public bus::IrqSink {
 public:
  // `pic` takes ISA IRQs 3..15 as pins; several wires on one IRQ are joined here, and the machine joins that
  // with the IRQ's other sources. `io_apic` takes pins first_gsi + 0..3. Either may be null.
  Piix3(bus::IrqSink* pic, bus::IrqSink* io_apic, unsigned first_gsi);

  // What firmware would do: an ISA interrupt for each wire. Kept over resets.
  void preset(const std::array<uint8_t, 4>& routes);
  void set_irq(unsigned wire, bool level) override;

 private:
  void config_changed_locked(uint16_t offset, unsigned size) override;
  void device_state(state::Archive& archive) override;
  void drive_pic_locked();

  bus::IrqSink* const pic_;
  bus::IrqSink* const io_apic_;
  const unsigned first_gsi_;
  std::mutex wire_mutex_;  // innermost before the controllers
  std::array<bool, 4> levels_{};
  std::array<uint8_t, 4> routes_{0x80, 0x80, 0x80, 0x80};
  uint16_t driven_ = 0;  // ISA IRQs asserted by a wire
};

// 8086:7113 at 01.3. Maps `pm_block`, the 64 ports of the ACPI registers, where PMBASE says once PMIOSE is
// set.
class Piix4Pm final : public Function {
 public:
  explicit Piix4Pm(memory::Region& pm_block);
  ~Piix4Pm() override;

  // What firmware would do: PMBASE and enable, for machines that start a kernel directly. Once on
  // the bus; kept over resets.
  void preset(uint16_t base);

 private:
  void config_changed_locked(uint16_t offset, unsigned size) override;
  void update_locked();

  memory::Region& pm_block_;
  bool mapped_ = false;
  uint16_t base_ = 0;
};

}  // namespace ostler::pci
