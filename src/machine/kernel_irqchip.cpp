#include "machine/kernel_irqchip.h"

#include "base/log.h"

namespace ostler::machine {
namespace {

constexpr unsigned kIoApicChip = KVM_IRQCHIP_IOAPIC;
constexpr uint8_t kElcrMasks[] = {0xf8, 0xde};  // the inputs that may be level-triggered (82371AB §4.2.7)

void told(const Result<void>& done) {
  if (!done) log::warning(done.error().message());
}

}  // namespace

chipset::PicImage pic_image_of(const kvm_pic_state& in) {
  return {.lines = in.last_irr,
          .irr = in.irr,
          .isr = in.isr,
          .imr = in.imr,
          .level = in.elcr,
          .lowest = static_cast<uint8_t>((in.priority_add + 7) & 7),
          .vector_base = in.irq_base,
          .init = in.init_state,
          .needs_icw4 = in.init4 != 0,
          .auto_eoi = in.auto_eoi != 0,
          .rotate_on_auto_eoi = in.rotate_on_auto_eoi != 0,
          .special_mask = in.special_mask != 0,
          .special_fully_nested = in.special_fully_nested_mode != 0,
          .poll = in.poll != 0,
          .read_isr = in.read_reg_select != 0};
}

kvm_pic_state pic_state_of(const chipset::PicImage& in) {
  kvm_pic_state out{};
  out.last_irr = in.lines;
  out.irr = in.irr;
  out.isr = in.isr;
  out.imr = in.imr;
  out.elcr = in.level;
  out.priority_add = (in.lowest + 1) & 7;
  out.irq_base = in.vector_base;
  out.init_state = in.init;
  out.init4 = in.needs_icw4;
  out.auto_eoi = in.auto_eoi;
  out.rotate_on_auto_eoi = in.rotate_on_auto_eoi;
  out.special_mask = in.special_mask;
  out.special_fully_nested_mode = in.special_fully_nested;
  out.poll = in.poll;
  out.read_reg_select = in.read_isr;
  return out;
}

chipset::IoApic::Image io_apic_image_of(const kvm_ioapic_state& in) {
  chipset::IoApic::Image out{.select = static_cast<uint8_t>(in.ioregsel),
                             .id = static_cast<uint8_t>(in.id),
                             .asserted = in.irr,
                             .entries = {}};
  for (unsigned pin = 0; pin < chipset::IoApic::kPins; ++pin) out.entries[pin] = in.redirtbl[pin].bits;
  return out;
}

kvm_ioapic_state io_apic_state_of(const chipset::IoApic::Image& in) {
  kvm_ioapic_state out{};
  out.base_address = chipset::IoApic::kBase;
  out.ioregsel = in.select;
  out.id = in.id;
  out.irr = in.asserted;
  for (unsigned pin = 0; pin < chipset::IoApic::kPins; ++pin) out.redirtbl[pin].bits = in.entries[pin];
  return out;
}

void take_from_kernel(accel::kvm::Irqchip& kernel, chipset::PicPair* pic, chipset::IoApic& io_apic) {
  if (kernel.mode() != accel::kvm::Irqchip::Mode::kOn) return;
  if (pic != nullptr) {
    std::array<chipset::PicImage, 2> images;
    for (unsigned i = 0; i < 2; ++i)
      if (const auto chip = kernel.chip(i)) images[i] = pic_image_of(chip->chip.pic);
    pic->set_image(images);
  }
  if (const auto chip = kernel.chip(kIoApicChip)) io_apic.set_image(io_apic_image_of(chip->chip.ioapic));
}

void give_to_kernel(accel::kvm::Irqchip& kernel, chipset::PicPair* pic, chipset::IoApic& io_apic) {
  if (kernel.mode() != accel::kvm::Irqchip::Mode::kOn) return;
  if (pic != nullptr) {
    const auto images = pic->image();
    for (unsigned i = 0; i < 2; ++i) {
      kvm_irqchip chip{};
      chip.chip_id = i;
      chip.chip.pic = pic_state_of(images[i]);
      chip.chip.pic.elcr_mask = kElcrMasks[i];
      told(kernel.set_chip(chip));
    }
  }
  kvm_irqchip chip{};
  chip.chip_id = kIoApicChip;
  chip.chip.ioapic = io_apic_state_of(io_apic.image());
  told(kernel.set_chip(chip));
}

}  // namespace ostler::machine
