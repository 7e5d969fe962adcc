// The MC146818 real-time clock with the PC's CMOS RAM: 128 bytes behind ports 0x70/0x71, 128 more behind
// 0x72/0x73 (Motorola MC146818A datasheet; 82371AB §4.2.6). Any thread; one mutex.
//
// The time of day is the virtual clock plus an offset, so it neither drifts nor runs while the guest is
// paused. Its registers are computed when they are read; a timer runs only for interrupts that are enabled.
//
// Deviation: an update takes no time. UIP announces it for 244 us, during which the guest may read
// consistently.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>

#include "bus/irq.h"
#include "devices/chipset/io_range.h"
#include "event/loop.h"
#include "state/archive.h"

namespace ostler::chipset {

class Rtc final : public state::Savable {
 public:
  // `start_s`: what the clock shows at virtual time 0, seconds since 1970 in the guest's zone.
  Rtc(event::Loop& loop, bus::IrqLine irq, int64_t start_s);
  void reset();

  bus::IoHandler& ports() { return ports_; }                    // 0x70-0x71
  bus::IoHandler& extended_ports() { return extended_ports_; }  // 0x72-0x73

  // CMOS bytes that firmware reads: memory sizes, boot order. Index 0x0e..0xff, not the century.
  void set_cmos(uint8_t index, uint8_t value);
  uint8_t cmos(uint8_t index);
  int64_t time_s();  // what it shows now
  void state(state::Archive& archive) override;

 private:
  uint64_t read_ports(uint64_t offset, unsigned size);
  void write_ports(uint64_t offset, unsigned size, uint64_t value);
  uint64_t read_extended(uint64_t offset, unsigned size);
  void write_extended(uint64_t offset, unsigned size, uint64_t value);

  uint8_t read_locked(uint8_t index);
  void write_locked(uint8_t index, uint8_t value);
  uint8_t read_flags_locked();
  void write_control_locked(uint8_t index, uint8_t value);
  bool stopped_locked() const;
  int64_t wall_locked() const { return loop_.clock().now() + offset_; }  // ns, while not stopped
  void show_locked(int64_t seconds);                                     // into the time registers
  int64_t shown_locked() const;                                          // from the time registers
  void start_locked(int64_t into_second);
  void stop_locked();
  uint8_t encode(unsigned value) const;
  unsigned decode(uint8_t value) const;
  int64_t period_ticks_locked() const;
  int64_t next_alarm_locked(int64_t after_s) const;  // second of the day matches; -1: never
  void catch_up_locked();
  void update_irq_locked();
  void rearm_locked();
  void expired();

  event::Loop& loop_;
  const bus::IrqLine irq_;
  std::mutex mutex_;
  std::array<uint8_t, 256> cmos_{};
  uint8_t index_ = 0, extended_index_ = 0;
  int64_t offset_;         // ns: time of day - virtual clock
  int64_t seen_ = 0;       // virtual ns up to which events are in register C
  int64_t alarm_at_ = -1;  // second, -1: none
  bool line_ = false;
  int64_t deadline_ = -1;
  IoRange<Rtc> ports_, extended_ports_;
  event::Timer timer_;
};

}  // namespace ostler::chipset
