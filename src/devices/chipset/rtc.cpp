#include "devices/chipset/rtc.h"

#include <algorithm>

#include "base/assert.h"
#include "base/bytes.h"
#include "devices/chipset/ticks.h"

namespace ostler::chipset {
namespace {

enum Register : uint8_t {
  kSeconds = 0,
  kSecondsAlarm = 1,
  kMinutes = 2,
  kMinutesAlarm = 3,
  kHours = 4,
  kHoursAlarm = 5,
  kWeekday = 6,
  kDay = 7,
  kMonth = 8,
  kYear = 9,
  kA = 10,
  kB = 11,
  kC = 12,
  kD = 13,
  kCentury = 0x32,
};

constexpr uint8_t kUpdateInProgress = 0x80;                                      // A
constexpr uint8_t kSet = 0x80, kPeriodic = 0x40, kAlarm = 0x20, kUpdate = 0x10;  // B: enables, C: flags
constexpr uint8_t kBinary = 4, k24Hours = 2;                                     // B
constexpr uint8_t kIrqFlag = 0x80;                                               // C
constexpr uint8_t kValid = 0x80;                                                 // D: the battery is good

constexpr int64_t kSecond = kNsPerSecond;
constexpr int64_t kUipNs = 244'000;
constexpr uint64_t kOscillator = 32'768;
constexpr int64_t kDaySeconds = 86'400;

// The years 1780 to 2160: nanoseconds in 64 bits, with room for the virtual clock. A clock that the guest
// sets outside stays at the end.
constexpr int64_t kLimit = 6'000'000'000;

struct Date {
  int64_t year;
  unsigned month, day;  // from 1
};

// Proleptic Gregorian calendar in eras of 400 years that begin on 1 March.
int64_t days_of_date(Date date) {
  const int64_t year = date.year - (date.month <= 2);
  const int64_t era = (year >= 0 ? year : year - 399) / 400;
  const int64_t year_of_era = year - era * 400;
  const int64_t day_of_year = (153 * ((date.month + 9) % 12) + 2) / 5 + date.day - 1;
  return era * 146'097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719'468;
}

Date date_of_days(int64_t days) {
  days += 719'468;
  const int64_t era = (days >= 0 ? days : days - 146'096) / 146'097;
  const int64_t day_of_era = days - era * 146'097;
  const int64_t year_of_era =
      (day_of_era - day_of_era / 1460 + day_of_era / 36'524 - day_of_era / 146'096) / 365;
  const int64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
  const int64_t month = (5 * day_of_year + 2) / 153;
  Date date{};
  date.day = static_cast<unsigned>(day_of_year - (153 * month + 2) / 5 + 1);
  date.month = static_cast<unsigned>(month < 10 ? month + 3 : month - 9);
  date.year = year_of_era + era * 400 + (date.month <= 2);
  return date;
}

int64_t floor_divide(int64_t a, int64_t b) {
  return a / b - (a % b < 0);
}

bool is_time_register(uint8_t index) {
  return index == kSeconds || index == kMinutes || index == kHours || (index >= kWeekday && index <= kYear) ||
         index == kCentury;
}

}  // namespace

Rtc::Rtc(event::Loop& loop, bus::IrqLine irq, int64_t start_s)
    : loop_(loop),
      irq_(irq),
      offset_(std::clamp(start_s, -kLimit, kLimit) * kSecond),
      ports_("rtc", *this, &Rtc::read_ports, &Rtc::write_ports),
      extended_ports_("rtc-extended", *this, &Rtc::read_extended, &Rtc::write_extended),
      timer_(loop, [this] { expired(); }) {
  cmos_[kA] = 0x26;  // 32.768 kHz, 1024 Hz periodic rate: what firmware leaves
  cmos_[kB] = k24Hours;
  cmos_[kD] = kValid;
  seen_ = loop_.clock().now();
}

void Rtc::reset() {  // the RESET pin: clears enables and flags, keeps time and RAM
  const std::lock_guard lock(mutex_);
  catch_up_locked();
  cmos_[kB] &= static_cast<uint8_t>(~(kPeriodic | kAlarm | kUpdate | 8));
  cmos_[kC] = 0;
  index_ = extended_index_ = 0;
  update_irq_locked();
  rearm_locked();
}

uint8_t Rtc::encode(unsigned value) const {
  return static_cast<uint8_t>((cmos_[kB] & kBinary) != 0 ? value : value / 10 * 16 + value % 10);
}
unsigned Rtc::decode(uint8_t value) const {
  return (cmos_[kB] & kBinary) != 0 ? value : value / 16 * 10u + value % 16;
}

// Held by SET, or by the divider reset of register A.
bool Rtc::stopped_locked() const {
  return (cmos_[kB] & kSet) != 0 || (cmos_[kA] & 0x60) == 0x60;
}

void Rtc::show_locked(int64_t seconds) {
  const int64_t days = floor_divide(seconds, kDaySeconds);
  const auto of_day = static_cast<unsigned>(seconds - days * kDaySeconds);
  const Date date = date_of_days(days);
  const auto year = static_cast<unsigned>(date.year);
  cmos_[kSeconds] = encode(of_day % 60);
  cmos_[kMinutes] = encode(of_day / 60 % 60);
  const unsigned hour = of_day / 3600;
  if ((cmos_[kB] & k24Hours) != 0)
    cmos_[kHours] = encode(hour);
  else
    cmos_[kHours] = static_cast<uint8_t>(encode(hour % 12 == 0 ? 12 : hour % 12) | (hour >= 12 ? 0x80 : 0));
  cmos_[kWeekday] = encode(static_cast<unsigned>(((days + 4) % 7 + 7) % 7) + 1);  // 1970-01-01 was a Thursday
  cmos_[kDay] = encode(date.day);
  cmos_[kMonth] = encode(date.month);
  cmos_[kYear] = encode(year % 100);
  cmos_[kCentury] = encode(year / 100 % 100);
}

// What the registers say, whatever the guest wrote there: each field is brought into its range.
int64_t Rtc::shown_locked() const {
  unsigned hour = 0;
  if ((cmos_[kB] & k24Hours) != 0)
    hour = decode(cmos_[kHours]);
  else
    hour = decode(cmos_[kHours] & 0x7f) % 12 + ((cmos_[kHours] & 0x80) != 0 ? 12 : 0);
  Date date{};
  date.year = std::min(decode(cmos_[kCentury]), 99u) * 100 + std::min(decode(cmos_[kYear]), 99u);
  date.month = std::clamp(decode(cmos_[kMonth]), 1u, 12u);
  date.day = std::clamp(decode(cmos_[kDay]), 1u, 31u);
  const int64_t seconds = days_of_date(date) * kDaySeconds + std::min(hour, 23u) * 3600 +
                          std::min(decode(cmos_[kMinutes]), 59u) * 60 +
                          std::min(decode(cmos_[kSeconds]), 59u);
  return std::clamp(seconds, -kLimit, kLimit);
}

void Rtc::stop_locked() {
  show_locked(floor_divide(wall_locked(), kSecond));
}

void Rtc::start_locked(int64_t into_second) {
  offset_ = shown_locked() * kSecond + into_second - loop_.clock().now();
  seen_ = loop_.clock().now();
  alarm_at_ = next_alarm_locked(floor_divide(wall_locked(), kSecond));
}

int64_t Rtc::time_s() {
  const std::lock_guard lock(mutex_);
  return stopped_locked() ? shown_locked() : floor_divide(wall_locked(), kSecond);
}

// Register A bits 3:0 to oscillator ticks (table 5).
int64_t Rtc::period_ticks_locked() const {
  const unsigned rate = cmos_[kA] & 15;
  if (rate == 0 || (cmos_[kA] & 0x70) != 0x20) return 0;
  return int64_t{1} << ((rate <= 2 ? rate + 7 : rate) - 1);
}

// Alarm bytes of 0xc0 and above match anything.
int64_t Rtc::next_alarm_locked(int64_t after_s) const {
  const auto field = [&](uint8_t value, unsigned limit) -> int {
    if (value >= 0xc0) return -1;
    const unsigned number = decode(value);
    return number < limit ? static_cast<int>(number) : -2;
  };
  const int second = field(cmos_[kSecondsAlarm], 60), minute = field(cmos_[kMinutesAlarm], 60);
  int hour = field(cmos_[kHoursAlarm], 24);
  if ((cmos_[kB] & k24Hours) == 0 && cmos_[kHoursAlarm] < 0xc0)
    hour = static_cast<int>(decode(cmos_[kHoursAlarm] & 0x7f) % 12 +
                            ((cmos_[kHoursAlarm] & 0x80) != 0 ? 12 : 0));
  if (second == -2 || minute == -2 || hour == -2) return -1;

  // At most a day ahead, skipping hours and minutes that do not match.
  const int64_t day = floor_divide(after_s + 1, kDaySeconds) * kDaySeconds;
  for (int64_t at = after_s + 1; at <= after_s + kDaySeconds;) {
    const int64_t of_day = (at - day) % kDaySeconds;
    if (hour >= 0 && of_day / 3600 != hour)
      at += 3600 - of_day % 3600;
    else if (minute >= 0 && of_day / 60 % 60 != minute)
      at += 60 - of_day % 60;
    else if (second >= 0 && of_day % 60 != second)
      ++at;
    else
      return at;
  }
  return -1;
}

// Sets the flags of what has happened since the last look.
void Rtc::catch_up_locked() {
  if (stopped_locked()) return;
  const int64_t now = loop_.clock().now();
  if (now <= seen_) return;
  const int64_t wall = now + offset_;
  uint8_t flags = 0;
  if (floor_divide(wall, kSecond) != floor_divide(seen_ + offset_, kSecond)) flags |= kUpdate;
  if (alarm_at_ >= 0 && wall >= alarm_at_ * kSecond) {
    flags |= kAlarm;
    alarm_at_ = next_alarm_locked(floor_divide(wall, kSecond));
  }
  if (const int64_t period = period_ticks_locked(); period != 0) {
    // The divider chain follows the oscillator, not the time of day.
    if (ticks_in(now, kOscillator) / period != ticks_in(seen_, kOscillator) / period) flags |= kPeriodic;
  }
  seen_ = now;
  cmos_[kC] |= flags;
}

void Rtc::update_irq_locked() {
  const bool active = (cmos_[kB] & cmos_[kC] & (kPeriodic | kAlarm | kUpdate)) != 0;
  cmos_[kC] = static_cast<uint8_t>((cmos_[kC] & ~kIrqFlag) | (active ? kIrqFlag : 0));
  if (active == line_) return;
  line_ = active;
  irq_.set(active);
}

// The next event whose interrupt is enabled and whose flag is not yet set.
void Rtc::rearm_locked() {
  const auto wanted = static_cast<uint8_t>(cmos_[kB] & ~cmos_[kC]);
  deadline_ = -1;
  const auto consider = [&](int64_t at) {
    if (deadline_ < 0 || at < deadline_) deadline_ = at;
  };
  if (!stopped_locked()) {
    const int64_t now = loop_.clock().now();
    if ((wanted & kUpdate) != 0) consider((floor_divide(wall_locked(), kSecond) + 1) * kSecond - offset_);
    if ((wanted & kAlarm) != 0 && alarm_at_ >= 0) consider(alarm_at_ * kSecond - offset_);
    if (const int64_t period = period_ticks_locked(); (wanted & kPeriodic) != 0 && period != 0)
      consider(ns_of_tick((ticks_in(now, kOscillator) / period + 1) * period, kOscillator));
  }
  if (deadline_ < 0)
    timer_.cancel();
  else
    timer_.set(deadline_);
}

void Rtc::expired() {
  const std::lock_guard lock(mutex_);
  if (deadline_ < 0 || loop_.clock().now() < deadline_) return;
  catch_up_locked();
  update_irq_locked();
  rearm_locked();
}

uint8_t Rtc::read_flags_locked() {
  catch_up_locked();
  update_irq_locked();
  const uint8_t flags = cmos_[kC];
  cmos_[kC] = 0;
  update_irq_locked();
  rearm_locked();
  return flags;
}

uint8_t Rtc::read_locked(uint8_t index) {
  if (is_time_register(index)) {
    if (!stopped_locked()) show_locked(floor_divide(wall_locked(), kSecond));
    return cmos_[index];
  }
  if (index == kC) return read_flags_locked();
  if (index == kA && !stopped_locked()) {
    const int64_t wall = wall_locked();
    const int64_t within = wall - floor_divide(wall, kSecond) * kSecond;
    if (within >= kSecond - kUipNs) return cmos_[kA] | kUpdateInProgress;
  }
  return cmos_[index];
}

void Rtc::write_control_locked(uint8_t index, uint8_t value) {
  catch_up_locked();
  const bool was_stopped = stopped_locked();
  const int64_t wall = wall_locked();
  int64_t into_second = wall - floor_divide(wall, kSecond) * kSecond;
  if (index == kA) {
    // Leaving the divider reset, the first update comes half a second later.
    if ((cmos_[kA] & 0x60) == 0x60 && (value & 0x60) != 0x60) into_second = kSecond / 2;
    if (!was_stopped) stop_locked();
    cmos_[kA] = value & 0x7f;
  } else {
    if (!was_stopped) stop_locked();
    const int64_t seconds = shown_locked();
    if ((value & kSet) != 0) value &= static_cast<uint8_t>(~kUpdate);  // SET clears UIE
    const uint8_t format = (cmos_[kB] ^ value) & (kBinary | k24Hours);
    cmos_[kB] = value;
    // The format bits do not convert what is stored; while the clock runs, its next update writes the new
    // format.
    if (format != 0 && !was_stopped) show_locked(seconds);
  }
  if (was_stopped && !stopped_locked()) start_locked(into_second);
  alarm_at_ = next_alarm_locked(floor_divide(wall_locked(), kSecond));
  update_irq_locked();
  rearm_locked();
}

void Rtc::write_locked(uint8_t index, uint8_t value) {
  if (is_time_register(index)) {
    if (stopped_locked()) {
      cmos_[index] = value;
      return;
    }
    catch_up_locked();
    const int64_t wall = wall_locked();
    show_locked(floor_divide(wall, kSecond));
    cmos_[index] = value;
    start_locked(wall - floor_divide(wall, kSecond) * kSecond);
    rearm_locked();
    return;
  }
  switch (index) {
    case kSecondsAlarm:
    case kMinutesAlarm:
    case kHoursAlarm:
      catch_up_locked();
      cmos_[index] = value;
      alarm_at_ = next_alarm_locked(floor_divide(wall_locked(), kSecond));
      rearm_locked();
      return;
    case kA:
    case kB:
      write_control_locked(index, value);
      return;
    case kC:
    case kD:
      return;  // read-only
    default:
      cmos_[index] = value;
  }
}

void Rtc::set_cmos(uint8_t index, uint8_t value) {
  ASSERT(index > kD && index != kCentury, "the machine sets RAM, not the clock");
  const std::lock_guard lock(mutex_);
  cmos_[index] = value;
}

uint8_t Rtc::cmos(uint8_t index) {
  const std::lock_guard lock(mutex_);
  return cmos_[index];
}

uint64_t Rtc::read_ports(uint64_t offset, unsigned size) {
  const std::lock_guard lock(mutex_);
  return read_bytes(offset, size, [&](uint64_t port) -> uint8_t {
    return port == 1 ? read_locked(index_ & 0x7f) : 0xff;  // the index is write-only
  });
}

void Rtc::write_ports(uint64_t offset, unsigned size, uint64_t value) {
  const std::lock_guard lock(mutex_);
  write_bytes(offset, size, value, [&](uint64_t port, uint8_t byte) {
    if (port == 0)
      index_ = byte;  // bit 7 masks NMI on the board; nothing there raises one
    else if (port == 1)
      write_locked(index_ & 0x7f, byte);
  });
}

uint64_t Rtc::read_extended(uint64_t offset, unsigned size) {
  const std::lock_guard lock(mutex_);
  return read_bytes(offset, size, [&](uint64_t port) -> uint8_t {
    return port == 0 ? extended_index_ : port == 1 ? cmos_[extended_index_ | 0x80] : 0xff;
  });
}

void Rtc::write_extended(uint64_t offset, unsigned size, uint64_t value) {
  const std::lock_guard lock(mutex_);
  write_bytes(offset, size, value, [&](uint64_t port, uint8_t byte) {
    if (port == 0)
      extended_index_ = byte & 0x7f;
    else if (port == 1)
      cmos_[extended_index_ | 0x80] = byte;
  });
}

void Rtc::state(state::Archive& archive) {
  const std::lock_guard lock(mutex_);
  archive.section("rtc", 1);
  archive.field("cmos", cmos_);
  archive.field("index", index_);
  archive.field("extended_index", extended_index_);
  archive.field("offset", offset_);
  archive.field("seen", seen_);
  archive.field("line", line_);
  archive.check(extended_index_ < 0x80, "extended_index");
  archive.check(offset_ >= -kLimit * kSecond - INT64_MAX / 4 && offset_ <= kLimit * kSecond, "offset");
  archive.check(seen_ >= 0 && seen_ < INT64_MAX / 4, "seen");
  if (!archive.loading() || archive.failed()) return;
  alarm_at_ = next_alarm_locked(floor_divide(seen_ + offset_, kSecond));
  rearm_locked();
}

}  // namespace ostler::chipset
