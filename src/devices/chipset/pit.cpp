#include "devices/chipset/pit.h"

#include <algorithm>

#include "base/bytes.h"
#include "devices/chipset/ticks.h"

namespace ostler::chipset {
namespace {

constexpr int64_t kRefreshToggleNs = 15'085;   // port 0x61 bit 4
constexpr int64_t kShortestPeriodNs = 20'000;  // of interrupts: quicker ones only occupy the event loop

uint32_t from_bcd(uint32_t value) {
  uint32_t result = 0;
  for (int shift = 12; shift >= 0; shift -= 4) result = result * 10 + std::min(value >> shift & 15, 9u);
  return result;
}
uint16_t to_bcd(uint32_t value) {
  uint32_t result = 0;
  for (unsigned shift = 0; shift < 16; shift += 4, value /= 10) result |= (value % 10) << shift;
  return static_cast<uint16_t>(result);
}

}  // namespace

// ---- one counter ----

void PitCounter::reset() {
  const bool gate = gate_;
  *this = PitCounter();
  gate_ = gate;
}

int64_t PitCounter::elapsed(int64_t now) const {
  return running_ ? ticks_in(now - start_, kHertz) : held_;
}

// Lets a count that waits for the end of the period take over.
void PitCounter::settle(int64_t now) {
  if (next_count_ == 0 || elapsed(now) < next_at_) return;
  start_ += ns_of_tick(next_at_, kHertz);
  count_ = next_count_;
  next_count_ = 0;
}

void PitCounter::write_control(uint8_t value, int64_t now) {
  settle(now);
  access_ = static_cast<Access>(value >> 4 & 3);
  mode_ = value >> 1 & 7;
  if (mode_ > 5) mode_ &= 3;  // "X10", "X11"
  bcd_ = bit(value, 0);
  write_high_next_ = read_high_next_ = false;
  count_latched_ = status_latched_ = false;
  loaded_ = running_ = false;
  held_ = 0;
  next_count_ = 0;
}

void PitCounter::write(uint8_t value, int64_t now) {
  uint32_t count = value;
  if (access_ == Access::kHigh) {
    count = static_cast<uint32_t>(value) << 8;
  } else if (access_ == Access::kBoth) {
    if (!write_high_next_) {
      low_byte_ = value;
      write_high_next_ = true;
      if (mode_ == 0) {  // "writing the first byte disables counting"
        held_ = elapsed(now);
        running_ = loaded_ = false;
      }
      return;
    }
    write_high_next_ = false;
    count = static_cast<uint32_t>(value) << 8 | low_byte_;
  }
  if (bcd_) count = from_bcd(count);
  load(count != 0 ? count : (bcd_ ? 10'000 : 0x10000), now);
}

void PitCounter::load(uint32_t count, int64_t now) {
  settle(now);
  const bool periodic = mode_ == 2 || mode_ == 3;
  // A count of 1 is illegal in modes 2 and 3; counting 2 keeps the output defined.
  if (periodic) count = std::max(count, 2u);
  if (periodic && loaded_ && running_) {
    next_count_ = count;
    next_at_ = (elapsed(now) / count_ + 1) * count_;
    return;
  }
  if ((mode_ == 1 || mode_ == 5) && running_) {
    // "The current counting sequence is not affected": it takes over at the next trigger.
    next_count_ = count;
    next_at_ = INT64_MAX;
    loaded_ = true;
    return;
  }
  count_ = count;
  next_count_ = 0;
  loaded_ = true;
  held_ = 0;
  start_ = now;
  running_ = mode_ != 1 && mode_ != 5 && gate_;
}

void PitCounter::set_gate(bool level, int64_t now) {
  settle(now);
  const bool rising = level && !gate_;
  const bool falling = !level && gate_;
  gate_ = level;
  if (!loaded_) return;
  switch (mode_) {
    case 1:
    case 5:
      if (!rising) return;
      if (next_count_ != 0) count_ = next_count_;
      next_count_ = 0;
      start_ = now;
      running_ = true;
      return;
    case 2:
    case 3:
      if (rising) {
        if (next_count_ != 0) count_ = next_count_;
        next_count_ = 0;
        start_ = now;
        running_ = true;
      } else if (falling) {
        held_ = elapsed(now);
        running_ = false;
      }
      return;
    default:  // 0 and 4: the gate holds the count
      if (falling && running_) {
        held_ = elapsed(now);
        running_ = false;
      } else if (rising && !running_) {
        start_ = now - ns_of_tick(held_, kHertz);
        running_ = true;
      }
  }
}

bool PitCounter::output(int64_t now) {
  settle(now);
  const int64_t done = elapsed(now);
  switch (mode_) {
    case 0:
      return loaded_ && done >= count_;
    case 1:
      return !running_ || done >= count_;
    case 2:
      return !loaded_ || !running_ || done % count_ != count_ - 1;
    case 3:
      return !loaded_ || !running_ || done % count_ < (count_ + 1) / 2;
    case 4:
      return !loaded_ || done != count_;
    default:
      return !running_ || done != count_;
  }
}

int64_t PitCounter::next_rise(int64_t now) {
  settle(now);
  if (!loaded_ || !running_) return -1;
  const int64_t done = elapsed(now);
  int64_t tick = 0;
  switch (mode_) {
    case 0:
    case 1:
      tick = count_;
      break;
    case 2:
    case 3:
      tick = (done / count_ + 1) * count_;
      break;
    default:
      tick = count_ + 1;
  }
  return tick > done ? start_ + ns_of_tick(tick, kHertz) : -1;
}

uint16_t PitCounter::current(int64_t now) {
  settle(now);
  const uint32_t modulus = bcd_ ? 10'000 : 0x10000;
  const int64_t done = elapsed(now);
  int64_t value = 0;
  if (mode_ == 2) {
    value = count_ - done % count_;
  } else if (mode_ == 3) {  // by twos, twice in each period
    const int64_t half = (count_ + 1) / 2;
    int64_t within = done % count_;
    if (within >= half) within -= half;
    value = (count_ & ~1u) - 2 * within;
  } else {
    value = (count_ - done % modulus + modulus) % modulus;
  }
  const auto binary = static_cast<uint32_t>(value) % modulus;
  return bcd_ ? to_bcd(binary) : static_cast<uint16_t>(binary);
}

uint8_t PitCounter::status(int64_t now) {
  const bool null_count = !loaded_ || next_count_ != 0;
  return static_cast<uint8_t>(output(now) << 7 | null_count << 6 | static_cast<uint8_t>(access_) << 4 |
                              mode_ << 1 | static_cast<uint8_t>(bcd_));
}

void PitCounter::latch_count(int64_t now) {
  if (count_latched_) return;  // "ignored until the latched count is read"
  count_latched_ = true;
  latched_count_ = current(now);
  read_high_next_ = false;
}

void PitCounter::latch_status(int64_t now) {
  if (status_latched_) return;
  status_latched_ = true;
  latched_status_ = status(now);
}

uint8_t PitCounter::read(int64_t now) {
  if (status_latched_) {
    status_latched_ = false;
    return latched_status_;
  }
  const uint16_t value = count_latched_ ? latched_count_ : current(now);
  const auto low = static_cast<uint8_t>(value), high = static_cast<uint8_t>(value >> 8);
  if (access_ == Access::kBoth) {
    const bool second = read_high_next_;
    read_high_next_ = !second;
    if (second) count_latched_ = false;
    return second ? high : low;
  }
  count_latched_ = false;
  return access_ == Access::kHigh ? high : low;
}

void PitCounter::state(state::Archive& archive) {
  archive.section("pit-counter", 1);
  archive.field("mode", mode_);
  archive.field("bcd", bcd_);
  archive.field("gate", gate_);
  archive.field("access", access_);
  archive.field("write_high", write_high_next_);
  archive.field("read_high", read_high_next_);
  archive.field("low_byte", low_byte_);
  archive.field("loaded", loaded_);
  archive.field("running", running_);
  archive.field("start", start_);
  archive.field("held", held_);
  archive.field("count", count_);
  archive.field("next_count", next_count_);
  archive.field("next_at", next_at_);
  archive.field("count_latched", count_latched_);
  archive.field("status_latched", status_latched_);
  archive.field("latched_count", latched_count_);
  archive.field("latched_status", latched_status_);
  constexpr int64_t kFar = INT64_MAX / 2;
  archive.check(mode_ <= 5, "mode");
  archive.check(access_ >= Access::kLow && access_ <= Access::kBoth, "access");
  archive.check(start_ > -kFar && start_ < kFar, "start");
  archive.check(held_ >= 0 && held_ < kFar / 1000, "held");
  archive.check(count_ >= 1 && count_ <= 0x10000, "count");
  archive.check(next_count_ <= 0x10000, "next_count");
  archive.check(next_at_ >= 0 && (next_at_ < kFar / 1000 || next_at_ == INT64_MAX), "next_at");
}

// ---- the chip ----

Pit::Pit(event::Loop& loop, bus::IrqLine irq)
    : loop_(loop),
      irq_(irq),
      ports_("pit", *this, &Pit::read_ports, &Pit::write_ports),
      control_port_("port-61", *this, &Pit::read_control, &Pit::write_control),
      timer_(loop, [this] { expired(); }) {
  counters_[2].set_gate(false, 0);
}

void Pit::reset() {
  const std::lock_guard lock(mutex_);
  for (PitCounter& counter : counters_) counter.reset();
  for (const unsigned tied_high : {0u, 1u}) counters_[tied_high].set_gate(true, 0);
  counters_[2].set_gate(false, 0);
  control_ = 0;
  deadline_ = -1;
  timer_.cancel();
  if (line_) irq_.lower();
  line_ = false;
}

// After anything that may have changed counter 0.
void Pit::update_irq_locked(int64_t now) {
  const bool level = counters_[0].output(now);
  // The short low phases of modes 2 to 5 are made up for by expired(); the line is high in between.
  const bool want = level || counters_[0].pulses();
  if (want != line_) {
    line_ = want;
    irq_.set(want);
  }
  deadline_ = counters_[0].next_rise(now);
  if (deadline_ < 0)
    timer_.cancel();
  else
    timer_.set(deadline_);
}

void Pit::expired() {
  const std::lock_guard lock(mutex_);
  const int64_t now = loop_.clock().now();
  if (deadline_ < 0 || now < deadline_) return;  // reprogrammed meanwhile
  irq_.lower();
  irq_.raise();
  line_ = true;
  deadline_ = counters_[0].next_rise(now);
  if (deadline_ < 0) return;
  // Edges closer than that are merged: the next one is then the first after the pause.
  if (deadline_ < now + kShortestPeriodNs) deadline_ = now + kShortestPeriodNs;
  timer_.set(deadline_);
}

void Pit::command_locked(uint8_t value, int64_t now) {
  const unsigned select = value >> 6;
  if (select == 3) {  // read-back: bits 5 and 4 low to latch count and status, bits 3:1 the counters
    for (unsigned i = 0; i < 3; ++i) {
      if (!bit(value, 1 + i)) continue;
      if (!bit(value, 5)) counters_[i].latch_count(now);
      if (!bit(value, 4)) counters_[i].latch_status(now);
    }
    return;
  }
  if ((value >> 4 & 3) == 0) {
    counters_[select].latch_count(now);
    return;
  }
  counters_[select].write_control(value, now);
  if (select == 0) update_irq_locked(now);
}

uint64_t Pit::read_ports(uint64_t offset, unsigned size) {
  const std::lock_guard lock(mutex_);
  const int64_t now = loop_.clock().now();
  return read_bytes(offset, size, [&](uint64_t port) -> uint8_t {
    return (port & 3) == 3 ? 0xff : counters_[port & 3].read(now);  // the control word cannot be read
  });
}

void Pit::write_ports(uint64_t offset, unsigned size, uint64_t value) {
  const std::lock_guard lock(mutex_);
  const int64_t now = loop_.clock().now();
  write_bytes(offset, size, value, [&](uint64_t port, uint8_t byte) {
    if ((port & 3) == 3) {
      command_locked(byte, now);
      return;
    }
    counters_[port & 3].write(byte, now);
    if ((port & 3) == 0) update_irq_locked(now);
  });
}

uint64_t Pit::read_control(uint64_t offset, unsigned size) {
  const std::lock_guard lock(mutex_);
  const int64_t now = loop_.clock().now();
  return read_bytes(offset, size, [&](uint64_t port) -> uint8_t {
    if (port != 0) return 0xff;
    return static_cast<uint8_t>(control_ | (now / kRefreshToggleNs & 1) << 4 | counters_[2].output(now) << 5);
  });
}

void Pit::write_control(uint64_t offset, unsigned size, uint64_t value) {
  const std::lock_guard lock(mutex_);
  write_bytes(offset, size, value, [&](uint64_t port, uint8_t byte) {
    if (port != 0) return;
    control_ = byte & 15;
    counters_[2].set_gate(bit(byte, 0), loop_.clock().now());
  });
}

void Pit::state(state::Archive& archive) {
  const std::lock_guard lock(mutex_);
  archive.section("pit", 1);
  for (PitCounter& counter : counters_) counter.state(archive);
  archive.field("control", control_);
  archive.field("line", line_);
  archive.field("deadline", deadline_);
  archive.check(control_ <= 15, "control");
  archive.check(deadline_ >= -1 && deadline_ < INT64_MAX / 2, "deadline");
  if (!archive.loading() || archive.failed()) return;
  if (deadline_ >= 0 && !in_kernel_)
    timer_.set(deadline_);
  else
    timer_.cancel();
}

}  // namespace ostler::chipset
