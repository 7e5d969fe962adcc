// Fixed ACPI hardware of the PIIX4 kind: PM1 event and control registers, the PM timer, one GPE block, and
// the SMI command port through which the operating system takes ACPI over (ACPI 6.5 §4.8; 82371AB §7.2). Any
// thread; one mutex.
#pragma once

#include <cstdint>
#include <mutex>

#include "bus/irq.h"
#include "devices/chipset/io_range.h"
#include "devices/chipset/system_requests.h"
#include "event/loop.h"
#include "state/archive.h"

namespace ostler::chipset {

class AcpiPm final : public state::Savable {
 public:
  static constexpr uint64_t kTimerHertz = 3'579'545;
  static constexpr unsigned kTimerBits = 24;
  static constexpr uint8_t kAcpiEnable = 0xf1, kAcpiDisable = 0xf0;  // SMI commands
  static constexpr uint16_t kEvent = 0, kControl = 4, kTimer = 8;    // offsets in pm_ports()

  // `acpi_mode_at_reset`: ACPI mode is on from reset, for machines without firmware that would know how to
  // turn it on.
  AcpiPm(event::Loop& loop, bus::IrqLine sci, SystemRequests& requests, bool acpi_mode_at_reset = false);
  void reset();

  bus::IoHandler& pm_ports() { return pm_ports_; }    // 12 bytes or more: PM1 event, PM1 control, timer
  bus::IoHandler& gpe_ports() { return gpe_ports_; }  // 4 bytes: status, enable
  bus::IoHandler& smi_ports() { return smi_ports_; }  // 0xb2-0xb3

  // Any thread. False: the guest has not enabled the button and will not notice.
  bool press_power_button();
  void raise_gpe(unsigned bit);  // 0..15: status is set, SCI follows if enabled
  void state(state::Archive& archive) override;

 private:
  uint64_t read_pm(uint64_t offset, unsigned size);
  void write_pm(uint64_t offset, unsigned size, uint64_t value);
  uint64_t read_gpe(uint64_t offset, unsigned size);
  void write_gpe(uint64_t offset, unsigned size, uint64_t value);
  uint64_t read_smi(uint64_t offset, unsigned size);
  void write_smi(uint64_t offset, unsigned size, uint64_t value);
  void write_pm_byte_locked(uint64_t offset, uint8_t value);
  void sleep_locked();
  void catch_up_timer_locked();
  void update_locked();
  void expired();

  event::Loop& loop_;
  const bus::IrqLine sci_;
  SystemRequests& requests_;
  const bool acpi_mode_at_reset_;
  std::mutex mutex_;
  uint16_t status_ = 0, enable_ = 0, control_ = 0;
  uint16_t gpe_status_ = 0, gpe_enable_ = 0;
  uint8_t smi_command_ = 0, smi_data_ = 0;
  int64_t timer_seen_ = 0;  // half turns of the timer that status_ knows of
  bool line_ = false;
  int64_t deadline_ = -1;
  IoRange<AcpiPm> pm_ports_, gpe_ports_, smi_ports_;
  event::Timer timer_;
};

}  // namespace ostler::chipset
