// The pair of 8259A interrupt controllers of a PC with the PIIX's edge/level registers (Intel 8259A datasheet
// 231468-003, 82371AB §4.2.7). Any thread; one mutex for the pair.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>

#include "bus/irq.h"
#include "devices/chipset/apic_bus.h"
#include "devices/chipset/io_range.h"
#include "state/archive.h"

namespace ostler::chipset {

// What the kernel's 8259A and ours have in common, one chip; `init`: the ICW that is awaited, 0 none.
struct PicImage {
  uint8_t lines = 0, irr = 0, isr = 0, imr = 0, level = 0, lowest = 7, vector_base = 0, init = 0;
  bool needs_icw4 = false, auto_eoi = false, rotate_on_auto_eoi = false, special_mask = false;
  bool special_fully_nested = false, poll = false, read_isr = false;
  friend bool operator==(const PicImage&, const PicImage&) = default;
};

// One 8259A. Guarded by the pair's mutex.
class Pic8259 {
 public:
  explicit Pic8259(bool master) : master_(master) {}
  void reset();
  void set_input(unsigned pin, bool level);
  int request() const;    // the input that INTR is for, -1: none
  uint8_t acknowledge();  // the INTA cycle: 0..7, the spurious 7 if nothing is left
  uint8_t vector_base() const { return vector_base_; }
  uint8_t read(uint64_t port);
  void write(uint64_t port, uint8_t value);
  uint8_t level_inputs() const { return level_; }
  void set_level_inputs(uint8_t value) { level_ = value; }
  PicImage image() const;
  void set_image(const PicImage& image);
  void state(state::Archive& archive);

 private:
  enum class Init : uint8_t { kDone, kIcw2, kIcw3, kIcw4 };
  unsigned priority_of(uint8_t mask) const;  // 0 highest … 7, 8: empty
  void end_of_interrupt(uint8_t command);
  void write_icw1(uint8_t value);
  void latch_levels();

  const bool master_;
  uint8_t lines_ = 0, irr_ = 0, isr_ = 0, imr_ = 0;
  uint8_t level_ = 0;        // ELCR: inputs that are level-triggered
  uint8_t lowest_ = 7;       // input of lowest priority
  uint8_t vector_base_ = 0;  // ICW2 bits 7:3
  Init init_ = Init::kDone;
  bool single_ = false, needs_icw4_ = false, level_triggered_ = false;
  bool auto_eoi_ = false, rotate_on_auto_eoi_ = false;
  bool special_mask_ = false, special_fully_nested_ = false;
  bool poll_ = false, read_isr_ = false;
};

// Sink pins 0..15 are ISA IRQs; pin 2 is the cascade and connected to nothing else.
class PicPair final : public bus::IrqSink, public ExtIntSource, public state::Savable {
 public:
  explicit PicPair(bus::IrqLine intr);
  void reset();
  // Inputs that are level-triggered now and after each reset: what firmware would write to the ELCR.
  void preset_level_inputs(uint16_t inputs);
  void set_irq(unsigned pin, bool level) override;
  uint8_t acknowledge() override;
  // The kernel's pair takes the wires while vCPUs run; this one keeps its state.
  void set_kernel(bus::IrqSink& kernel) { kernel_ = &kernel; }  // construction time
  std::array<PicImage, 2> image();
  void set_image(const std::array<PicImage, 2>& image);
  void state(state::Archive& archive) override;

  bus::IoHandler& master_ports() { return master_ports_; }  // 0x20-0x21
  bus::IoHandler& slave_ports() { return slave_ports_; }    // 0xa0-0xa1
  bus::IoHandler& elcr_ports() { return elcr_ports_; }      // 0x4d0-0x4d1

 private:
  static constexpr unsigned kCascade = 2;
  static constexpr uint16_t kElcrWritable = 0xdef8;  // IRQ 0, 1, 2, 8, 13 are always edge

  uint64_t read_master(uint64_t offset, unsigned size);
  void write_master(uint64_t offset, unsigned size, uint64_t value);
  uint64_t read_slave(uint64_t offset, unsigned size);
  void write_slave(uint64_t offset, unsigned size, uint64_t value);
  uint64_t read_elcr(uint64_t offset, unsigned size);
  void write_elcr(uint64_t offset, unsigned size, uint64_t value);
  uint64_t read_locked(Pic8259& chip, uint64_t offset, unsigned size);
  void write_locked(Pic8259& chip, uint64_t offset, unsigned size, uint64_t value);
  void update_locked();
  void set_level_inputs_locked(uint16_t inputs);

  const bus::IrqLine intr_;
  bus::IrqSink* kernel_ = nullptr;
  std::mutex mutex_;
  Pic8259 master_{true}, slave_{false};
  bool output_ = false;
  uint16_t level_preset_ = 0;
  IoRange<PicPair> master_ports_, slave_ports_, elcr_ports_;
};

}  // namespace ostler::chipset
