// The ACPI tables of a machine (ACPI 6.5 §5): described as plain data, produced as bytes at a given address.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "memory/address.h"

namespace ostler::acpi {

struct AddressWindow {
  uint64_t first = 0, last = 0;  // inclusive; last < first: none
  bool empty() const { return last <= first; }
};

struct VirtioMmio {
  uint32_t base = 0;
  uint32_t size = 0;
  uint32_t gsi = 0;
};

// Fixed ACPI hardware of the PIIX4 kind; absent on hardware-reduced machines.
struct FixedHardware {
  uint16_t pm1_event = 0, pm1_control = 0, pm_timer = 0, gpe0 = 0;
  uint8_t gpe0_length = 4;
  uint16_t smi_command = 0xb2;
  uint8_t acpi_enable = 0xf1, acpi_disable = 0xf0;
  uint8_t sci = 9;
};

// Sleep and reset registers and the power-button event of a hardware-reduced machine.
struct ReducedHardware {
  uint32_t ged_base = 0;  // event register: bit 0 = power button pressed, read clears
  uint32_t ged_gsi = 0;
  uint32_t sleep_base = 0;  // sleep control at +0, sleep status at +1, reset at +2
};

// Nodes of processors and memory; nodes == 0: the guest is told of none.
struct Numa {
  struct Memory {
    unsigned node = 0;
    uint64_t base = 0, size = 0;  // bytes
  };
  unsigned nodes = 0;
  std::vector<unsigned> node_of;  // per processor of Description::apic_ids
  std::vector<Memory> memory;
  std::vector<uint8_t> distances;  // nodes * nodes, row by row; empty: not told
};

struct Description {
  std::vector<uint32_t> apic_ids;  // of the vCPUs present at start
  Numa numa;
  uint32_t local_apic = 0xfee00000;
  uint32_t io_apic = 0xfec00000;
  uint8_t io_apic_id = 0;
  bool has_8259 = true;
  bool has_8042 = true;
  bool has_rtc = true;
  std::optional<uint32_t> hpet;
  std::optional<FixedHardware> fixed;
  std::optional<ReducedHardware> reduced;
  std::optional<uint16_t> reset_port;  // written with 6 (0xcf9)
  struct Serial {
    uint16_t port;
    uint8_t irq;
  };
  std::vector<Serial> serial;
  std::optional<uint16_t> fw_cfg_port;
  struct Pci {
    AddressWindow memory32, memory64;
    std::optional<uint64_t> ecam;  // 256 buses
    unsigned first_gsi = 16;       // INTA..INTD of slot 0 are first_gsi + 0..3, swizzled by slot
    bool piix_links = false;       // PIRQ routing registers of the PIIX3 at 00:01.0 for PIC mode
  };
  std::optional<Pci> pci;
  std::vector<VirtioMmio> virtio_mmio;
};

struct Tables {
  GuestPhys address;           // of `bytes`
  std::vector<uint8_t> bytes;  // FACS, DSDT, FADT, MADT, HPET, MCFG, SRAT, SLIT, XSDT, RSDT
  std::vector<uint8_t> rsdp;   // 36 bytes, revision 2, to be placed on a 16-byte boundary
};

// `address` is 64-byte aligned and below 4 GiB.
Tables build_tables(const Description& machine, GuestPhys address);

// The DSDT alone, for iasl in tests.
std::vector<uint8_t> build_dsdt(const Description& machine);

}  // namespace ostler::acpi
