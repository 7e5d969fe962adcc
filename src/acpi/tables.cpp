#include "acpi/tables.h"

#include <algorithm>

#include "acpi/table_writer.h"
#include "base/bytes.h"

namespace ostler::acpi {
namespace {

constexpr uint8_t kSpaceMemory = 0, kSpaceIo = 1;

Bytes build_facs() {
  Bytes facs(64);
  std::copy_n("FACS", 4, facs.begin());
  store_le(&facs[4], uint32_t{64});
  facs[32] = 2;  // version
  return facs;
}

// FADT revision 5 (ACPI 5.0), 268 bytes: §5.2.9.
Bytes build_fadt(const Description& machine, uint32_t facs, uint32_t dsdt) {
  constexpr uint32_t kWbinvd = 1u << 0, kProcC1 = 1u << 2, kSleepButtonAbsent = 1u << 5, kRtcAbsent = 1u << 6,
                     kResetRegister = 1u << 10, kPowerButtonAbsent = 1u << 4, kHeadless = 1u << 12,
                     kHardwareReduced = 1u << 20;
  constexpr uint16_t kLegacyDevices = 1, k8042 = 2, kNoVga = 4, kNoMsi = 8, kNoAspm = 16, kNoCmosRtc = 32;
  const bool reduced = machine.reduced.has_value();
  const FixedHardware fixed = machine.fixed.value_or(FixedHardware{});
  const bool has_fixed = machine.fixed.has_value();

  uint32_t flags = kWbinvd | kProcC1 | kSleepButtonAbsent | kHeadless;
  if (reduced) flags |= kHardwareReduced | kPowerButtonAbsent;
  if (reduced || !machine.has_rtc) flags |= kRtcAbsent;
  if (machine.reset_port || reduced) flags |= kResetRegister;
  uint16_t boot = kNoVga | kNoAspm;
  if (!machine.serial.empty() || machine.has_rtc) boot |= kLegacyDevices;
  if (machine.has_8042) boot |= k8042;
  if (!machine.has_rtc) boot |= kNoCmosRtc;  // or Linux waits two seconds for one
  if (!machine.pci) boot |= kNoMsi;

  const auto port = [&](uint16_t value) { return has_fixed ? value : uint16_t{0}; };
  TableWriter t("FACP", 5);
  t.u32(reduced ? 0 : facs).u32(dsdt).u8(0).u8(0);
  t.u16(has_fixed ? fixed.sci : 0);
  t.u32(port(fixed.smi_command))
      .u8(has_fixed ? fixed.acpi_enable : 0)
      .u8(has_fixed ? fixed.acpi_disable : 0)
      .u8(0)
      .u8(0);
  t.u32(port(fixed.pm1_event)).u32(0).u32(port(fixed.pm1_control)).u32(0).u32(0).u32(port(fixed.pm_timer));
  t.u32(port(fixed.gpe0)).u32(0);
  t.u8(has_fixed ? 4 : 0)
      .u8(has_fixed ? 2 : 0)
      .u8(0)
      .u8(has_fixed ? 4 : 0)
      .u8(has_fixed ? fixed.gpe0_length : 0)
      .u8(0)
      .u8(0)
      .u8(0);
  t.u16(0xfff).u16(0xfff).u16(0).u16(0).u8(0).u8(0);  // no C2, no C3, no cache flush by reading
  t.u8(0).u8(0).u8(machine.has_rtc ? 0x32 : 0);       // day alarm, month alarm, century in CMOS
  t.u16(boot).u8(0).u32(flags);
  if (machine.reset_port)
    t.address(kSpaceIo, 8, 1, *machine.reset_port).u8(6);
  else if (reduced)
    t.address(kSpaceMemory, 8, 1, machine.reduced->sleep_base + 2).u8(1);
  else
    t.address(kSpaceMemory, 0, 1, 0).u8(0);
  t.u16(0).u8(1);  // ARM boot flags, minor version
  t.u64(0);        // X_FIRMWARE_CTRL: the 32-bit one is used
  t.u64(dsdt);
  const auto io = [&](unsigned bits, unsigned wide, uint16_t where) {
    if (has_fixed && where != 0)
      t.address(kSpaceIo, bits, wide, where);
    else
      t.address(kSpaceIo, 0, 1, 0);
  };
  io(32, 2, fixed.pm1_event);
  io(0, 1, 0);
  io(16, 2, fixed.pm1_control);
  io(0, 1, 0);
  io(0, 1, 0);
  io(32, 4, fixed.pm_timer);
  io(fixed.gpe0_length * 8u, 1, fixed.gpe0);
  io(0, 1, 0);
  if (reduced) {
    t.address(kSpaceMemory, 8, 1, machine.reduced->sleep_base);
    t.address(kSpaceMemory, 8, 1, machine.reduced->sleep_base + 1);
  } else {
    t.zeros(24);
  }
  return t.finish();
}

Bytes build_madt(const Description& machine) {
  constexpr uint32_t kPcatCompatible = 1, kEnabled = 1;
  constexpr uint32_t kFirstX2ApicOnly = 255;
  constexpr uint8_t kActiveHighEdge = 0x05, kActiveHighLevel = 0x0d;
  TableWriter t("APIC", 3);
  t.u32(machine.local_apic).u32(machine.has_8259 ? kPcatCompatible : 0);
  for (size_t i = 0; i < machine.apic_ids.size(); ++i) {
    const uint32_t id = machine.apic_ids[i];
    if (id < kFirstX2ApicOnly)
      t.u8(0).u8(8).u8(i).u8(id).u32(kEnabled);
    else
      t.u8(9).u8(16).u16(0).u32(id).u32(kEnabled).u32(i);
  }
  t.u8(1).u8(12).u8(machine.io_apic_id).u8(0).u32(machine.io_apic).u32(0);
  const auto override_irq = [&](uint8_t irq, uint32_t gsi, uint16_t flags) {
    t.u8(2).u8(10).u8(0).u8(irq).u32(gsi).u16(flags);
  };
  if (machine.has_8259) override_irq(0, 2, kActiveHighEdge);  // the timer's wire goes to pin 2
  if (machine.fixed) override_irq(machine.fixed->sci, machine.fixed->sci, kActiveHighLevel);
  t.u8(4).u8(6).u8(0xff).u16(0).u8(1);  // NMI on LINT1 of every local APIC
  return t.finish();
}

Bytes build_hpet(uint32_t base) {
  TableWriter t("HPET", 1);
  t.u32(0x8086a201).address(kSpaceMemory, 64, 1, base);
  t.u8(0).u16(0).u8(0);
  Bytes table = t.finish();
  return table;
}

Bytes build_mcfg(uint64_t ecam) {
  TableWriter t("MCFG", 1);
  t.zeros(8).u64(ecam).u16(0).u8(0).u8(255).u32(0);
  return t.finish();
}

// System Resource Affinity Table: §5.2.16.
Bytes build_srat(const Description& machine) {
  constexpr uint32_t kEnabled = 1;
  constexpr uint32_t kFirstX2ApicOnly = 255;
  TableWriter t("SRAT", 3);
  t.u32(1).zeros(8);
  for (size_t i = 0; i < machine.apic_ids.size() && i < machine.numa.node_of.size(); ++i) {
    const uint32_t id = machine.apic_ids[i], node = machine.numa.node_of[i];
    if (id < kFirstX2ApicOnly)
      t.u8(0).u8(16).u8(node & 0xff).u8(id).u32(kEnabled).u8(0).u8(node >> 8).u16(node >> 16).u32(0);
    else
      t.u8(2).u8(24).u16(0).u32(node).u32(id).u32(kEnabled).u32(0).u32(0);
  }
  for (const Numa::Memory& each : machine.numa.memory)
    t.u8(1).u8(40).u32(each.node).u16(0).u64(each.base).u64(each.size).u32(0).u32(kEnabled).u64(0);
  return t.finish();
}

// System Locality Information Table: §5.2.17.
Bytes build_slit(const Numa& numa) {
  TableWriter t("SLIT", 1);
  t.u64(numa.nodes).bytes(numa.distances);
  return t.finish();
}

}  // namespace

Tables build_tables(const Description& machine, GuestPhys address) {
  Tables out{address, {}, {}};
  const auto add = [&](const Bytes& table) {
    out.bytes.resize(align_up(out.bytes.size(), 64));
    const auto at = static_cast<uint32_t>(address.value + out.bytes.size());
    out.bytes.insert(out.bytes.end(), table.begin(), table.end());
    return at;
  };
  const uint32_t facs = add(build_facs());
  const uint32_t dsdt = add(build_dsdt(machine));
  std::vector<uint32_t> listed;
  listed.push_back(add(build_fadt(machine, facs, dsdt)));
  listed.push_back(add(build_madt(machine)));
  if (machine.hpet) listed.push_back(add(build_hpet(*machine.hpet)));
  if (machine.pci && machine.pci->ecam) listed.push_back(add(build_mcfg(*machine.pci->ecam)));
  if (machine.numa.nodes != 0) listed.push_back(add(build_srat(machine)));
  if (!machine.numa.distances.empty()) listed.push_back(add(build_slit(machine.numa)));
  TableWriter rsdt("RSDT", 1), xsdt("XSDT", 1);
  for (const uint32_t table : listed) {
    rsdt.u32(table);
    xsdt.u64(table);
  }
  const uint32_t rsdt_at = add(rsdt.finish());
  const uint32_t xsdt_at = add(xsdt.finish());

  out.rsdp.assign(36, 0);
  std::copy_n("RSD PTR ", 8, out.rsdp.begin());
  std::copy_n("OSTLER", 6, out.rsdp.begin() + 9);
  out.rsdp[15] = 2;
  store_le(&out.rsdp[16], rsdt_at);
  store_le(&out.rsdp[20], uint32_t{36});
  store_le(&out.rsdp[24], uint64_t{xsdt_at});
  out.rsdp[8] = checksum(out.rsdp.data(), 20);
  out.rsdp[32] = checksum(out.rsdp.data(), 36);
  return out;
}

}  // namespace ostler::acpi
