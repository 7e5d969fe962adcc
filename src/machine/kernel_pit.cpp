#include "machine/kernel_pit.h"

#include "base/log.h"

namespace ostler::machine {
namespace {

using Counter = chipset::PitCounter::Image;

constexpr uint8_t kUnprogrammed = 0xff;  // the kernel's mode after power-up
enum Order : uint8_t {
  kLow = 1,
  kHigh = 2,
  kLowThenHigh = 3,
  kHighAfterLow = 4
};  // of a byte that comes next

void told(const Result<void>& done) {
  if (!done) log::warning(done.error().message());
}

Counter counter_of(const kvm_pit_channel_state& in) {
  Counter out;
  out.loaded = in.mode != kUnprogrammed;
  if (out.loaded) out.mode = in.mode;
  if (in.rw_mode >= kLow && in.rw_mode <= kLowThenHigh) out.access = in.rw_mode;
  out.bcd = in.bcd != 0;
  out.gate = in.gate != 0;
  out.write_high_next = in.write_state == kHighAfterLow;
  out.low_byte = in.write_latch;
  out.count = in.count;
  out.count_latched = in.count_latched != 0;
  out.read_high_next = out.count_latched ? in.count_latched == kHigh && in.rw_mode == kLowThenHigh
                                         : in.read_state == kHighAfterLow;
  out.latched_count = in.latched_count;
  out.status_latched = in.status_latched != 0;
  out.latched_status = in.status;
  return out;
}

kvm_pit_channel_state channel_of(const Counter& in) {
  kvm_pit_channel_state out{};
  out.mode = in.mode;
  out.rw_mode = in.access;
  out.bcd = in.bcd;
  out.gate = in.gate;
  out.count = in.count;
  out.write_state = in.write_high_next ? uint8_t{kHighAfterLow} : in.access;
  out.write_latch = in.low_byte;
  out.read_state = in.read_high_next && !in.count_latched ? uint8_t{kHighAfterLow} : in.access;
  if (in.count_latched) out.count_latched = in.read_high_next ? uint8_t{kHigh} : in.access;
  out.latched_count = in.latched_count;
  out.status_latched = in.status_latched;
  out.status = in.latched_status;
  return out;
}

// On a vCPU's thread.
void set_replaced(accel::kvm::Irqchip& kernel, bool replaced) {
  auto state = kernel.pit();
  if (!state) {
    log::warning(state.error().message());
    return;
  }
  state->flags &= ~uint32_t{KVM_PIT_FLAGS_HPET_LEGACY};
  if (replaced) state->flags |= KVM_PIT_FLAGS_HPET_LEGACY;
  told(kernel.set_pit(*state));
}

}  // namespace

chipset::PitImage pit_image_of(const kvm_pit_state2& in) {
  chipset::PitImage out;
  for (size_t i = 0; i < out.counters.size(); ++i) out.counters[i] = counter_of(in.channels[i]);
  out.speaker = (in.flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON) != 0;
  return out;
}

kvm_pit_state2 pit_state_of(const chipset::PitImage& in) {
  kvm_pit_state2 out{};
  for (size_t i = 0; i < in.counters.size(); ++i) out.channels[i] = channel_of(in.counters[i]);
  if (in.speaker) out.flags |= KVM_PIT_FLAGS_SPEAKER_DATA_ON;
  return out;
}

Result<void> move_pit_to_kernel(accel::kvm::Irqchip& kernel, chipset::Pit& pit, chipset::Hpet& hpet) {
  TRY(kernel.create_pit());
  pit.set_kernel();
  hpet.on_legacy([&kernel](bool replaced) { set_replaced(kernel, replaced); });
  return {};
}

void take_pit_from_kernel(accel::kvm::Irqchip* kernel, chipset::Pit& pit) {
  if (!pit.in_kernel()) return;
  if (const auto state = kernel->pit())
    pit.set_image(pit_image_of(*state));
  else
    log::warning(state.error().message());
}

void give_pit_to_kernel(accel::kvm::Irqchip* kernel, chipset::Pit& pit, chipset::Hpet& hpet) {
  if (!pit.in_kernel()) return;
  // Between its pulses our line is high, the kernel's low: high, the next pulse would be no edge.
  pit.lower_line();
  kvm_pit_state2 state = pit_state_of(pit.image());
  if (hpet.replaces_legacy()) state.flags |= KVM_PIT_FLAGS_HPET_LEGACY;
  told(kernel->set_pit(state));
}

void reset_kernel_pit(accel::kvm::Irqchip* kernel, const chipset::Pit& pit) {
  if (!pit.in_kernel()) return;
  kvm_pit_state2 state{};
  for (kvm_pit_channel_state& channel : state.channels) {
    channel.mode = kUnprogrammed;
    channel.gate = 1;
    channel.count = 0x10000;
  }
  state.channels[2].gate = 0;
  told(kernel->set_pit(state));
}

}  // namespace ostler::machine
