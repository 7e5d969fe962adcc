#include "devices/chipset/pic.h"

#include "base/bytes.h"
#include "base/log.h"

namespace ostler::chipset {

// ---- one chip ----

void Pic8259::reset() {
  irr_ = isr_ = imr_ = 0;
  level_ = 0;
  lowest_ = 7;
  vector_base_ = 0;
  init_ = Init::kDone;
  single_ = needs_icw4_ = level_triggered_ = false;
  auto_eoi_ = rotate_on_auto_eoi_ = false;
  special_mask_ = special_fully_nested_ = false;
  poll_ = read_isr_ = false;
}

// Edge: IRR is set by the rising edge and falls with the line (8259A "Edge and level triggered modes": the
// input must stay high until INTA). Level: IRR follows the line.
void Pic8259::set_input(unsigned pin, bool level) {
  const auto mask = static_cast<uint8_t>(1u << pin);
  const bool was = (lines_ & mask) != 0;
  if (level) {
    lines_ |= mask;
    if (!was || level_triggered_ || (level_ & mask) != 0) irr_ |= mask;
  } else {
    lines_ &= static_cast<uint8_t>(~mask);
    irr_ &= static_cast<uint8_t>(~mask);
  }
}

// Level inputs stay requested after INTA.
void Pic8259::latch_levels() {
  const uint8_t level = level_triggered_ ? 0xff : level_;
  irr_ = static_cast<uint8_t>((irr_ & ~level) | (lines_ & level));
}

unsigned Pic8259::priority_of(uint8_t mask) const {
  for (unsigned priority = 0; priority < 8; ++priority)
    if (mask >> ((lowest_ + 1 + priority) & 7) & 1) return priority;
  return 8;
}

int Pic8259::request() const {
  if (init_ != Init::kDone) return -1;
  const unsigned wanted = priority_of(irr_ & static_cast<uint8_t>(~imr_));
  if (wanted == 8) return -1;
  uint8_t blocking = isr_;
  // Special mask mode: what is in service blocks only while it is not masked.
  if (special_mask_) blocking &= static_cast<uint8_t>(~imr_);
  // Special fully nested mode: the slave may interrupt its own service.
  if (special_fully_nested_ && master_) blocking &= static_cast<uint8_t>(~(1u << 2));
  const unsigned pin = (lowest_ + 1 + wanted) & 7;
  // In special mask mode a masked level in service does not block, and neither does an input block itself
  // twice.
  return wanted < priority_of(blocking) ? static_cast<int>(pin) : -1;
}

uint8_t Pic8259::acknowledge() {
  const int pin = request();
  if (pin < 0) return 7;  // spurious: ISR is not set
  const auto mask = static_cast<uint8_t>(1u << pin);
  irr_ &= static_cast<uint8_t>(~mask);
  latch_levels();
  if (!auto_eoi_)
    isr_ |= mask;
  else if (rotate_on_auto_eoi_)
    lowest_ = static_cast<uint8_t>(pin);
  return static_cast<uint8_t>(pin);
}

uint8_t Pic8259::read(uint64_t port) {
  if (poll_) {  // the read takes the place of the INTA cycle
    poll_ = false;
    const bool any = request() >= 0;
    const uint8_t pin = acknowledge();
    return any ? static_cast<uint8_t>(0x80 | pin) : 0;
  }
  if (port == 1) return imr_;
  return read_isr_ ? isr_ : irr_;
}

void Pic8259::write_icw1(uint8_t value) {
  // "Initialization command words", effects a to f.
  irr_ = 0;
  isr_ = 0;
  imr_ = 0;
  lowest_ = 7;
  special_mask_ = special_fully_nested_ = auto_eoi_ = rotate_on_auto_eoi_ = false;
  poll_ = read_isr_ = false;
  needs_icw4_ = bit(value, 0);
  single_ = bit(value, 1);
  level_triggered_ = bit(value, 3);
  init_ = Init::kIcw2;
  latch_levels();
}

void Pic8259::write(uint64_t port, uint8_t value) {
  if (port == 0) {
    if (bit(value, 4)) {
      write_icw1(value);
    } else if (bit(value, 3)) {  // OCW3
      if (bit(value, 6)) special_mask_ = bit(value, 5);
      poll_ = bit(value, 2);
      if (bit(value, 1)) read_isr_ = bit(value, 0);
    } else {
      end_of_interrupt(value);
    }
    return;
  }
  switch (init_) {
    case Init::kDone:
      imr_ = value;
      return;
    case Init::kIcw2:
      vector_base_ = value & 0xf8;
      init_ = !single_ ? Init::kIcw3 : needs_icw4_ ? Init::kIcw4 : Init::kDone;
      return;
    case Init::kIcw3:  // the wiring of the cascade is fixed on a PC
      init_ = needs_icw4_ ? Init::kIcw4 : Init::kDone;
      return;
    case Init::kIcw4:
      auto_eoi_ = bit(value, 1);
      special_fully_nested_ = bit(value, 4);
      init_ = Init::kDone;
      if (!bit(value, 0)) log::guest_error("pic: 8080 mode is not possible in a PC");
      return;
  }
}

void Pic8259::end_of_interrupt(uint8_t command) {  // OCW2: R, SL, EOI in 7:5, level in 2:0
  const uint8_t pin = command & 7;
  uint8_t serviced = isr_;
  if (special_mask_) serviced &= static_cast<uint8_t>(~imr_);
  const unsigned highest = priority_of(serviced);
  switch (command >> 5) {
    case 0:  // clear rotate in automatic EOI mode
      rotate_on_auto_eoi_ = false;
      return;
    case 4:
      rotate_on_auto_eoi_ = true;
      return;
    case 1:  // non-specific EOI
    case 5:  // with rotation
      if (highest == 8) return;
      isr_ &= static_cast<uint8_t>(~(1u << ((lowest_ + 1 + highest) & 7)));
      if ((command >> 5) == 5) lowest_ = static_cast<uint8_t>((lowest_ + 1 + highest) & 7);
      return;
    case 3:  // specific EOI
      isr_ &= static_cast<uint8_t>(~(1u << pin));
      return;
    case 7:
      isr_ &= static_cast<uint8_t>(~(1u << pin));
      lowest_ = pin;
      return;
    case 6:  // set priority
      lowest_ = pin;
      return;
    default:  // no operation
      return;
  }
}

void Pic8259::state(state::Archive& archive) {
  archive.section("8259", 1);
  archive.field("lines", lines_);
  archive.field("irr", irr_);
  archive.field("isr", isr_);
  archive.field("imr", imr_);
  archive.field("level", level_);
  archive.field("lowest", lowest_);
  archive.field("vector_base", vector_base_);
  archive.field("init", init_);
  archive.field("single", single_);
  archive.field("needs_icw4", needs_icw4_);
  archive.field("level_triggered", level_triggered_);
  archive.field("auto_eoi", auto_eoi_);
  archive.field("rotate", rotate_on_auto_eoi_);
  archive.field("special_mask", special_mask_);
  archive.field("special_fully_nested", special_fully_nested_);
  archive.field("poll", poll_);
  archive.field("read_isr", read_isr_);
  archive.check(lowest_ < 8, "lowest");
  archive.check(init_ <= Init::kIcw4, "init");
}

PicImage Pic8259::image() const {
  return {.lines = lines_,
          .irr = irr_,
          .isr = isr_,
          .imr = imr_,
          .level = level_,
          .lowest = lowest_,
          .vector_base = vector_base_,
          .init = static_cast<uint8_t>(init_),
          .needs_icw4 = needs_icw4_,
          .auto_eoi = auto_eoi_,
          .rotate_on_auto_eoi = rotate_on_auto_eoi_,
          .special_mask = special_mask_,
          .special_fully_nested = special_fully_nested_,
          .poll = poll_,
          .read_isr = read_isr_};
}

void Pic8259::set_image(const PicImage& image) {
  lines_ = image.lines;
  irr_ = image.irr;
  isr_ = image.isr;
  imr_ = image.imr;
  level_ = image.level;
  lowest_ = image.lowest & 7;
  vector_base_ = image.vector_base & 0xf8;
  init_ = static_cast<Init>(image.init & 3);
  needs_icw4_ = image.needs_icw4;
  auto_eoi_ = image.auto_eoi;
  rotate_on_auto_eoi_ = image.rotate_on_auto_eoi;
  special_mask_ = image.special_mask;
  special_fully_nested_ = image.special_fully_nested;
  poll_ = image.poll;
  read_isr_ = image.read_isr;
}

// ---- the pair ----

std::array<PicImage, 2> PicPair::image() {
  const std::lock_guard lock(mutex_);
  return {master_.image(), slave_.image()};
}

void PicPair::set_image(const std::array<PicImage, 2>& image) {
  const std::lock_guard lock(mutex_);
  master_.set_image(image[0]);
  slave_.set_image(image[1]);
  output_ = master_.request() >= 0;
}

PicPair::PicPair(bus::IrqLine intr)
    : intr_(intr),
      master_ports_("pic-master", *this, &PicPair::read_master, &PicPair::write_master),
      slave_ports_("pic-slave", *this, &PicPair::read_slave, &PicPair::write_slave),
      elcr_ports_("pic-elcr", *this, &PicPair::read_elcr, &PicPair::write_elcr) {}

void PicPair::reset() {
  const std::lock_guard lock(mutex_);
  master_.reset();
  slave_.reset();
  if (kernel_ != nullptr) {
    // Its wires are the kernel's, and low: every device has been reset.
    master_.set_image({});
    slave_.set_image({});
  }
  set_level_inputs_locked(level_preset_);
  update_locked();
}

void PicPair::preset_level_inputs(uint16_t inputs) {
  const std::lock_guard lock(mutex_);
  level_preset_ = inputs;
  set_level_inputs_locked(inputs);
}

void PicPair::set_level_inputs_locked(uint16_t inputs) {
  inputs &= kElcrWritable;
  master_.set_level_inputs(static_cast<uint8_t>(inputs));
  slave_.set_level_inputs(static_cast<uint8_t>(inputs >> 8));
}

void PicPair::set_irq(unsigned pin, bool level) {
  if (pin >= 16 || pin == kCascade) return;
  if (kernel_ != nullptr) return kernel_->set_irq(pin, level);
  const std::lock_guard lock(mutex_);
  if (pin < 8)
    master_.set_input(pin, level);
  else
    slave_.set_input(pin - 8, level);
  update_locked();
}

void PicPair::update_locked() {
  // The cascade input is edge-triggered too: it falls for a moment at the slave's INTA, so a second request
  // of the slave is a new edge. Dropping the line first whenever the slave has none gives just that.
  master_.set_input(kCascade, slave_.request() >= 0);
  const bool output = master_.request() >= 0;
  if (output == output_ || kernel_ != nullptr) return;
  output_ = output;
  intr_.set(output);
}

uint8_t PicPair::acknowledge() {
  const std::lock_guard lock(mutex_);
  uint8_t vector = 0;
  const bool cascade = master_.request() == static_cast<int>(kCascade);
  const uint8_t pin = master_.acknowledge();
  if (cascade) {
    vector = static_cast<uint8_t>(slave_.vector_base() + slave_.acknowledge());
    master_.set_input(kCascade, false);
  } else {
    vector = static_cast<uint8_t>(master_.vector_base() + pin);
  }
  update_locked();
  return vector;
}

uint64_t PicPair::read_locked(Pic8259& chip, uint64_t offset, unsigned size) {
  const uint64_t value = read_bytes(offset, size, [&](uint64_t port) { return chip.read(port & 1); });
  update_locked();  // a poll acknowledges
  return value;
}

void PicPair::write_locked(Pic8259& chip, uint64_t offset, unsigned size, uint64_t value) {
  write_bytes(offset, size, value, [&](uint64_t port, uint8_t byte) {
    chip.write(port & 1, byte);
    update_locked();
  });
}

uint64_t PicPair::read_master(uint64_t offset, unsigned size) {
  const std::lock_guard lock(mutex_);
  return read_locked(master_, offset, size);
}
void PicPair::write_master(uint64_t offset, unsigned size, uint64_t value) {
  const std::lock_guard lock(mutex_);
  write_locked(master_, offset, size, value);
}
uint64_t PicPair::read_slave(uint64_t offset, unsigned size) {
  const std::lock_guard lock(mutex_);
  return read_locked(slave_, offset, size);
}
void PicPair::write_slave(uint64_t offset, unsigned size, uint64_t value) {
  const std::lock_guard lock(mutex_);
  write_locked(slave_, offset, size, value);
}

uint64_t PicPair::read_elcr(uint64_t offset, unsigned size) {
  const std::lock_guard lock(mutex_);
  return read_bytes(offset, size, [&](uint64_t port) {
    return (port & 1) == 0 ? master_.level_inputs() : slave_.level_inputs();
  });
}

void PicPair::write_elcr(uint64_t offset, unsigned size, uint64_t value) {
  const std::lock_guard lock(mutex_);
  write_bytes(offset, size, value, [&](uint64_t port, uint8_t byte) {
    if ((port & 1) == 0)
      master_.set_level_inputs(byte & (kElcrWritable & 0xff));
    else
      slave_.set_level_inputs(byte & (kElcrWritable >> 8));
  });
  update_locked();
}

void PicPair::state(state::Archive& archive) {
  const std::lock_guard lock(mutex_);
  archive.section("pic", 1);
  master_.state(archive);
  slave_.state(archive);
  archive.field("output", output_);
}

}  // namespace ostler::chipset
