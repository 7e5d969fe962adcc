#include "machine/properties.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "config/property.h"
#include "machine/settled_properties.h"

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

std::vector<config::Property<MachineProperties>> joined(
    std::vector<config::Property<MachineProperties>> some,
    std::vector<config::Property<MachineProperties>> others) {
  for (auto& other : others) some.push_back(std::move(other));
  return some;
}

const Table& table_of(const std::string& type) {
  using config::boolean, config::on_off_auto;
  // What can be chosen comes first: a mistyped name means it rather than what is settled.
  static const Table pc(
      "-machine pc",
      joined(
          with({on_off_auto("acpi", &MachineProperties::acpi,
                            "off: no ACPI tables, by which a guest finds its further vCPUs and how to power "
                            "off"),
                boolean("hpet", &MachineProperties::hpet, "the high precision event timer")}),
          settled_of_pc()));
  static const Table microvm(
      "-machine microvm",
      joined(with({on_off_auto("pcie", &MachineProperties::pcie, "a PCI bus with ECAM; auto: off"),
                   boolean("auto-kernel-cmdline", &MachineProperties::kernel_options,
                           std::string("words before -append that let a Linux start sooner: ") +
                               kMicrovmKernelOptions)}),
             settled_of_microvm()));
  return type == "microvm" ? microvm : pc;
}

// Properties of QEMU's machines that these have in no form: why, and what to do. Empty: not QEMU's either.
std::string_view why_not(std::string_view key) {
  constexpr std::pair<std::string_view, std::string_view> kReasons[] = {
      {"max-ram-below-4g", "up to 3 GiB of memory lie below 4 GiB; leave it out"},
      {"memory-encryption", "guest memory is not encrypted in this version; leave it out"},
      {"confidential-guest-support", "guest memory is not encrypted in this version; leave it out"},
      {"sgx-epc", "guests have no SGX in this version; leave it out"},
      {"smbios-entry-point-type", "it is the one of 64 bits; leave it out"},
      {"x-oem-id", "the names in ACPI tables are fixed; leave it out"},
      {"x-oem-table-id", "the names in ACPI tables are fixed; leave it out"},
      {"firmware", "there is no firmware in this version; -kernel starts a guest"},
      {"max-fw-size", "there is no firmware in this version; leave it out"},
      {"dtb", "guests find their devices by PCI and ACPI; leave it out"},
      {"bus-lock-ratelimit", "locks of the bus are not counted in this version; leave it out"},
  };
  for (const auto& [name, reason] : kReasons)
    if (name == key) return reason;
  if (key.starts_with("smp.") || key == "smp") return "-smp says this";
  if (key.starts_with("memory.") || key == "memory") return "-m says this";
  return {};
}

}  // namespace

Result<MachineProperties> machine_properties(const config::Machine& config) {
  const Table& table = table_of(config.type);
  for (const config::KeyValue& each : config.machine_properties)
    if (const std::string_view reason = why_not(each.key); !reason.empty() && table.find(each.key) == nullptr)
      return Error(ErrorKind::kUnsupported,
                   fmt::format("-machine {}: {}: {}", config.type, each.key, reason));
  auto parsed = table.parse(config.machine_properties);
  if (parsed) return parsed;
  const bool all_known = std::ranges::all_of(config.machine_properties, [&](const config::KeyValue& each) {
    return table.find(each.key) != nullptr;
  });
  if (all_known) return parsed;
  return Error(parsed.error().kind(),
               fmt::format("{} (-machine {},help lists all)", parsed.error().message(), config.type));
}

std::string machine_help(const std::string& type) {
  if (!type.empty()) return table_of(type).help();
  return "Supported machines are:\n"
         "microvm              no firmware, virtio-mmio, hardware-reduced ACPI\n"
         "pc                   Standard PC (i440FX + PIIX), PCI (default); pc-i440fx-N.M is the same\n" +
         table_of("pc").help() + table_of("microvm").help();
}

}  // namespace ostler::machine
