#include "machine/settled_properties.h"

#include <fmt/format.h>

#include <string>

namespace ostler::machine {
namespace {

using Property = config::Property<MachineProperties>;

// `words`: those of on, off and auto that say what is so anyway, the usual one first.
Property settled(std::string name, std::vector<std::string> words, std::string fact) {
  std::vector<std::string> all = words;
  for (const std::string& word : words) {
    if (word == "on") all.insert(all.end(), {"yes", "true"});
    if (word == "off") all.insert(all.end(), {"no", "false"});
  }
  const std::string cure = fmt::format("{}; say {}={}, or leave it out", fact, name, words.front());
  Property property =
      config::settled<MachineProperties>(std::move(name), std::move(all), cure, std::move(fact));
  property.info.type = fmt::format("{}", fmt::join(words, "|"));
  return property;
}

std::vector<Property> of_both() {
  return {
      settled("usb", {"off"}, "there is no USB controller"),
      settled("graphics", {"off"}, "there is no graphics card"),
      settled("smm", {"auto", "off"}, "there is no system management mode"),
      settled("hmat", {"off"}, "there is no table of heterogeneous memory"),
      settled("suppress-vmdesc", {"off", "on"}, "a saved machine has no description in JSON"),
  };
}

}  // namespace

std::vector<Property> settled_of_pc() {
  std::vector<Property> all = of_both();
  all.push_back(settled("vmport", {"auto", "off"}, "there is no VMware port"));
  all.push_back(settled("nvdimm", {"off"}, "there is no persistent memory"));
  all.push_back(settled("smbus", {"off"}, "there is no SMBus"));
  all.push_back(settled("sata", {"on", "off"}, "it changes nothing: there is IDE"));
  all.push_back(settled("default-bus-bypass-iommu", {"off"}, "there is no IOMMU"));
  all.push_back(settled("i8042", {"on"}, "the keyboard controller is always there"));
  all.push_back(settled("pit", {"auto", "on"}, "the 8254 is always there"));
  all.push_back(settled("pic", {"auto", "on"}, "the 8259 is always there"));
  return all;
}

std::vector<Property> settled_of_microvm() {
  std::vector<Property> all = of_both();
  all.push_back(settled("acpi", {"auto", "on"}, "the guest finds its devices by ACPI"));
  all.push_back(settled("pit", {"auto", "off"}, "there is no 8254"));
  all.push_back(settled("pic", {"auto", "off"}, "there is no 8259"));
  all.push_back(settled("rtc", {"auto", "off"}, "there is no clock chip: guests take the time by kvmclock"));
  all.push_back(settled("ioapic2", {"auto", "off"}, "there is one I/O APIC"));
  all.push_back(settled("isa-serial", {"on"}, "-serial none leaves the serial port out"));
  all.push_back(settled("x-option-roms", {"off", "on"}, "there is no firmware that would look for them"));
  return all;
}

}  // namespace ostler::machine
