// Switches of QEMU's machines for what these machines always have, or never: whoever writes them for QEMU
// (libvirt writes usb=off for every guest) gets what was asked for, or a sentence.
#pragma once

#include <vector>

#include "config/property.h"
#include "machine/properties.h"

namespace ostler::machine {

std::vector<config::Property<MachineProperties>> settled_of_pc();
std::vector<config::Property<MachineProperties>> settled_of_microvm();

}  // namespace ostler::machine
