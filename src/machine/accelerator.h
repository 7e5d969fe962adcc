// The choice among -accel options, and their properties, declared once as tables.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "accel/kvm/system.h"
#include "accel/kvm/vm.h"
#include "base/result.h"
#include "bt/shared.h"
#include "config/machine.h"
#include "machine/properties.h"

namespace ostler::machine {

struct Accelerator {
  std::shared_ptr<accel::kvm::System> kvm;                                // else
  bool translates = false;                                                // else the interpreter
  bt::Options options;                                                    // of the translator
  uint32_t dirty_ring_entries = 0;                                        // of KVM: see accel::kvm::VmOptions
  accel::kvm::NotifyExits notify_exits = accel::kvm::NotifyExits::kGoOn;  // of KVM
  uint32_t notify_window = 0;                                             // of KVM
  std::optional<KernelIrqchip> irqchip = std::nullopt;                    // of KVM; none: as -machine says
};

// The first accelerator of the configuration that is available; what was passed over is told in `warnings`.
// None, and "auto": KVM where it runs code at speed, which a few milliseconds prove, else the translator.
// Errors: none is available; properties that the chosen one does not have, or not with this value.
Result<Accelerator> choose_accelerator(const config::Machine& config, std::vector<std::string>& warnings);

// -accel help, or -accel NAME,help.
std::string accelerator_help(const std::string& name = {});

}  // namespace ostler::machine
