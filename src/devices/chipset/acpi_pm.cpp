#include "devices/chipset/acpi_pm.h"

#include "base/log.h"
#include "devices/chipset/ticks.h"

namespace ostler::chipset {
namespace {

// PM1 status and enable (ACPI 6.5 tables 4.13 and 4.14).
constexpr uint16_t kTimerStatus = 1 << 0, kBusMaster = 1 << 4, kGlobal = 1 << 5, kPowerButton = 1 << 8,
                   kSleepButton = 1 << 9, kRtc = 1 << 10, kWake = 1 << 15;
constexpr uint16_t kStatusBits =
    kTimerStatus | kBusMaster | kGlobal | kPowerButton | kSleepButton | kRtc | kWake;
constexpr uint16_t kEnableBits = kTimerStatus | kGlobal | kPowerButton | kSleepButton | kRtc;
// PM1 control (table 4.15).
constexpr uint16_t kSciEnable = 1 << 0, kSleepType = 7 << 10, kSleepEnable = 1 << 13;
constexpr uint16_t kControlBits = kSciEnable | 1 << 1 | kSleepType;
constexpr unsigned kTypeS5 = 0;  // \_S5 of our DSDT

constexpr int64_t kHalfTurn = int64_t{1} << (AcpiPm::kTimerBits - 1);

}  // namespace

AcpiPm::AcpiPm(event::Loop& loop, bus::IrqLine sci, SystemRequests& requests, bool acpi_mode_at_reset)
    : loop_(loop),
      sci_(sci),
      requests_(requests),
      acpi_mode_at_reset_(acpi_mode_at_reset),
      pm_ports_("acpi-pm", *this, &AcpiPm::read_pm, &AcpiPm::write_pm),
      gpe_ports_("acpi-gpe", *this, &AcpiPm::read_gpe, &AcpiPm::write_gpe),
      smi_ports_("acpi-smi", *this, &AcpiPm::read_smi, &AcpiPm::write_smi),
      timer_(loop, [this] { expired(); }) {
  reset();
}

void AcpiPm::reset() {
  const std::lock_guard lock(mutex_);
  status_ = enable_ = gpe_status_ = gpe_enable_ = 0;
  control_ = acpi_mode_at_reset_ ? kSciEnable : 0;
  smi_command_ = smi_data_ = 0;
  timer_seen_ = ticks_in(loop_.clock().now(), kTimerHertz) / kHalfTurn;
  update_locked();
}

// TMR_STS: the top bit of the timer has changed (§4.8.3.1).
void AcpiPm::catch_up_timer_locked() {
  const int64_t half_turns = ticks_in(loop_.clock().now(), kTimerHertz) / kHalfTurn;
  if (half_turns != timer_seen_) status_ |= kTimerStatus;
  timer_seen_ = half_turns;
}

void AcpiPm::update_locked() {
  const bool level = (control_ & kSciEnable) != 0 &&
                     ((status_ & enable_ & kEnableBits) != 0 || (gpe_status_ & gpe_enable_) != 0);
  if (level != line_) {
    line_ = level;
    sci_.set(level);
  }
  if ((enable_ & kTimerStatus) != 0 && (status_ & kTimerStatus) == 0) {
    deadline_ = ns_of_tick((timer_seen_ + 1) * kHalfTurn, kTimerHertz);
    timer_.set(deadline_);
  } else {
    deadline_ = -1;
    timer_.cancel();
  }
}

void AcpiPm::expired() {
  const std::lock_guard lock(mutex_);
  if (deadline_ < 0 || loop_.clock().now() < deadline_) return;
  catch_up_timer_locked();
  update_locked();
}

uint64_t AcpiPm::read_pm(uint64_t offset, unsigned size) {
  const std::lock_guard lock(mutex_);
  catch_up_timer_locked();
  update_locked();
  const auto count =
      static_cast<uint32_t>(ticks_in(loop_.clock().now(), kTimerHertz)) & ((1u << kTimerBits) - 1);
  return read_bytes(offset, size, [&](uint64_t port) -> uint32_t {
    switch (port) {
      case 0:
      case 1:
        return status_ >> (8 * port);
      case 2:
      case 3:
        return enable_ >> (8 * (port - 2));
      case 4:
      case 5:
        return control_ >> (8 * (port - 4));
      case 8:
      case 9:
      case 10:
      case 11:
        return count >> (8 * (port - 8));
      default:
        return 0;
    }
  });
}

void AcpiPm::write_pm(uint64_t offset, unsigned size, uint64_t value) {
  const std::lock_guard lock(mutex_);
  catch_up_timer_locked();
  write_bytes(offset, size, value, [&](uint64_t port, uint8_t byte) { write_pm_byte_locked(port, byte); });
  update_locked();
}

void AcpiPm::write_pm_byte_locked(uint64_t offset, uint8_t value) {
  const auto high = static_cast<uint16_t>(value << 8);
  switch (offset) {
    case 0:  // write one to clear
      status_ &= static_cast<uint16_t>(~value);
      return;
    case 1:
      status_ &= static_cast<uint16_t>(~high);
      return;
    case 2:
      enable_ = static_cast<uint16_t>(((enable_ & 0xff00) | value) & kEnableBits);
      return;
    case 3:
      enable_ = static_cast<uint16_t>(((enable_ & 0xff) | high) & kEnableBits);
      return;
    case 4:
      control_ = static_cast<uint16_t>(((control_ & 0xff00) | value) & kControlBits);
      return;
    case 5:
      control_ = static_cast<uint16_t>(((control_ & 0xff) | high) & kControlBits);
      if ((high & kSleepEnable) != 0) sleep_locked();
      return;
    default:
      return;
  }
}

void AcpiPm::sleep_locked() {
  const unsigned type = (control_ & kSleepType) >> 10;
  if (type == kTypeS5)
    requests_.request_shutdown("acpi S5");
  else
    log::guest_error("acpi: sleep type {} is not offered", type);
}

uint64_t AcpiPm::read_gpe(uint64_t offset, unsigned size) {
  const std::lock_guard lock(mutex_);
  const uint32_t block = gpe_status_ | static_cast<uint32_t>(gpe_enable_) << 16;
  return read_bytes(offset, size,
                    [&](uint64_t port) -> uint32_t { return port < 4 ? block >> (8 * port) : 0; });
}

void AcpiPm::write_gpe(uint64_t offset, unsigned size, uint64_t value) {
  const std::lock_guard lock(mutex_);
  write_bytes(offset, size, value, [&](uint64_t port, uint8_t byte) {
    const auto shifted = static_cast<uint16_t>(byte << (8 * (port & 1)));
    const auto keep = static_cast<uint16_t>((port & 1) == 0 ? 0xff00 : 0x00ff);
    if (port < 2)
      gpe_status_ &= static_cast<uint16_t>(~shifted);
    else if (port < 4)
      gpe_enable_ = static_cast<uint16_t>((gpe_enable_ & keep) | shifted);
  });
  update_locked();
}

uint64_t AcpiPm::read_smi(uint64_t offset, unsigned size) {
  const std::lock_guard lock(mutex_);
  return read_bytes(offset, size, [&](uint64_t port) { return port == 0 ? smi_command_ : smi_data_; });
}

void AcpiPm::write_smi(uint64_t offset, unsigned size, uint64_t value) {
  const std::lock_guard lock(mutex_);
  write_bytes(offset, size, value, [&](uint64_t port, uint8_t byte) {
    if (port != 0) {
      smi_data_ = byte;
      return;
    }
    smi_command_ = byte;
    if (byte == kAcpiEnable)
      control_ |= kSciEnable;
    else if (byte == kAcpiDisable)
      control_ &= static_cast<uint16_t>(~kSciEnable);
  });
  update_locked();
}

bool AcpiPm::press_power_button() {
  const std::lock_guard lock(mutex_);
  status_ |= kPowerButton;
  update_locked();
  return (enable_ & kPowerButton) != 0 && (control_ & kSciEnable) != 0;
}

void AcpiPm::raise_gpe(unsigned bit) {
  const std::lock_guard lock(mutex_);
  gpe_status_ |= static_cast<uint16_t>(1u << (bit & 15));
  update_locked();
}

void AcpiPm::state(state::Archive& archive) {
  const std::lock_guard lock(mutex_);
  archive.section("acpi-pm", 1);
  archive.field("status", status_);
  archive.field("enable", enable_);
  archive.field("control", control_);
  archive.field("gpe_status", gpe_status_);
  archive.field("gpe_enable", gpe_enable_);
  archive.field("smi_command", smi_command_);
  archive.field("smi_data", smi_data_);
  archive.field("timer_seen", timer_seen_);
  archive.field("line", line_);
  archive.check((status_ & ~kStatusBits) == 0, "status");
  archive.check(timer_seen_ >= 0 && timer_seen_ < int64_t{1} << 32, "timer_seen");
  if (!archive.loading() || archive.failed()) return;
  // The line keeps its saved level, which the interrupt controllers share.
  if ((enable_ & kTimerStatus) != 0 && (status_ & kTimerStatus) == 0) {
    deadline_ = ns_of_tick((timer_seen_ + 1) * kHalfTurn, kTimerHertz);
    timer_.set(deadline_);
  } else {
    deadline_ = -1;
    timer_.cancel();
  }
}

}  // namespace ostler::chipset
