#include "acpi/tables.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <sstream>
#include <string>

#include "acpi/aml.h"
#include "acpi/smbios.h"
#include "base/bytes.h"

namespace ostler::acpi {
namespace {

Description pc(unsigned cpus) {
  Description machine;
  machine.apic_ids.resize(cpus);
  std::iota(machine.apic_ids.begin(), machine.apic_ids.end(), 0);
  machine.hpet = 0xfed00000;
  machine.fixed = FixedHardware{.pm1_event = 0x600, .pm1_control = 0x604, .pm_timer = 0x608, .gpe0 = 0xafe0};
  machine.reset_port = 0xcf9;
  machine.serial = {{0x3f8, 4}, {0x2f8, 3}};
  machine.fw_cfg_port = 0x510;
  machine.pci = Description::Pci{.memory32 = {0xc0000000, 0xfebfffff},
                                 .memory64 = {0x8000000000, 0xbfffffffff},
                                 .ecam = {},
                                 .first_gsi = 16,
                                 .piix_links = true};
  return machine;
}

Description microvm() {
  Description machine;
  machine.apic_ids = {0, 1};
  machine.has_8259 = machine.has_8042 = machine.has_rtc = false;
  machine.reduced = ReducedHardware{.ged_base = 0xfea00000, .ged_gsi = 9, .sleep_base = 0xfea00100};
  machine.serial = {{0x3f8, 4}};
  for (uint32_t i = 0; i < 8; ++i) machine.virtio_mmio.push_back({0xfeb00000 + i * 512, 512, 16 + i});
  return machine;
}

uint8_t sum(std::span<const uint8_t> bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), uint8_t{0});
}

