// kvmclock: the guest reads the time from a page that we fill and its own TSC (Linux
// Documentation/virt/kvm/x86/msr.rst, "pvclock"). One KvmClock for each vCPU, one KvmClockBase for the
// machine.
//
// All vCPUs whose TSCs agree get the same pair (TSC, time), so their clocks agree to the last bit and the
// "stable" flag is true.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>

#include "devices/chipset/tsc_clock.h"
#include "event/clock.h"
#include "memory/dma.h"
#include "state/archive.h"

namespace ostler::chipset {

// Any thread.
class KvmClockBase {
 public:
  // `wall_at_zero_ns`: time of day, ns since 1970 UTC, when the virtual clock was 0.
  KvmClockBase(const event::VirtualClock& clock, int64_t wall_at_zero_ns)
      : clock_(clock), wall_(wall_at_zero_ns) {}

  struct Pair {
    uint64_t tsc;
    int64_t time_ns;
    bool stable;  // the same for all vCPUs
  };
  Pair pair_for(const TscClock& tsc);
  int64_t wall_at_zero_ns() const { return wall_; }
  // After a pause or a restore, while no vCPU runs: a new pair is taken. Each KvmClock::update() must follow.
  void resync();

 private:
  const event::VirtualClock& clock_;
  const int64_t wall_;
  std::mutex mutex_;
  std::optional<Pair> pair_;
};

// On the vCPU's thread, or while it is paused.
class KvmClock final : public state::Savable {
 public:
  // CPUID leaf 0x40000001 EAX: CLOCKSOURCE, CLOCKSOURCE2, CLOCKSOURCE_STABLE_BIT.
  static constexpr uint32_t kFeatures = 1u << 0 | 1u << 3 | 1u << 24;

  KvmClock(KvmClockBase& base, const TscClock& tsc, memory::AddressSpace& space)
      : base_(base), tsc_(tsc), dma_(space) {}

  // 0x11, 0x12, 0x4b564d00, 0x4b564d01. nullopt, false: not one of them.
  std::optional<uint64_t> read_msr(uint32_t index) const;
  bool write_msr(uint32_t index, uint64_t value);
  void update();  // fills the page again: after resync() or a jump of the TSC
  void reset();
  void state(state::Archive& archive) override;

  // ns = ((ticks << shift) * multiplier) >> 32, a negative shift to the right. Exact to 2^-31.
  struct Scale {
    uint32_t multiplier;
    int8_t shift;
  };
  static Scale scale_of(uint64_t hertz);

 private:
  void write_wall_clock(uint64_t address);

  KvmClockBase& base_;
  const TscClock& tsc_;
  memory::Dma dma_;
  uint64_t system_time_ = 0, wall_clock_ = 0;  // as last written
  uint32_t version_ = 0;
};

}  // namespace ostler::chipset
