#include "machine/properties.h"

#include <fmt/format.h>

#include "config/property.h"

namespace ostler::machine {
namespace {

using Table = config::PropertyTable<MachineProperties>;

config::Property<MachineProperties> kernel_entry() {
  return config::choice<MachineProperties, KernelEntry>("kernel-entry", &MachineProperties::kernel_entry,
                                                        {"auto", "pvh", "linux64"},
                                                        "how a bzImage is started");
}

config::Property<MachineProperties> kernel_irqchip() {
  return config::choice<MachineProperties, KernelIrqchip>(
      "kernel-irqchip", &MachineProperties::kernel_irqchip,
      {kKernelIrqchipNames.begin(), kKernelIrqchipNames.end()},
      "with -accel kvm: whether the local APICs (split), or these, the I/O APIC, the 8259s and the 8254 (on) "
      "are the "
      "kernel's");
}

// Of every machine, and `more`.
std::vector<config::Property<MachineProperties>> with(std::vector<config::Property<MachineProperties>> more) {
  using config::boolean;
  more.push_back(kernel_entry());
  more.push_back(kernel_irqchip());
  more.push_back(config::reference<MachineProperties>("memory-backend", "memory backend",
                                                      &MachineProperties::memory_backend,
                                                      "where guest memory comes from"));
  more.push_back(boolean<MachineProperties>("mem-merge", &MachineProperties::mem_merge,
                                            "the host may merge equal pages (KSM)"));
  more.push_back(boolean<MachineProperties>("dump-guest-core", &MachineProperties::dump_guest_core,
                                            "guest memory in core dumps of this program"));
  return more;
}

const Table& table_of(const std::string& type) {
  static const Table pc("-machine pc", with({}));
  static const Table microvm(
      "-machine microvm",
      with({config::boolean<MachineProperties>("pcie", &MachineProperties::pcie, "a PCI bus with ECAM"),
            config::boolean<MachineProperties>(
                "auto-kernel-cmdline", &MachineProperties::kernel_options,
                std::string("words before -append that let a Linux start sooner: ") +
                    kMicrovmKernelOptions)}));
  return type == "microvm" ? microvm : pc;
}

}  // namespace

Result<MachineProperties> machine_properties(const config::Machine& config) {
  return table_of(config.type).parse(config.machine_properties);
}

std::string machine_help() {
  return "Supported machines are:\n"
         "microvm              no firmware, virtio-mmio, hardware-reduced ACPI\n"
         "pc                   Standard PC (i440FX + PIIX), PCI (default)\n" +
         table_of("pc").help() + table_of("microvm").help();
}

}  // namespace ostler::machine
