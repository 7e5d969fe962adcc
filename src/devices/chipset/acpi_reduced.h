// Power management of a machine with hardware-reduced ACPI (ACPI 6.5 §4.1, §4.8.3.7): sleep control and
// status, a reset register, and the event register that the DSDT's generic event device reads. Any thread;
// one mutex.
#pragma once

#include <cstdint>
#include <mutex>

#include "bus/irq.h"
#include "devices/chipset/io_range.h"
#include "devices/chipset/system_requests.h"
#include "state/archive.h"

namespace ostler::chipset {

class AcpiReduced final : public state::Savable {
 public:
  static constexpr uint32_t kPowerButton = 1;  // event bits

  AcpiReduced(bus::IrqLine event_irq, SystemRequests& requests);
  void reset();

  bus::IoHandler& event_registers() { return event_registers_; }  // 4 bytes: events, cleared by reading
  bus::IoHandler& sleep_registers() { return sleep_registers_; }  // control, status, reset

  void press_power_button();  // any thread
  void state(state::Archive& archive) override;

 private:
  uint64_t read_events(uint64_t offset, unsigned size);
  void write_events(uint64_t offset, unsigned size, uint64_t value);
  uint64_t read_sleep(uint64_t offset, unsigned size);
  void write_sleep(uint64_t offset, unsigned size, uint64_t value);

  const bus::IrqLine irq_;
  SystemRequests& requests_;
  std::mutex mutex_;
  uint32_t events_ = 0;
  uint8_t sleep_status_ = 0;
  IoRange<AcpiReduced> event_registers_, sleep_registers_;
};

}  // namespace ostler::chipset
