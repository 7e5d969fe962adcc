// The properties of -machine, declared once as a table.
#pragma once

#include <array>
#include <string>

#include "base/result.h"
#include "config/machine.h"
#include "config/property.h"

namespace ostler::machine {

enum class KernelEntry { kAuto, kPvh, kLinux64 };

enum class KernelIrqchip { kOff, kSplit, kOn };
inline constexpr std::array<const char*, 3> kKernelIrqchipNames = {"off", "split", "on"};

// Spares a microVM's guest the kernel's tests of its own ciphers, which `fips=1` brings back.
inline constexpr const char* kMicrovmKernelOptions = "cryptomgr.notests";

struct MachineProperties {
  KernelEntry kernel_entry = KernelEntry::kAuto;
  config::OnOffAuto pcie = config::OnOffAuto::kAuto;  // microvm; auto: off
  config::OnOffAuto acpi = config::OnOffAuto::kAuto;  // pc; auto: on
  bool hpet = true;                                   // pc
  bool kernel_options = true;                         // microvm: kMicrovmKernelOptions stand before -append
  std::string memory_backend;                         // id of an object; empty: memory of the machine's own
  bool mem_merge = true;
  bool dump_guest_core = false;
  KernelIrqchip kernel_irqchip = KernelIrqchip::kOff;
};

// Errors name the property and the nearest valid one.
Result<MachineProperties> machine_properties(const config::Machine& config);

// -machine help, or -machine TYPE,help.
std::string machine_help(const std::string& type = {});

}  // namespace ostler::machine
