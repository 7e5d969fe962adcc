// The 8254 interval timer and the system control port 0x61 that gates its third counter (Intel 8254 datasheet
// 231164-005; 82371AB §4.2.4). Any thread; one mutex. Counts follow from the virtual clock when they are
// looked at; only counter 0, which drives IRQ 0, uses a timer, one for each rising edge of its output.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>

#include "bus/irq.h"
#include "devices/chipset/io_range.h"
#include "event/loop.h"
#include "state/archive.h"

namespace ostler::chipset {

// One counter. Times are virtual ns; guarded by the chip's mutex.
class PitCounter {
 public:
  static constexpr uint64_t kHertz = 1'193'182;
  // What the kernel's counter and ours have in common: not how far the present count has come.
  struct Image {
    uint8_t mode = 3, access = 3;  // as in the control word; 0..5, 1..3
    bool bcd = false, gate = true, loaded = false;
    bool write_high_next = false, read_high_next = false;
    uint8_t low_byte = 0;
    uint32_t count = 0x10000;
    bool count_latched = false, status_latched = false;
    uint16_t latched_count = 0;
    uint8_t latched_status = 0;
    friend bool operator==(const Image&, const Image&) = default;
  };

  void reset();
  void write_control(uint8_t value, int64_t now);  // not the counter-latch command
  void latch_count(int64_t now);
  void latch_status(int64_t now);
  void write(uint8_t value, int64_t now);
  uint8_t read(int64_t now);
  void set_gate(bool level, int64_t now);
  bool gate() const { return gate_; }
  bool output(int64_t now);
  // When the output rises next after `now`; -1: never without the guest's doing. In modes 2 to 5 the output
  // was low only for a moment before it.
  int64_t next_rise(int64_t now);
  bool pulses() const { return mode_ >= 2; }
  Image image(int64_t now);
  void set_image(const Image& image, int64_t now);  // the count begins now
  void state(state::Archive& archive);

 private:
  enum class Access : uint8_t { kLow = 1, kHigh = 2, kBoth = 3 };
  void load(uint32_t count, int64_t now);
  void settle(int64_t now);
  int64_t elapsed(int64_t now) const;
  uint16_t current(int64_t now);
  uint8_t status(int64_t now);

  uint8_t mode_ = 3;
  bool bcd_ = false, gate_ = true;
  Access access_ = Access::kBoth;
  bool write_high_next_ = false, read_high_next_ = false;
  uint8_t low_byte_ = 0;
  bool loaded_ = false;   // a count was written since the mode
  bool running_ = false;  // counting: gate open, and in modes 1 and 5 triggered
  int64_t start_ = 0;     // when tick 0 of the present count was, while running
  int64_t held_ = 0;      // ticks counted, while not running
  uint32_t count_ = 0x10000;
  uint32_t next_count_ = 0;  // modes 2 and 3: takes over when the present period ends; 0: none
  int64_t next_at_ = 0;      // tick at which it does
  bool count_latched_ = false, status_latched_ = false;
  uint16_t latched_count_ = 0;
  uint8_t latched_status_ = 0;
};

// What the kernel's 8254 and ours have in common.
struct PitImage {
  std::array<PitCounter::Image, 3> counters{};
  bool speaker = false;  // port 0x61 bit 1
  friend bool operator==(const PitImage&, const PitImage&) = default;
};

class Pit final : public state::Savable {
 public:
  Pit(event::Loop& loop, bus::IrqLine irq);
  void reset();
  bus::IoHandler& ports() { return ports_; }                // 0x40-0x43
  bus::IoHandler& control_port() { return control_port_; }  // 0x61
  // The kernel's chip counts while vCPUs run; this one keeps its state.
  void set_kernel() { in_kernel_ = true; }  // construction time
  bool in_kernel() const { return in_kernel_; }
  PitImage image();
  void set_image(const PitImage& image);  // its line goes low
  void lower_line();
  void state(state::Archive& archive) override;

 private:
  uint64_t read_ports(uint64_t offset, unsigned size);
  void write_ports(uint64_t offset, unsigned size, uint64_t value);
  uint64_t read_control(uint64_t offset, unsigned size);
  void write_control(uint64_t offset, unsigned size, uint64_t value);
  void command_locked(uint8_t value, int64_t now);
  void update_irq_locked(int64_t now);
  void expired();

  event::Loop& loop_;
  const bus::IrqLine irq_;
  bool in_kernel_ = false;
  std::mutex mutex_;
  std::array<PitCounter, 3> counters_;
  uint8_t control_ = 0;  // port 0x61, bits 3:0
  bool line_ = false;
  int64_t deadline_ = -1;
  IoRange<Pit> ports_, control_port_;
  event::Timer timer_;
};

}  // namespace ostler::chipset
