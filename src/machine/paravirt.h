// The KVM services that a vCPU under the software engines offers.
#pragma once

#include <memory>

#include "accel/paravirt.h"
#include "devices/chipset/tsc_clock.h"
#include "event/clock.h"
#include "memory/address_space.h"

namespace ostler::machine {

extern const uint32_t kParavirtFeatures;  // CPUID 0x40000001 EAX

std::unique_ptr<accel::Paravirt> make_paravirt(memory::AddressSpace& space, event::VirtualClock& clock,
                                               chipset::TscClock& tsc);

}  // namespace ostler::machine
