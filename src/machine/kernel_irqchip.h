// The interrupt controllers that KVM has in the kernel, and the chips of the machine that keep their state:
// takes it from there before it is saved, and gives it back after it was restored or reset.
#pragma once

#include "accel/kvm/irqchip.h"
#include "devices/chipset/io_apic.h"
#include "devices/chipset/pic.h"

namespace ostler::machine {

// As the kernel passes them, both directions. Pure.
chipset::PicImage pic_image_of(const kvm_pic_state& in);
kvm_pic_state pic_state_of(const chipset::PicImage& in);
chipset::IoApic::Image io_apic_image_of(const kvm_ioapic_state& in);
kvm_ioapic_state io_apic_state_of(const chipset::IoApic::Image& in);

// Control thread, vCPUs paused. `pic` may be null: the machine has none.
void take_from_kernel(accel::kvm::Irqchip& kernel, chipset::PicPair* pic, chipset::IoApic& io_apic);
void give_to_kernel(accel::kvm::Irqchip& kernel, chipset::PicPair* pic, chipset::IoApic& io_apic);

}  // namespace ostler::machine
