#include "devices/chipset/hpet.h"

#include <algorithm>

#include "base/bytes.h"

namespace ostler::chipset {
namespace {

constexpr int64_t kTickNs = 10;
constexpr uint64_t kPeriodFs = 10'000'000;
constexpr uint64_t kCapabilities = kPeriodFs << 32 | uint64_t{0x8086} << 16 |
                                   1u << 15 /* legacy replacement */ | 1u << 13 /* 64-bit counter */ |
                                   (Hpet::kComparators - 1) << 8 | 1;

constexpr uint64_t kRegConfig = 0x10, kRegStatus = 0x20, kRegCounter = 0xf0, kRegComparators = 0x100;
constexpr uint64_t kRegConfigTn = 0, kRegValueTn = 8, kRegFsbTn = 16;

constexpr uint64_t kLevel = 1 << 1, kEnable = 1 << 2, kPeriodic = 1 << 3, kSetValue = 1 << 6, k32Bit = 1 << 8,
                   kFsbEnable = 1 << 14;
constexpr uint64_t kPeriodicCapable = 1 << 4, k64BitCapable = 1 << 5, kFsbCapable = 1 << 15;
constexpr uint64_t kRoutes = 0x00f00000;  // I/O APIC pins 20 to 23
constexpr unsigned kFirstRoute = 20, kLastRoute = 23;

constexpr int64_t kShortestPeriodNs = 20'000;
constexpr int64_t kLongestSleepNs = int64_t{3600} * 1'000'000'000;

unsigned route_of(uint64_t config) {
  return static_cast<unsigned>(bits(config, 9, 5));
}

}  // namespace

Hpet::Hpet(event::Loop& loop, bus::IrqSink& router, bus::MsiSink* msi)
    : loop_(loop),
      router_(router),
      msi_(msi),
      timers_{event::Timer{loop, [this] { expired(0); }}, event::Timer{loop, [this] { expired(1); }},
              event::Timer{loop, [this] { expired(2); }}} {}

void Hpet::reset() {
  const std::lock_guard lock(mutex_);
  config_ = 0;
  status_ = 0;
  base_ = 0;
  for (unsigned i = 0; i < kComparators; ++i) {
    update_line_locked(i);
    comparators_[i] = Comparator();
    timers_[i].cancel();
  }
  drive_legacy_locked();
}

uint64_t Hpet::counter_locked() const {
  return enabled() ? base_ + static_cast<uint64_t>((loop_.clock().now() - start_) / kTickNs) : base_;
}

void Hpet::set_irq(unsigned pin, bool level) {
  const std::lock_guard lock(mutex_);
  (pin == kPitPin ? pit_level_ : rtc_level_) = level;
  if (!legacy()) router_.set_irq(pin == kPitPin ? 0 : 8, level);
}

bool Hpet::replaces_legacy() {
  const std::lock_guard lock(mutex_);
  return legacy();
}

// After the mode changed: the lines go back to their owners, or are ours and low.
void Hpet::drive_legacy_locked() {
  router_.set_irq(0, !legacy() && pit_level_);
  router_.set_irq(8, !legacy() && rtc_level_);
}

unsigned Hpet::pin_of_locked(unsigned index) const {
  if (legacy() && index == 0) return 0;
  if (legacy() && index == 1) return 8;
  return route_of(comparators_[index].config);
}

// A level-triggered comparator holds its line while its status bit is set.
void Hpet::update_line_locked(unsigned index) {
  Comparator& timer = comparators_[index];
  const bool want =
      (timer.config & kLevel) != 0 && (timer.config & kEnable) != 0 && enabled() && bit(status_, index);
  const unsigned pin = pin_of_locked(index);
  if (timer.line && (!want || pin != timer.line_pin)) {
    router_.set_irq(timer.line_pin, false);
    timer.line = false;
  }
  if (want && !timer.line) {
    timer.line = true;
    timer.line_pin = pin;
    router_.set_irq(pin, true);
  }
}

void Hpet::fire_locked(unsigned index) {
  Comparator& timer = comparators_[index];
  if ((timer.config & kLevel) != 0)
    status_ |= uint64_t{1} << index;  // §2.3.6: also when the interrupt is off
  if ((timer.config & kEnable) == 0) return;
  if ((timer.config & kFsbEnable) != 0 && msi_ != nullptr) {
    msi_->send_msi({timer.fsb >> 32}, static_cast<uint32_t>(timer.fsb));
    return;
  }
  if ((timer.config & kLevel) != 0) {
    update_line_locked(index);
    return;
  }
  const unsigned pin = pin_of_locked(index);
  router_.set_irq(pin, true);
  router_.set_irq(pin, false);
}

void Hpet::arm_locked(unsigned index) {
  Comparator& timer = comparators_[index];
  timer.deadline = -1;
  if (!enabled()) {
    timers_[index].cancel();
    return;
  }
  const uint64_t counter = counter_locked();
  const bool narrow = (timer.config & k32Bit) != 0;
  uint64_t ticks = timer.value - counter;
  if (narrow) ticks = static_cast<uint32_t>(ticks);
  // A value just reached fires when the counter comes round again.
  if (ticks == 0) ticks = narrow ? uint64_t{1} << 32 : ~uint64_t{0};
  // Aligned to the counter's ticks; a far deadline is looked at again on the way.
  const int64_t now = loop_.clock().now();
  const int64_t into_tick = (now - start_) % kTickNs;
  timer.far = ticks > static_cast<uint64_t>(kLongestSleepNs / kTickNs);
  const int64_t delay = timer.far ? kLongestSleepNs : static_cast<int64_t>(ticks) * kTickNs - into_tick;
  timer.deadline = now + delay;
  if (silent_locked(timer))
    timers_[index].cancel();
  else
    timers_[index].set(timer.deadline);
}

// Whether nobody is told when it fires: kernels leave a comparator periodic when they turn its interrupt off,
// and the host need not wake for it. catch_up_locked() makes up for what then went by.
bool Hpet::silent_locked(const Comparator& timer) {
  return (timer.config & (kEnable | kLevel)) == 0 && !(timer.far && (timer.config & kPeriodic) != 0);
}

// Before a comparator is looked at or changes.
void Hpet::catch_up_locked(unsigned index) {
  Comparator& timer = comparators_[index];
  if (!silent_locked(timer) || timer.deadline < 0 || !enabled()) return;
  const int64_t now = loop_.clock().now();
  if (now < timer.deadline) return;
  advance_locked(timer, static_cast<uint64_t>((now - timer.deadline) / kTickNs));
  arm_locked(index);
}

// Comparators advance by whole periods; those that went by unseen, in `behind` ticks, are one interrupt.
void Hpet::advance_locked(Comparator& timer, uint64_t behind) {
  if ((timer.config & kPeriodic) == 0 || timer.period == 0) return;
  const uint64_t mask = (timer.config & k32Bit) != 0 ? 0xffffffff : ~uint64_t{0};
  const uint64_t period = std::max<uint64_t>(timer.period & mask, 1);
  uint64_t skipped = behind / period + 1;
  const auto shortest = static_cast<uint64_t>(kShortestPeriodNs / kTickNs);
  if (skipped * period - behind < shortest) skipped += shortest / period;
  timer.value = (timer.value + skipped * period) & mask;
}

void Hpet::arm_all_locked() {
  for (unsigned i = 0; i < kComparators; ++i) arm_locked(i);
}

void Hpet::expired(unsigned index) {
  const std::lock_guard lock(mutex_);
  Comparator& timer = comparators_[index];
  const int64_t now = loop_.clock().now();
  if (timer.deadline < 0 || now < timer.deadline || !enabled()) return;
  if (timer.far) {
    arm_locked(index);
    return;
  }
  const uint64_t mask = (timer.config & k32Bit) != 0 ? 0xffffffff : ~uint64_t{0};
  const uint64_t behind = (counter_locked() - timer.value) & mask;
  fire_locked(index);
  advance_locked(timer, behind);
  arm_locked(index);
}

uint64_t Hpet::read_register_locked(uint64_t reg) const {
  switch (reg) {
    case 0:
      return kCapabilities;
    case kRegConfig:
      return config_;
    case kRegStatus:
      return status_;
    case kRegCounter:
      return counter_locked();
    default:
      break;
  }
  if (reg < kRegComparators || reg >= kRegComparators + 0x20 * kComparators) return 0;
  const Comparator& timer = comparators_[(reg - kRegComparators) / 0x20];
  switch (reg & 0x18) {
    case kRegConfigTn:
      return timer.config | kPeriodicCapable | k64BitCapable | (msi_ != nullptr ? kFsbCapable : 0) |
             kRoutes << 32;
    case kRegValueTn:
      return (timer.config & k32Bit) != 0 ? timer.value & 0xffffffff : timer.value;
    case kRegFsbTn:
      return timer.fsb;
    default:
      return 0;
  }
}

uint64_t Hpet::io_read(uint64_t offset, unsigned size) {
  const std::lock_guard lock(mutex_);
  if (offset >= kRegComparators)
    for (unsigned i = 0; i < kComparators; ++i) catch_up_locked(i);
  // An access that crosses a register (the specification forbids it) sees the rest as zero.
  return read_register_locked(offset & ~uint64_t{7}) >> ((offset & 7) * 8) & size_mask(size);
}

void Hpet::io_write(uint64_t offset, unsigned size, uint64_t value) {
  const std::lock_guard lock(mutex_);
  const auto shift = static_cast<unsigned>((offset & 7) * 8);
  write_register_locked(offset & ~uint64_t{7}, (value & size_mask(size)) << shift, size_mask(size) << shift);
}

void Hpet::write_register_locked(uint64_t reg, uint64_t value, uint64_t mask) {
  switch (reg) {
    case kRegConfig:
      write_config_locked((config_ & ~mask) | value);
      return;
    case kRegStatus:
      status_ &= ~(value & mask);  // write one to clear
      for (unsigned i = 0; i < kComparators; ++i) update_line_locked(i);
      return;
    case kRegCounter:
      if (enabled()) return;  // §2.3.7: written only while halted
      base_ = (base_ & ~mask) | value;
      return;
    default:
      if (reg >= kRegComparators && reg < kRegComparators + 0x20 * kComparators)
        write_comparator_locked(static_cast<unsigned>((reg - kRegComparators) / 0x20), reg & 0x18, value,
                                mask);
      return;
  }
}

void Hpet::write_config_locked(uint64_t value) {
  for (unsigned i = 0; i < kComparators; ++i) catch_up_locked(i);
  const uint64_t counter = counter_locked();
  const bool was_legacy = legacy();
  config_ = value & 3;
  base_ = counter;
  start_ = loop_.clock().now();
  for (unsigned i = 0; i < kComparators; ++i) update_line_locked(i);
  if (legacy() != was_legacy) {
    if (legacy_changed_) legacy_changed_(legacy());
    drive_legacy_locked();
  }
  arm_all_locked();
}

void Hpet::write_comparator_locked(unsigned index, uint64_t reg, uint64_t value, uint64_t mask) {
  Comparator& timer = comparators_[index];
  catch_up_locked(index);
  switch (reg) {
    case kRegConfigTn: {
      uint64_t writable = kLevel | kEnable | kPeriodic | kSetValue | k32Bit | 0x1fu << 9;
      if (msi_ != nullptr) writable |= kFsbEnable;
      uint64_t config = ((timer.config & ~mask) | (value & mask)) & writable;
      // §2.3.8: a route that is not offered is not taken.
      const unsigned route = route_of(config);
      if (route < kFirstRoute || route > kLastRoute)
        config = (config & ~(uint64_t{0x1f} << 9)) | (timer.config & 0x1f << 9);
      timer.config = config;
      if ((config & k32Bit) != 0) {
        timer.value &= 0xffffffff;
        timer.period &= 0xffffffff;
      }
      if ((config & kLevel) == 0) status_ &= ~(uint64_t{1} << index);
      update_line_locked(index);
      break;
    }
    case kRegValueTn:
      if ((timer.config & k32Bit) != 0) {
        value &= 0xffffffff;
        mask |= ~uint64_t{0xffffffff};
      }
      // §2.3.9.2.2: in periodic mode a write sets the period, and with SETVAL the comparator too.
      if ((timer.config & kPeriodic) == 0 || (timer.config & kSetValue) != 0)
        timer.value = (timer.value & ~mask) | value;
      if ((timer.config & kPeriodic) != 0) timer.period = (timer.period & ~mask) | value;
      // The two halves of a 32-bit host's write share one SETVAL.
      if ((mask >> 32) != 0 || (timer.config & k32Bit) != 0) timer.config &= ~kSetValue;
      break;
    case kRegFsbTn:
      if (msi_ != nullptr) timer.fsb = (timer.fsb & ~mask) | value;
      return;
    default:
      return;
  }
  arm_locked(index);
}

void Hpet::state(state::Archive& archive) {
  const std::lock_guard lock(mutex_);
  archive.section("hpet", 1);
  archive.field("config", config_);
  archive.field("status", status_);
  archive.field("base", base_);
  archive.field("start", start_);
  archive.field("pit", pit_level_);
  archive.field("rtc", rtc_level_);
  for (Comparator& timer : comparators_) {
    archive.field("config", timer.config);
    archive.field("value", timer.value);
    archive.field("period", timer.period);
    archive.field("fsb", timer.fsb);
    archive.field("line", timer.line);
    archive.field("line_pin", timer.line_pin);
    archive.field("deadline", timer.deadline);
    archive.field("far", timer.far);
    archive.check(timer.line_pin < 32, "line_pin");
    archive.check(timer.deadline >= -1 && timer.deadline < INT64_MAX / 2, "deadline");
  }
  archive.check(config_ <= 3, "config");
  archive.check(start_ >= 0 && start_ < INT64_MAX / 2, "start");
  if (!archive.loading() || archive.failed()) return;
  for (unsigned i = 0; i < kComparators; ++i) {
    if (comparators_[i].deadline >= 0)
      timers_[i].set(comparators_[i].deadline);
    else
      timers_[i].cancel();
  }
}

}  // namespace ostler::chipset
