// The local APIC's state as one picture of its registers, in which KVM takes and gives it (SDM 3A table
// 11-1). While the vCPU is paused.
#include <algorithm>

#include "devices/chipset/apic_bus.h"
#include "devices/chipset/local_apic.h"
#include "devices/chipset/local_apic_registers.h"

namespace ostler::chipset {

using namespace apic;

bus::ApicImage LocalApic::image() {
  bus::ApicImage out;
  out.base = base_.load();
  out.tsc_deadline = deadline();
  auto& page = out.page;
  page[kId] = options_.id << 24;
  page[kVersion] = kVersionValue;
  page[kTpr] = tpr_.load();
  page[kPpr] = ppr_.load();
  page[kLdr] = logical_id_.load();
  page[kDfr] = destination_format_.load();
  page[kSpurious] = spurious_.load();
  for (unsigned i = 0; i < 8; ++i) {
    page[kIsr + i] = isr_.word(i);
    page[kTmr + i] = tmr_.word(i);
    page[kIrr + i] = irr_.word(i);
  }
  page[kIcrLow] = static_cast<uint32_t>(command_);
  page[kIcrHigh] = static_cast<uint32_t>(command_ >> 32);
  const uint32_t count = current_count();
  const std::lock_guard lock(mutex_);
  // One that is due has yet to ring: 0 is one that has.
  const bool counts = expires_ >= 0 && timer_mode_locked() != TimerMode::kTscDeadline;
  page[kCurrentCount] = counts ? std::max(count, 1u) : 0;
  page[kEsr] = error_status_;
  for (unsigned i = 0; i < kLvtCount; ++i) page[kLvtFirst + i] = lvt_[i];
  page[kInitialCount] = initial_count_;
  page[kDivide] = divide_;
  return out;
}

// The kernel is believed, and yet no value gets in that the registers could not hold.
void LocalApic::set_image(const bus::ApicImage& image) {
  const auto& page = image.page;
  uint64_t base = image.base & ~kBaseReserved;
  if ((base & kBaseEnable) == 0) base &= ~kBaseExtended;
  base_.store(base);
  tpr_.store(static_cast<uint8_t>(page[kTpr]));
  logical_id_.store(x2apic() ? x2_logical_id(options_.id) : page[kLdr] & 0xff000000);
  destination_format_.store(page[kDfr] | 0x0fffffff);
  spurious_.store(page[kSpurious] & kSpuriousWritable);
  for (unsigned i = 0; i < 8; ++i) {
    isr_.set_word(i, page[kIsr + i]);
    tmr_.set_word(i, page[kTmr + i]);
    irr_.set_word(i, page[kIrr + i]);
  }
  ext_int_latched_.store(false);
  command_ = page[kIcrLow] | uint64_t{page[kIcrHigh]} << 32;
  {
    const std::lock_guard lock(mutex_);
    for (unsigned i = 0; i < kLvtCount; ++i) lvt_[i] = page[kLvtFirst + i];
    lint0_entry_.store(lvt_[kLvtLint0]);
    error_status_ = page[kEsr];
    error_pending_ = 0;
    initial_count_ = page[kInitialCount];
    divide_ = page[kDivide] & 0xb;
    tsc_deadline_ = 0;
    expires_ = -1;
    const int64_t now = loop_.clock().now();
    if (timer_mode_locked() == TimerMode::kTscDeadline) {
      tsc_deadline_ = image.tsc_deadline;
      // When exactly is found out when the vCPU goes on.
      if (tsc_deadline_ != 0) expires_ = now;
    } else if (initial_count_ != 0 && page[kCurrentCount] != 0) {
      expires_ = now + std::min(page[kCurrentCount], initial_count_) * tick_ns_locked();
    }
    timer_.cancel();
    if (expires_ >= 0 && !in_kernel()) timer_.set(expires_);
  }
  const int in_service = isr_.highest();
  ppr_.store(static_cast<uint8_t>(std::max(tpr_.load() & 0xf0, in_service < 0 ? 0 : in_service & 0xf0)));
  if (!in_kernel()) update_priority();
}

void LocalApic::eoi_reported(uint8_t vector) {
  bus_.broadcast_eoi(vector);
}

}  // namespace ostler::chipset
