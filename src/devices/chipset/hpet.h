// The high-precision event timer (IA-PC HPET specification 1.0a): a 100 MHz counter and three comparators.
// Any thread; one mutex.
//
// In legacy replacement mode it takes over the lines of the 8254 and the RTC, which therefore run through it:
// their IrqLines lead to our sink pins, ours to the router.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <mutex>

#include "bus/io_handler.h"
#include "bus/irq.h"
#include "event/loop.h"
#include "state/archive.h"

namespace ostler::chipset {

class Hpet final : public bus::IoHandler, public bus::IrqSink, public state::Savable {
 public:
  static constexpr uint64_t kBase = 0xfed00000;
  static constexpr uint64_t kSize = 0x400;
  static constexpr unsigned kPitPin = 0, kRtcPin = 1;  // of the IrqSink
  static constexpr unsigned kComparators = 3;

  // `router` takes global system interrupts: 0 and 8 for the legacy lines, 20 to 23 for the comparators.
  // `msi` may be null: no FSB delivery.
  Hpet(event::Loop& loop, bus::IrqSink& router, bus::MsiSink* msi);
  void reset();
  // Told when legacy replacement begins and ends: whoever drives IRQ 0 beside our pin. Construction time;
  // called with the lock held.
  void on_legacy(std::function<void(bool)> changed) { legacy_changed_ = std::move(changed); }
  bool replaces_legacy();

  void set_irq(unsigned pin, bool level) override;
  std::string_view name() const override { return "hpet"; }
  uint64_t io_read(uint64_t offset, unsigned size) override;
  void io_write(uint64_t offset, unsigned size, uint64_t value) override;
  void state(state::Archive& archive) override;

 private:
  struct Comparator {
    uint64_t config = 0;  // writable bits
    uint64_t value = ~uint64_t{0};
    uint64_t period = 0;
    uint64_t fsb = 0;
    bool line = false;      // level-triggered and active
    unsigned line_pin = 0;  // where
    int64_t deadline = -1;
    bool far = false;  // the deadline is only for another look
  };

  uint64_t read_register_locked(uint64_t reg) const;
  void write_register_locked(uint64_t reg, uint64_t value, uint64_t mask);
  void write_comparator_locked(unsigned index, uint64_t reg, uint64_t value, uint64_t mask);
  void write_config_locked(uint64_t value);
  uint64_t counter_locked() const;
  bool enabled() const { return (config_ & 1) != 0; }
  bool legacy() const { return (config_ & 2) != 0; }
  unsigned pin_of_locked(unsigned index) const;
  void arm_locked(unsigned index);
  void arm_all_locked();
  static bool silent_locked(const Comparator& timer);
  void catch_up_locked(unsigned index);
  static void advance_locked(Comparator& timer, uint64_t behind);
  void fire_locked(unsigned index);
  void update_line_locked(unsigned index);
  void drive_legacy_locked();
  void expired(unsigned index);

  event::Loop& loop_;
  bus::IrqSink& router_;
  bus::MsiSink* const msi_;
  std::function<void(bool)> legacy_changed_;
  std::mutex mutex_;
  uint64_t config_ = 0, status_ = 0;
  uint64_t base_ = 0;  // of the counter: at start_ while enabled, its value while not
  int64_t start_ = 0;  // virtual ns
  bool pit_level_ = false, rtc_level_ = false;
  std::array<Comparator, kComparators> comparators_;
  std::array<event::Timer, kComparators> timers_;
};

}  // namespace ostler::chipset
