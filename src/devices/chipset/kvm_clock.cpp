#include "devices/chipset/kvm_clock.h"

#include <atomic>
#include <cstddef>

#include "base/log.h"
#include "devices/chipset/ticks.h"

namespace ostler::chipset {
namespace {

constexpr uint32_t kMsrWallClockOld = 0x11, kMsrSystemTimeOld = 0x12;
constexpr uint32_t kMsrWallClock = 0x4b564d00, kMsrSystemTime = 0x4b564d01;

struct TimeInfo {  // struct pvclock_vcpu_time_info
  uint32_t version;
  uint32_t pad0;
  uint64_t tsc_timestamp;
  uint64_t system_time;
  uint32_t tsc_to_system_mul;
  int8_t tsc_shift;
  uint8_t flags;
  uint8_t pad[2];
};
static_assert(sizeof(TimeInfo) == 32);

struct WallClock {  // struct pvclock_wall_clock
  uint32_t version;
  uint32_t sec;
  uint32_t nsec;
};
static_assert(sizeof(WallClock) == 12);

constexpr uint8_t kStable = 1;

// The version is odd while the rest changes, and a reader that saw it change reads again. x86 hosts keep
// stores in order; the fences keep the compiler from mixing them. (Thread fences would say it for every host,
// but GCC's thread sanitizer refuses them.)
template <class Record>
void publish(memory::Dma& dma, GuestPhys at, const Record& record) {
  const auto bytes = std::as_bytes(std::span(&record, 1)).subspan(sizeof record.version);
  if (!dma.write_le(at, record.version - 1)) return;  // no RAM there: nothing else is written either
  std::atomic_signal_fence(std::memory_order_seq_cst);
  dma.write(at + sizeof record.version, bytes);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  dma.write_le(at, record.version);
}

}  // namespace

KvmClockBase::Pair KvmClockBase::pair_for(const TscClock& tsc) {
  const std::lock_guard lock(mutex_);
  const Pair now{tsc.guest_tsc(), clock_.now(), true};
  if (!pair_) pair_ = now;
  // The virtual clock follows the host's, which is disciplined, and the TSC is not: a part in a thousand and
  // a millisecond tell drift and the time between two reads from a TSC that the guest has set.
  const int64_t elapsed = now.time_ns - pair_->time_ns;
  const auto ticks = static_cast<int64_t>(now.tsc - pair_->tsc);
  const auto expected = static_cast<int64_t>(
      multiply_divide(static_cast<uint64_t>(elapsed < 0 ? 0 : elapsed), tsc.frequency(), kNsPerSecond));
  const int64_t tolerance = expected / 1000 + static_cast<int64_t>(tsc.frequency() / 1000);
  const bool agrees = ticks - expected <= tolerance && expected - ticks <= tolerance;
  return agrees ? *pair_ : Pair{now.tsc, now.time_ns, false};
}

void KvmClockBase::resync() {
  const std::lock_guard lock(mutex_);
  pair_.reset();
}

KvmClock::Scale KvmClock::scale_of(uint64_t hertz) {
  // The multiplier gets its top bit set: 31 significant bits at least.
  int shift = 0;
  const auto multiplier = [&] {
    return shift <= 0 ? (static_cast<Wide>(kNsPerSecond) << (32 - shift)) / hertz
                      : (static_cast<Wide>(kNsPerSecond) << 32 >> shift) / hertz;
  };
  while (shift > -31 && multiplier() < uint64_t{1} << 31) --shift;
  while (shift < 31 && multiplier() >= uint64_t{1} << 32) ++shift;
  return {static_cast<uint32_t>(multiplier()), static_cast<int8_t>(shift)};
}

std::optional<uint64_t> KvmClock::read_msr(uint32_t index) const {
  switch (index) {
    case kMsrWallClock:
    case kMsrWallClockOld:
      return wall_clock_;
    case kMsrSystemTime:
    case kMsrSystemTimeOld:
      return system_time_;
    default:
      return std::nullopt;
  }
}

bool KvmClock::write_msr(uint32_t index, uint64_t value) {
  switch (index) {
    case kMsrWallClock:
    case kMsrWallClockOld:
      wall_clock_ = value;
      write_wall_clock(value);
      return true;
    case kMsrSystemTime:
    case kMsrSystemTimeOld:
      system_time_ = value;
      update();
      return true;
    default:
      return false;
  }
}

void KvmClock::write_wall_clock(uint64_t address) {
  if ((address & 3) != 0) {
    log::guest_error("kvmclock: wall clock at unaligned address {:#x}", address);
    return;
  }
  const auto before = dma_.read_le<uint32_t>({address});
  if (!before) return;
  WallClock record{};
  record.version = (*before | 1) + 1;
  record.sec = static_cast<uint32_t>(base_.wall_at_zero_ns() / static_cast<int64_t>(kNsPerSecond));
  record.nsec = static_cast<uint32_t>(base_.wall_at_zero_ns() % static_cast<int64_t>(kNsPerSecond));
  publish(dma_, {address}, record);
}

void KvmClock::update() {
  if ((system_time_ & 1) == 0) return;  // disabled
  const KvmClockBase::Pair pair = base_.pair_for(tsc_);
  const Scale scale = scale_of(tsc_.frequency());
  TimeInfo record{};
  version_ += 2;
  record.version = version_;
  record.tsc_timestamp = pair.tsc;
  record.system_time = static_cast<uint64_t>(pair.time_ns);
  record.tsc_to_system_mul = scale.multiplier;
  record.tsc_shift = scale.shift;
  record.flags = pair.stable ? kStable : 0;
  publish(dma_, {system_time_ & ~uint64_t{1}}, record);
}

void KvmClock::reset() {
  system_time_ = wall_clock_ = 0;
}

// After a load the machine calls KvmClockBase::resync() and update(), when clock and TSC are in place.
void KvmClock::state(state::Archive& archive) {
  archive.section("kvm-clock", 1);
  archive.field("system_time", system_time_);
  archive.field("wall_clock", wall_clock_);
  archive.field("version", version_);
  archive.check((version_ & 1) == 0, "version");
}

}  // namespace ostler::chipset
