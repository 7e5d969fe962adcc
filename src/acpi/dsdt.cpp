// The differentiated system description table: what Linux cannot discover by itself. Device names follow the
// field's habits (PCI0, LNKA, COM1…), hardware ids are those of the ACPI registry.

#include <fmt/format.h>

#include "acpi/aml.h"
#include "acpi/table_writer.h"
#include "acpi/tables.h"

namespace ostler::acpi {
namespace {

using namespace aml;

constexpr unsigned kPciSlots = 32, kPins = 4;
constexpr const char* kLinkNames[kPins] = {"LNKA", "LNKB", "LNKC", "LNKD"};
constexpr const char* kRouteNames[kPins] = {"PRQ0", "PRQ1", "PRQ2", "PRQ3"};

Term hid(std::string_view id) {
  return name("_HID", eisa_id(id));
}

// INTx of slot s, pin p is wire (s + p) mod 4, the common swizzle, shifted so that slot 1 INTA is wire 0.
unsigned wire_of(unsigned slot, unsigned pin) {
  return (slot + pin + kPins - 1) % kPins;
}

Term routing_table(bool links, unsigned first_gsi) {
  std::vector<Term> entries;
  for (unsigned slot = 0; slot < kPciSlots; ++slot)
    for (unsigned pin = 0; pin < kPins; ++pin) {
      const unsigned wire = wire_of(slot, pin);
      entries.push_back(package({integer(slot << 16 | 0xffff), integer(pin),
                                 links ? path(fmt::format("\\_SB.{}", kLinkNames[wire])) : integer(0),
                                 links ? integer(0) : integer(first_gsi + wire)}));
    }
  return package(entries);
}

// Interrupt link devices over the PIIX3's PIRQ registers, for guests that stay with the 8259.
Term link_devices() {
  constexpr uint64_t kDisabled = 0x80, kPresentEnabled = 0x0b, kPresentDisabled = 0x09;
  Term all;
  for (unsigned i = 0; i < kPins; ++i) {
    const Term route = path(fmt::format("\\_SB.PCI0.ISA.{}", kRouteNames[i]));
    Term body = block({
        hid("PNP0C0F"),
        name("_UID", integer(i + 1)),
        name("_PRS", resources({irq_extended({5, 10, 11}, Trigger::kLevelHigh, true)})),
        method("_STA", 0, false,
               block({if_(and_(route, integer(kDisabled)), return_(integer(kPresentDisabled))),
                      return_(integer(kPresentEnabled))})),
        method("_DIS", 0, false, store(or_(route, integer(kDisabled)), route)),
        // The IRQ number is the dword at offset 5 of the extended interrupt descriptor.
        method("_CRS", 0, true,
               block({name("BUF0", resources({irq_extended({0}, Trigger::kLevelHigh, true)})),
                      create_dword_field(path("BUF0"), 5, "IRQN"),
                      store(and_(route, integer(15)), path("IRQN")), return_(path("BUF0"))})),
        method("_SRS", 1, true, block({create_dword_field(arg(0), 5, "IRQN"), store(path("IRQN"), route)})),
    });
    append(all, device(kLinkNames[i], body));
  }
  return all;
}

Term pci_host(const Description& machine) {
  const auto& pci = *machine.pci;
  Term windows = block(
      {bus_numbers(0, 255), io_ports(0xcf8, 0xcf8, 1, 8), io_window(0, 0xcf7), io_window(0xd00, 0xffff)});
  if (!pci.memory32.empty())
    append(windows, memory_window32(static_cast<uint32_t>(pci.memory32.first),
                                    static_cast<uint32_t>(pci.memory32.last), false));
  if (!pci.memory64.empty()) append(windows, memory_window64(pci.memory64.first, pci.memory64.last, true));

  Term body =
      block({hid(pci.ecam ? "PNP0A08" : "PNP0A03"), name("_UID", integer(0)), name("_BBN", integer(0)),
             name("_CRS", resources(windows)), name("PRTA", routing_table(false, pci.first_gsi))});
  if (pci.ecam) append(body, name("_CID", eisa_id("PNP0A03")));
  if (pci.piix_links) {
    append(body, name("PRTP", routing_table(true, 0)));
    append(body, method("_PRT", 0, false,
                        block({if_(path("\\PICF"), return_(path("PRTA"))), return_(path("PRTP"))})));
    append(body, device("ISA", block({name("_ADR", integer(0x00010000)),
                                      operation_region("PRQR", RegionSpace::kPciConfig, 0x60, 4),
                                      field("PRQR", FieldAccess::kByte,
                                            {{"PRQ0", 8}, {"PRQ1", 8}, {"PRQ2", 8}, {"PRQ3", 8}})})));
  } else {
    append(body, method("_PRT", 0, false, return_(path("PRTA"))));
  }
  return device("PCI0", body);
}

Term legacy_devices(const Description& machine) {
  Term all;
  if (machine.has_rtc)
    append(all, device("RTC", block({hid("PNP0B00"),
                                     name("_CRS", resources({io_ports(0x70, 0x70, 1, 8), irq_isa(8)}))})));
  if (machine.has_8042) {
    append(all, device("KBD", block({hid("PNP0303"),
                                     name("_CRS", resources({io_ports(0x60, 0x60, 1, 1),
                                                             io_ports(0x64, 0x64, 1, 1), irq_isa(1)}))})));
    append(all, device("MOU", block({hid("PNP0F13"), name("_CRS", resources({irq_isa(12)}))})));
  }
  for (size_t i = 0; i < machine.serial.size(); ++i) {
    const auto& serial = machine.serial[i];
    append(all, device(fmt::format("COM{}", i + 1),
                       block({hid("PNP0501"), name("_UID", integer(i + 1)),
                              name("_CRS", resources({io_ports(serial.port, serial.port, 1, 8),
                                                      irq_isa(serial.irq)}))})));
  }
  if (machine.hpet)
    append(all,
           device("HPET", block({hid("PNP0103"), name("_UID", integer(0)),
                                 name("_CRS", resources({memory32_fixed(*machine.hpet, 0x400, false)}))})));
  if (machine.fw_cfg_port)
    append(all, device("FWCF", block({name("_HID", string("QEMU0002")), name("_STA", integer(0x0b)),
                                      name("_CRS", resources({io_ports(*machine.fw_cfg_port,
                                                                       *machine.fw_cfg_port, 1, 12)}))})));
  return all;
}

Term virtio_mmio_devices(const Description& machine) {
  Term all;
  for (size_t i = 0; i < machine.virtio_mmio.size(); ++i) {
    const VirtioMmio& slot = machine.virtio_mmio[i];
    append(all,
           device(fmt::format("VR{:02X}", i),
                  block({name("_HID", string("LNRO0005")), name("_UID", integer(i)), name("_CCA", integer(1)),
                         name("_CRS", resources({memory32_fixed(slot.base, slot.size, true),
                                                 irq_extended({slot.gsi}, Trigger::kLevelHigh, false)}))})));
  }
  return all;
}

// The generic event device (ACPI 6.5 §5.6.9) with a power button as a control-method device.
Term event_device(const ReducedHardware& hardware) {
  return block({
      device("PWRB", block({hid("PNP0C0C"), name("_UID", integer(0))})),
      device("GED",
             block({name("_HID", string("ACPI0013")), name("_UID", integer(0)),
                    name("_CRS", resources({irq_extended({hardware.ged_gsi}, Trigger::kEdgeHigh, false)})),
                    operation_region("EREG", RegionSpace::kSystemMemory, hardware.ged_base, 4),
                    field("EREG", FieldAccess::kDword, {{"ESEL", 32}}),
                    method("_EVT", 1, true,
                           block({store(path("ESEL"), local(0)),
                                  if_(and_(local(0), integer(1)), notify("\\_SB.PWRB", 0x80))}))})),
  });
}

}  // namespace

std::vector<uint8_t> build_dsdt(const Description& machine) {
  Term body;
  // \_PIC tells which interrupt model the guest uses; only the PIIX links need to know.
  append(body, name("PICF", integer(0)));
  append(body, method("_PIC", 1, false, store(arg(0), path("PICF"))));
  append(body,
         name("\\_S5", package({integer(machine.reduced ? 5 : 0), integer(0), integer(0), integer(0)})));

  Term bus;
  if (machine.pci) append(bus, pci_host(machine));
  if (machine.pci && machine.pci->piix_links) append(bus, link_devices());
  append(bus, legacy_devices(machine));
  append(bus, virtio_mmio_devices(machine));
  if (machine.reduced) append(bus, event_device(*machine.reduced));
  append(body, scope("\\_SB", bus));

  TableWriter table("DSDT", 2);
  table.bytes(body);
  return table.finish();
}

}  // namespace ostler::acpi