std::string file_text(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// Disassembles the table with iasl and compiles it again. Empty when neither step complains, else what iasl
// said.
std::string iasl(const std::vector<uint8_t>& table, const std::string& name) {
  const auto folder =
      std::filesystem::temp_directory_path() / ("ostler-iasl-" + name + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "t.aml", std::ios::binary)
      .write(reinterpret_cast<const char*>(table.data()), static_cast<std::streamsize>(table.size()));
  const std::string command =
      "cd '" + folder.string() + "' && iasl -d t.aml >d.log 2>&1 && iasl -vr t.dsl >c.log 2>&1";
  const int status = std::system(command.c_str());
  const std::string disassembly = file_text(folder / "d.log"), compilation = file_text(folder / "c.log");
  std::filesystem::remove_all(folder);
  const bool clean = status == 0 && disassembly.find("Warning") == std::string::npos &&
                     disassembly.find("Error") == std::string::npos &&
                     compilation.find("0 Errors, 0 Warnings") != std::string::npos;
  return clean ? "" : disassembly + compilation;
}

std::vector<std::vector<uint8_t>> split(const Tables& tables) {
  std::vector<std::vector<uint8_t>> all;
  for (size_t at = 0; at + 8 <= tables.bytes.size();) {
    const auto length = load_le<uint32_t>(&tables.bytes[at + 4]);
    all.emplace_back(tables.bytes.begin() + static_cast<std::ptrdiff_t>(at),
                     tables.bytes.begin() + static_cast<std::ptrdiff_t>(at + length));
    at = align_up(at + length, 64);
  }
  return all;
}

TEST(AcpiTables, IaslAcceptsEveryPcTableWithoutWarning) {
  for (const auto& table : split(build_tables(pc(4), {0x3ff0000}))) {
    const std::string name(table.begin(), table.begin() + 4);
    EXPECT_EQ(iasl(table, name), "") << name;
  }
}

TEST(AcpiTables, IaslAcceptsEveryMicrovmTableWithoutWarning) {
  for (const auto& table : split(build_tables(microvm(), {0x3ff0000}))) {
    const std::string name(table.begin(), table.begin() + 4);
    EXPECT_EQ(iasl(table, name), "") << name;
  }
}

Description with_nodes(Description machine) {
  const auto cpus = static_cast<unsigned>(machine.apic_ids.size());
  machine.numa.nodes = 2;
  for (unsigned i = 0; i < cpus; ++i) machine.numa.node_of.push_back(i < cpus / 2 ? 0 : 1);
  machine.numa.memory = {{0, 0, 0x40000000}, {1, 0x40000000, 0x40000000}, {1, 0x100000000, 0x80000000}};
  machine.numa.distances = {10, 21, 31, 10};
  return machine;
}

TEST(AcpiTables, IaslAcceptsTheTablesOfNodesWithoutWarning) {
  Description machine = with_nodes(pc(4));
  machine.apic_ids[3] = 300;
  std::string names;
  for (const auto& table : split(build_tables(machine, {0x3ff0000}))) {
    const std::string name(table.begin(), table.begin() + 4);
    EXPECT_EQ(iasl(table, name), "") << name;
    names += name + " ";
  }
  EXPECT_NE(names.find("SRAT SLIT"), std::string::npos) << names;
}

TEST(AcpiTables, ASratTellsTheNodesOfProcessorsAndMemory) {
  Description machine = with_nodes(pc(2));
  machine.apic_ids[1] = 300;
  for (const auto& table : split(build_tables(machine, {0x3ff0000}))) {
    const std::string name(table.begin(), table.begin() + 4);
    if (name == "SLIT") {
      EXPECT_EQ(load_le<uint64_t>(&table[36]), 2u);
      EXPECT_EQ((std::vector<uint8_t>(table.begin() + 44, table.end())), machine.numa.distances);
    }
    if (name != "SRAT") continue;
    EXPECT_EQ(table[48], 0);  // a local APIC
    EXPECT_EQ(table[50], 0);  // its node
    EXPECT_EQ(table[64], 2);  // an x2APIC
    EXPECT_EQ(load_le<uint32_t>(&table[68]), 1u);
    EXPECT_EQ(load_le<uint32_t>(&table[72]), 300u);
    EXPECT_EQ(table[88 + 80], 1);  // the third range of memory
    EXPECT_EQ(load_le<uint32_t>(&table[88 + 82]), 1u);
    EXPECT_EQ(load_le<uint64_t>(&table[88 + 88]), 0x100000000u);
    EXPECT_EQ(load_le<uint64_t>(&table[88 + 96]), 0x80000000u);
  }
}

TEST(AcpiTables, WithoutNodesTheGuestIsToldOfNone) {
  for (const auto& table : split(build_tables(pc(2), {0x3ff0000}))) {
    const std::string name(table.begin(), table.begin() + 4);
    EXPECT_TRUE(name != "SRAT" && name != "SLIT");
  }
}

TEST(AcpiTables, EveryChecksumIsZero) {
  const Tables tables = build_tables(with_nodes(pc(64)), {0x3ff0000});
  for (const auto& table : split(tables)) {
    if (std::string(table.begin(), table.begin() + 4) == "FACS") continue;  // has none
    EXPECT_EQ(sum(table), 0) << std::string(table.begin(), table.begin() + 4);
  }
  EXPECT_EQ(sum(std::span(tables.rsdp).first(20)), 0);
  EXPECT_EQ(sum(tables.rsdp), 0);
}

TEST(AcpiTables, SixtyFourCpusFitTheirArea) {
  Description machine = with_nodes(pc(64));
  machine.numa.nodes = 128;
  machine.numa.memory.resize(129);
  machine.numa.distances.assign(size_t{128} * 128, 20);
  EXPECT_LT(build_tables(machine, {0x3ff0000}).bytes.size(), 64u * 1024);
}

TEST(AcpiTables, RsdpLeadsToXsdtAndFadtToDsdt) {
  constexpr uint64_t kAt = 0x3ff0000;
  const Tables tables = build_tables(pc(1), {kAt});
  const uint64_t xsdt = load_le<uint64_t>(&tables.rsdp[24]) - kAt;
  ASSERT_EQ(std::memcmp(&tables.bytes[xsdt], "XSDT", 4), 0);
  const uint64_t fadt = load_le<uint64_t>(&tables.bytes[xsdt + 36]) - kAt;
  ASSERT_EQ(std::memcmp(&tables.bytes[fadt], "FACP", 4), 0);
  const uint64_t dsdt = load_le<uint32_t>(&tables.bytes[fadt + 40]) - kAt;
  EXPECT_EQ(std::memcmp(&tables.bytes[dsdt], "DSDT", 4), 0);
}

TEST(AcpiTables, GuestsAreToldThatThereIsNoClockChip) {
  // IAPC_BOOT_ARCH, ACPI 6.5 §5.2.9.3.
  const auto boot_flags = [](const Description& machine) {
    for (const auto& table : split(build_tables(machine, {0x3ff0000})))
      if (std::memcmp(table.data(), "FACP", 4) == 0) return load_le<uint16_t>(&table[109]);
    return uint16_t{0};
  };
  EXPECT_EQ(boot_flags(pc(1)) & 32, 0);
  EXPECT_EQ(boot_flags(microvm()) & 32, 32);
}

TEST(AcpiTables, CpusBeyondXapicGetX2ApicEntries) {
  Description machine = pc(1);
  machine.apic_ids = {0, 300};
  const Tables tables = build_tables(machine, {0x3ff0000});
  for (const auto& table : split(tables)) {
    if (std::string(table.begin(), table.begin() + 4) != "APIC") continue;
    EXPECT_EQ(table[44], 0);  // local APIC
    EXPECT_EQ(table[52], 9);  // local x2APIC
    EXPECT_EQ(load_le<uint32_t>(&table[56]), 300u);
  }
}

TEST(Aml, PackageLengthCountsItselfAtEachWidth) {
  EXPECT_EQ(aml::scope("A", aml::Term(10)).at(1), 1 + 4 + 10);
  const aml::Term wide = aml::scope("A", aml::Term(100));
  EXPECT_EQ(wide[1], 0x40 | ((2 + 4 + 100) & 15));
  EXPECT_EQ(wide[2], (2 + 4 + 100) >> 4);
}

TEST(Aml, EisaIdIsCompressedBigEndian) {
  EXPECT_EQ(aml::eisa_id("PNP0A03"), (aml::Term{0x0c, 0x41, 0xd0, 0x0a, 0x03}));
}

TEST(Smbios, EntryPointChecksumAndAddress) {
  const Smbios smbios = build_smbios(
      {.product = "p", .version = "v", .vm_name = "n", .cpus = 2, .cpu_brand = "b", .memory_bytes = 1u << 30},
      {0xf0100});
  EXPECT_EQ(sum(smbios.entry_point), 0);
  EXPECT_EQ(load_le<uint64_t>(&smbios.entry_point[16]), 0xf0100u);
}

TEST(Smbios, StructuresFollowEachOtherToTheEnd) {
  const Smbios smbios = build_smbios(
      {.product = "p", .version = "v", .vm_name = "", .cpus = 3, .cpu_brand = "b", .memory_bytes = 1u << 30},
      {0xf0100});
  std::vector<int> types;
  size_t at = 0;
  while (at + 4 <= smbios.table.size()) {
    types.push_back(smbios.table[at]);
    at += smbios.table[at + 1];
    while (at + 1 < smbios.table.size() && (smbios.table[at] != 0 || smbios.table[at + 1] != 0)) ++at;
    at += 2;
  }
  EXPECT_EQ(at, smbios.table.size());
  EXPECT_EQ(types, (std::vector<int>{0, 1, 3, 4, 4, 4, 16, 17, 19, 32, 127}));
}

}  // namespace
}  // namespace ostler::acpi
