// The 8254 that KVM has in the kernel with kernel-irqchip=on, and ours, which keeps its state. The kernel
// does not tell how far a count has come: whenever the state moves, each count begins anew.
#pragma once

#include "accel/kvm/irqchip.h"
#include "devices/chipset/hpet.h"
#include "devices/chipset/pit.h"

namespace ostler::machine {

// As the kernel passes them, both directions, but for the flag of the HPET's. Pure.
chipset::PitImage pit_image_of(const kvm_pit_state2& in);
kvm_pit_state2 pit_state_of(const chipset::PitImage& in);

// Construction time. Errors: KVM lacks it.
Result<void> move_pit_to_kernel(accel::kvm::Irqchip& kernel, chipset::Pit& pit, chipset::Hpet& hpet);

// Control thread, vCPUs paused; nothing unless it is in the kernel. reset_kernel_pit: as after power-up.
void take_pit_from_kernel(accel::kvm::Irqchip* kernel, chipset::Pit& pit);
void give_pit_to_kernel(accel::kvm::Irqchip* kernel, chipset::Pit& pit, chipset::Hpet& hpet);
void reset_kernel_pit(accel::kvm::Irqchip* kernel, const chipset::Pit& pit);

}  // namespace ostler::machine
