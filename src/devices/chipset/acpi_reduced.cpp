#include "devices/chipset/acpi_reduced.h"

#include "base/bytes.h"
#include "base/log.h"

namespace ostler::chipset {
namespace {

constexpr uint64_t kSleepControl = 0, kSleepStatus = 1, kReset = 2;
constexpr uint8_t kSleepEnable = 1 << 5;
constexpr uint8_t kWakeStatus = 1 << 7;  // write one to clear
constexpr unsigned kTypeS5 = 5;          // \_S5 of our DSDT
constexpr uint8_t kResetValue = 1;       // RESET_VALUE of our FADT

}  // namespace

AcpiReduced::AcpiReduced(bus::IrqLine event_irq, SystemRequests& requests)
    : irq_(event_irq),
      requests_(requests),
      event_registers_("acpi-ged", *this, &AcpiReduced::read_events, &AcpiReduced::write_events),
      sleep_registers_("acpi-sleep", *this, &AcpiReduced::read_sleep, &AcpiReduced::write_sleep) {}

void AcpiReduced::reset() {
  const std::lock_guard lock(mutex_);
  events_ = 0;
  sleep_status_ = 0;
}

uint64_t AcpiReduced::read_events(uint64_t offset, unsigned size) {
  const std::lock_guard lock(mutex_);
  if (offset != 0) return 0;
  const uint32_t events = events_;
  events_ = 0;
  return events & size_mask(size);
}

void AcpiReduced::write_events(uint64_t, unsigned, uint64_t) {}  // read-only

uint64_t AcpiReduced::read_sleep(uint64_t offset, unsigned size) {
  const std::lock_guard lock(mutex_);
  return read_bytes(offset, size, [&](uint64_t reg) -> uint8_t {
    return reg == kSleepStatus ? sleep_status_ : uint8_t{0};
  });
}

void AcpiReduced::write_sleep(uint64_t offset, unsigned size, uint64_t value) {
  const std::lock_guard lock(mutex_);
  write_bytes(offset, size, value, [&](uint64_t reg, uint8_t byte) {
    if (reg == kSleepControl && (byte & kSleepEnable) != 0) {
      if (bits(byte, 2, 3) == kTypeS5)
        requests_.request_shutdown("acpi S5");
      else
        log::guest_error("acpi: sleep type {} is not offered", bits(byte, 2, 3));
    } else if (reg == kSleepStatus) {
      sleep_status_ &= static_cast<uint8_t>(~(byte & kWakeStatus));
    } else if (reg == kReset && byte == kResetValue) {
      requests_.request_reset("acpi reset register");
    }
  });
}

void AcpiReduced::press_power_button() {
  const std::lock_guard lock(mutex_);
  events_ |= kPowerButton;
  irq_.pulse();
}

void AcpiReduced::state(state::Archive& archive) {
  const std::lock_guard lock(mutex_);
  archive.section("acpi-reduced", 1);
  archive.field("events", events_);
  archive.field("sleep_status", sleep_status_);
}

}  // namespace ostler::chipset
