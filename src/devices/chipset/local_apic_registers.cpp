// The register side of the local APIC: the xAPIC page (SDM 3A §11.4.1), x2APIC MSRs (§11.12) and
// IA32_APIC_BASE.
#include "devices/chipset/local_apic_registers.h"

#include "base/bytes.h"
#include "base/log.h"
#include "devices/chipset/apic_bus.h"
#include "devices/chipset/local_apic.h"

namespace ostler::chipset {

using namespace apic;

namespace {

// Writable bits of each LVT entry (SDM 3A figure 11-8).
constexpr std::array<uint32_t, 6> kLvtWritable = {
    0x000700ff,  // timer: vector, mask, mode 18:17
    0x000107ff,  // thermal
    0x000107ff,  // performance
    0x0001a7ff,  // LINT0: also polarity and trigger mode
    0x0001a7ff,  // LINT1
    0x000100ff,  // error
};

enum class Shorthand : uint8_t { kNone = 0, kSelf = 1, kAll = 2, kOthers = 3 };

}  // namespace

uint64_t LocalApic::io_read(uint64_t offset, unsigned size) {
  settle_eoi();
  if (!hardware_enabled() || x2apic()) return size_mask(size);  // the page is not there
  // Registers are 32 bits on 16-byte boundaries; the rest of each slot reads as zero.
  const unsigned within = offset & 15;
  if (within >= 4) return 0;
  return static_cast<uint64_t>(read_register(static_cast<unsigned>(offset >> 4))) >> (within * 8) &
         size_mask(size);
}

void LocalApic::io_write(uint64_t offset, unsigned size, uint64_t value) {
  settle_eoi();
  if (!hardware_enabled() || x2apic()) return;
  if ((offset & 15) != 0 || size != 4) {
    log::guest_error("local apic {}: {}-byte write at {:#x}", id(), size, offset);
    return;
  }
  const auto index = static_cast<unsigned>(offset >> 4);
  if (index == kSelfIpi || !write_register(index, static_cast<uint32_t>(value))) {
    log::guest_error("local apic {}: write to read-only or reserved register {:#x}", id(), offset);
    error(kErrorRegister);
  }
}

uint32_t LocalApic::read_register(unsigned index) {
  if (index >= kIsr && index < kIsr + 8) return isr_.word(index - kIsr);
  if (index >= kTmr && index < kTmr + 8) return tmr_.word(index - kTmr);
  if (index >= kIrr && index < kIrr + 8) return irr_.word(index - kIrr);
  if (index >= kLvtFirst && index <= kLvtLast) {
    const std::lock_guard lock(mutex_);
    return lvt_[index - kLvtFirst];
  }
  switch (index) {
    case kId:
      return x2apic() ? options_.id : options_.id << 24;
    case kVersion:
      return kVersionValue;
    case kTpr:
      return tpr_.load();
    case kPpr:
      return ppr_.load();
    case kApr:
    case kRemoteRead:
    case kEoi:
      return 0;
    case kLdr:
      return logical_id_.load();
    case kDfr:
      return destination_format_.load();
    case kSpurious:
      return spurious_.load();
    case kEsr: {
      const std::lock_guard lock(mutex_);
      return error_status_;
    }
    case kIcrLow:
      return static_cast<uint32_t>(command_);
    case kIcrHigh:
      return static_cast<uint32_t>(command_ >> 32);
    case kInitialCount: {
      const std::lock_guard lock(mutex_);
      return initial_count_;
    }
    case kCurrentCount:
      return current_count();
    case kDivide: {
      const std::lock_guard lock(mutex_);
      return divide_;
    }
    default:
      log::guest_error("local apic {}: read of reserved register {:#x}", id(), index << 4);
      error(kErrorRegister);
      return 0;
  }
}

bool LocalApic::write_register(unsigned index, uint32_t value) {
  if (index >= kLvtFirst && index <= kLvtLast) {
    const std::lock_guard lock(mutex_);
    write_lvt_locked(index - kLvtFirst, value);
    return true;
  }
  switch (index) {
    case kTpr:
      set_tpr(static_cast<uint8_t>(value));
      return true;
    case kEoi:
      end_of_interrupt();
      return true;
    case kLdr:
      logical_id_.store(value & 0xff000000);
      return true;
    case kDfr:
      destination_format_.store(value | 0x0fffffff);
      return true;
    case kSpurious: {
      spurious_.store(value & kSpuriousWritable);
      if ((value & kSpuriousEnable) == 0) {  // §11.4.7.2: all LVT entries are masked while disabled
        const std::lock_guard lock(mutex_);
        for (unsigned i = 0; i < kLvtCount; ++i) write_lvt_locked(i, lvt_[i]);
      }
      return true;
    }
    case kEsr: {  // §11.5.3: a write makes visible what has gathered since the last one
      const std::lock_guard lock(mutex_);
      error_status_ = error_pending_;
      error_pending_ = 0;
      return true;
    }
    case kIcrLow:
      command_ = (command_ & ~uint64_t{0xffffffff}) | (value & ~kLvtPending);
      send_ipi(command_);
      return true;
    case kIcrHigh:
      command_ = (command_ & 0xffffffff) | static_cast<uint64_t>(value & 0xff000000) << 32;
      return true;
    case kInitialCount:
      write_initial_count(value);
      return true;
    case kDivide:
      write_divide(value);
      return true;
    case kId:  // writable on some processors only
    case kApr:
    case kRemoteRead:
      return true;
    default:
      return false;
  }
}

void LocalApic::write_lvt_locked(unsigned entry, uint32_t value) {
  const TimerMode before = timer_mode_locked();
  value &= kLvtWritable[entry];
  if (!software_enabled()) value |= kLvtMasked;
  lvt_[entry] = value;
  if (entry == kLvtLint0) {
    lint0_entry_.store(value);
    if (ext_int_deliverable() && cpu_ != nullptr) cpu_->interrupt_changed();
  }
  // §11.5.4.1: a change between TSC-deadline mode and the others disarms the timer.
  if (entry == kLvtTimer && timer_mode_locked() != before &&
      (before == TimerMode::kTscDeadline || timer_mode_locked() == TimerMode::kTscDeadline)) {
    initial_count_ = 0;
    stop_timer_locked();
  }
}

void LocalApic::send_ipi(uint64_t command) {
  ApicMessage message;
  message.vector = static_cast<uint8_t>(command);
  message.mode = static_cast<DeliveryMode>((command >> 8) & 7);
  message.logical = bit(command, 11);
  message.wide = x2apic();
  message.destination = static_cast<uint32_t>(command >> (message.wide ? 32 : 56));
  const bool assert_level = bit(command, 14);
  const bool level_triggered = bit(command, 15);

  if (message.mode == DeliveryMode::kInit && level_triggered && !assert_level)
    return;  // INIT level de-assert
  const bool fixed = message.mode == DeliveryMode::kFixed || message.mode == DeliveryMode::kLowestPriority;
  if (fixed && message.vector < 16) {
    error(kErrorSendIllegal);
    return;
  }
  switch (static_cast<Shorthand>((command >> 18) & 3)) {
    case Shorthand::kNone:
      bus_.send(message);
      return;
    case Shorthand::kSelf:
      if (fixed) receive(message);  // the other modes are invalid with self (table 11-3)
      return;
    case Shorthand::kAll:
      if (fixed) bus_.send_to_all(message, nullptr);
      return;
    case Shorthand::kOthers:
      bus_.send_to_all(message, this);
      return;
  }
}

std::optional<uint64_t> LocalApic::read_msr(uint32_t index) {
  settle_eoi();
  if (index == kMsrApicBase) return base_.load();
  if (index == kMsrTscDeadline) return deadline();
  uint64_t value = 0;
  if (index < kMsrX2First || index > kMsrX2Last || !x2apic() || !read_x2(index - kMsrX2First, value))
    return std::nullopt;
  return value;
}

bool LocalApic::write_msr(uint32_t index, uint64_t value) {
  settle_eoi();
  if (index == kMsrApicBase) return write_base(value);
  if (index == kMsrTscDeadline) {
    write_deadline(value);
    return true;
  }
  if (index < kMsrX2First || index > kMsrX2Last || !x2apic()) return false;
  return write_x2(index - kMsrX2First, value);
}

bool LocalApic::read_x2(unsigned index, uint64_t& value) {
  switch (index) {  // table 11-6: write-only or absent here
    case kEoi:
    case kSelfIpi:
    case kApr:
    case kRemoteRead:
    case kDfr:
    case kIcrHigh:
      return false;
    case kIcrLow:
      value = command_;
      return true;
    default:
      break;
  }
  const bool known = index == kId || index == kVersion || index == kTpr || index == kPpr || index == kLdr ||
                     index == kSpurious || (index >= kIsr && index <= kEsr) ||
                     (index >= kLvtFirst && index <= kCurrentCount) || index == kDivide;
  if (known) value = read_register(index);
  return known;
}

bool LocalApic::write_x2(unsigned index, uint64_t value) {
  if (index == kIcrLow) {
    if ((value & 0xfff32000) != 0) return false;  // 31:20, 17:16, 13 are reserved (figure 11-28)
    command_ = value & ~uint64_t{kLvtPending};
    send_ipi(command_);
    return true;
  }
  if ((value >> 32) != 0) return false;
  const auto low = static_cast<uint32_t>(value);
  switch (index) {
    case kTpr:
      if (low > 0xff) return false;
      break;
    case kEoi:
    case kEsr:
      if (low != 0) return false;
      break;
    case kSpurious:
      if ((low & ~kSpuriousWritable) != 0) return false;
      break;
    case kDivide:
      if ((low & ~0xbu) != 0) return false;
      break;
    case kInitialCount:
      break;
    case kSelfIpi:
      if (low > 0xff) return false;
      send_ipi(low | static_cast<uint64_t>(Shorthand::kSelf) << 18);
      return true;
    default:
      if (index < kLvtFirst || index > kLvtLast) return false;
      if ((low & ~(kLvtWritable[index - kLvtFirst] | kLvtPending | kLvtRemoteIrr)) != 0) return false;
  }
  return write_register(index, low);
}

bool LocalApic::write_base(uint64_t value) {
  const uint64_t before = base_.load();
  if ((value & kBaseReserved) != 0) return false;
  const bool enable = (value & kBaseEnable) != 0, extended = (value & kBaseExtended) != 0;
  if (extended && !options_.x2apic) return false;
  // Figure 11-27: the permitted transitions.
  if (extended && !enable) return false;
  if ((before & kBaseExtended) != 0 && enable && !extended) return false;
  if ((before & kBaseEnable) == 0 && extended) return false;
  const bool turned_off = (before & kBaseEnable) != 0 && !enable;
  base_.store(value);
  if (turned_off) registers_reset();
  if (extended && (before & kBaseExtended) == 0) {
    logical_id_.store(x2_logical_id(options_.id));
    command_ &= 0xffffffff;  // §11.12.5.1: ICR_HIGH does not carry over
  }
  if ((value & ~(kBaseEnable | kBaseExtended | kBaseBootstrap)) != kDefaultBase)
    log::guest_error("local apic {}: moved to {:#x}, which is not modelled", id(), value);
  if (ext_int_deliverable() && cpu_ != nullptr) cpu_->interrupt_changed();
  return true;
}

}  // namespace ostler::chipset
