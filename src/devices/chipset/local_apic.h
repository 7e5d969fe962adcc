// The local APIC of one vCPU in xAPIC and x2APIC mode (SDM 3A §11, 325384-081).
//
//        any thread                          the vCPU's thread
//   receive(): IRR |= bit ---- attention_ --> pending(), acknowledge(): IRR -> ISR, EOI, TPR, PPR
//
// IRR, TMR and what routing looks at are atomic words: interrupts arrive without a lock. mutex_ guards the
// timer and the LVT entries, which the loop's thread (timer callback) and other devices (LINT pins) read. ISR
// belongs to the vCPU. Registers are written by the vCPU's thread alone.
//
// Deviations: IA32_APIC_BASE can be moved, but the page is answered where the machine put it; the APIC id
// register is read-only; no CMCI, thermal and performance-counter interrupts are ever raised.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>

#include "bus/cpu_events.h"
#include "bus/io_handler.h"
#include "devices/chipset/apic_message.h"
#include "devices/chipset/tsc_clock.h"
#include "event/loop.h"
#include "state/archive.h"

namespace ostler::chipset {

class ApicBus;
class MemoryEoi;

// 256 bits by vector.
class VectorSet {
 public:
  // True when the bit was clear.
  bool set(uint8_t vector) { return (words_[vector / 32].fetch_or(mask(vector)) & mask(vector)) == 0; }
  void clear(uint8_t vector) { words_[vector / 32].fetch_and(~mask(vector)); }
  bool test(uint8_t vector) const { return (words_[vector / 32].load() & mask(vector)) != 0; }
  uint32_t word(unsigned index) const { return words_[index].load(); }
  void set_word(unsigned index, uint32_t value) { words_[index].store(value); }
  int highest() const;  // -1: empty
  void reset();
  void state(state::Archive& archive, std::string_view name);

 private:
  static uint32_t mask(uint8_t vector) { return uint32_t{1} << (vector % 32); }
  std::array<std::atomic<uint32_t>, 8> words_{};  // seq_cst throughout: see LocalApic::accept()
};

class LocalApic final : public bus::CpuInterrupts, public bus::IoHandler, public state::Savable {
 public:
  // The APIC timer counts nanoseconds of the virtual clock: CPUID leaf 0x15 ECX must say the same.
  static constexpr uint64_t kTimerHz = 1'000'000'000;

  struct Options {
    uint32_t id = 0;
    bool bootstrap = false;  // the BSP
    bool x2apic = true;      // as offered in CPUID
    // LINT0 of the BSP as a virtual wire after reset: what firmware sets up and direct kernel boot relies on.
    bool virtual_wire = true;
  };
  LocalApic(const Options& options, ApicBus& bus, event::Loop& loop, const TscClock& tsc);
  ~LocalApic() override;

  void attach(bus::CpuEvents& cpu) { cpu_ = &cpu; }            // before the vCPU runs
  void set_memory_eoi(MemoryEoi& eoi) { memory_eoi_ = &eoi; }  // likewise
  void reset();  // power-up; every thread of the machine stopped

  // ---- for ApicBus: any thread ----
  uint32_t id() const { return options_.id; }
  bool matches_logical(uint32_t destination) const;
  bool accepts_fixed() const;
  uint8_t processor_priority() const { return ppr_.load(std::memory_order_relaxed); }
  void receive(const ApicMessage& message);
  void set_lint0(bool level);
  void set_lint1(bool level);
  void unhalt() {
    if (cpu_ != nullptr) cpu_->unhalt();
  }

  // The vCPU's thread, or while it is paused: what the guest's memory says about the end of an interrupt goes
  // into the registers.
  void settle_eoi();

  // ---- bus::CpuInterrupts ----
  bool pending() const override;
  std::optional<uint8_t> acknowledge() override;
  uint8_t cr8() const override { return tpr_.load(std::memory_order_relaxed) >> 4; }
  void set_cr8(uint8_t value) override;
  std::optional<uint64_t> read_msr(uint32_t index) override;
  bool write_msr(uint32_t index, uint64_t value) override;
  void init_reset() override;
  void tsc_changed() override;
  bus::ApicImage image() override;
  void set_image(const bus::ApicImage& image) override;
  void eoi_reported(uint8_t vector) override;

  // ---- the xAPIC page, for this vCPU ----
  std::string_view name() const override { return "local-apic"; }
  uint64_t io_read(uint64_t offset, unsigned size) override;
  void io_write(uint64_t offset, unsigned size, uint64_t value) override;

  void state(state::Archive& archive) override;

 private:
  enum Lvt : unsigned { kLvtTimer, kLvtThermal, kLvtPerformance, kLvtLint0, kLvtLint1, kLvtError, kLvtCount };
  enum class TimerMode : uint8_t { kOneShot = 0, kPeriodic = 1, kTscDeadline = 2, kReserved = 3 };

  bool in_kernel() const;  // this object only keeps the state of the kernel's
  bool hardware_enabled() const;
  bool x2apic() const;
  bool software_enabled() const;
  uint32_t read_register(unsigned index);
  bool write_register(unsigned index, uint32_t value);  // false: no such register
  bool read_x2(unsigned index, uint64_t& value);
  bool write_x2(unsigned index, uint64_t value);
  bool write_base(uint64_t value);
  void send_ipi(uint64_t command);
  void end_of_interrupt();
  void offer_eoi(uint8_t vector);
  void set_tpr(uint8_t value);
  void accept(uint8_t vector, bool level);
  void update_priority();
  bool deliverable() const;
  bool ext_int_deliverable() const;
  void deliver_local(Lvt entry);
  void error(uint32_t bit);
  void registers_reset();
  void write_lvt_locked(unsigned entry, uint32_t value);
  void raise(uint8_t vector, bool level);

  // local_apic_timer.cpp
  TimerMode timer_mode_locked() const;
  void write_initial_count(uint32_t value);
  uint32_t current_count();
  uint64_t deadline() const;
  void write_deadline(uint64_t value);
  void write_divide(uint32_t value);
  void stop_timer_locked();
  void start_count_locked(int64_t now);
  bool arm_deadline_locked();  // true: it has passed
  void timer_expired();
  int64_t tick_ns_locked() const;

  const Options options_;
  ApicBus& bus_;
  event::Loop& loop_;
  const TscClock& tsc_;
  bus::CpuEvents* cpu_ = nullptr;
  MemoryEoi* memory_eoi_ = nullptr;

  VectorSet irr_, tmr_, isr_;
  std::atomic<bool> attention_{false};    // something may be deliverable
  std::atomic<bool> eoi_offered_{false};  // see local_apic_eoi.cpp
  std::atomic<bool> lint0_{false}, lint1_{false};
  std::atomic<bool> ext_int_latched_{false};  // an ExtINT message arrived
  std::atomic<uint64_t> base_{0};
  std::atomic<uint32_t> spurious_{0xff}, logical_id_{0}, destination_format_{0xffffffff};
  std::atomic<uint8_t> tpr_{0}, ppr_{0};
  std::atomic<uint32_t> lint0_entry_{0};  // copy of lvt_[kLvtLint0] for pending()
  uint64_t command_ = 0;                  // ICR; vCPU thread

  mutable std::mutex mutex_;
  std::array<uint32_t, kLvtCount> lvt_{};
  uint32_t error_status_ = 0, error_pending_ = 0;
  uint32_t initial_count_ = 0, divide_ = 0;
  int64_t expires_ = -1;  // virtual ns, -1: not running
  uint64_t tsc_deadline_ = 0;

  event::Timer timer_;  // last: its destructor waits for the callback
};

}  // namespace ostler::chipset
