#include "devices/chipset/acpi_pm.h"

#include <gtest/gtest.h>

#include "bench.h"
#include "devices/chipset/acpi_reduced.h"

namespace ostler::chipset {
namespace {

constexpr uint64_t kStatus = 0, kEnable = 2, kControl = 4, kTimer = 8;
constexpr uint16_t kPowerButton = 1 << 8;

struct AcpiPmTest : ::testing::Test {
  Bench bench;
  FakeIrqs irqs;
  FakeRequests requests;
  AcpiPm pm{bench.loop, bus::IrqLine(irqs, 9), requests};

  void write(uint64_t offset, uint16_t value) { pm.pm_ports().io_write(offset, 2, value); }
  uint16_t read(uint64_t offset) { return static_cast<uint16_t>(pm.pm_ports().io_read(offset, 2)); }
  void enable_acpi() { pm.smi_ports().io_write(0, 1, AcpiPm::kAcpiEnable); }
  bool sci() const { return irqs.level(9); }
};

TEST_F(AcpiPmTest, SmiCommandTurnsAcpiOnAndOff) {
  EXPECT_EQ(read(kControl) & 1, 0);
  enable_acpi();
  EXPECT_EQ(read(kControl) & 1, 1);
  pm.smi_ports().io_write(0, 1, AcpiPm::kAcpiDisable);
  EXPECT_EQ(read(kControl) & 1, 0);
}

TEST_F(AcpiPmTest, PowerButtonRaisesSciUntilCleared) {
  enable_acpi();
  write(kEnable, kPowerButton);
  EXPECT_TRUE(pm.press_power_button());
  EXPECT_TRUE(sci());
  EXPECT_EQ(read(kStatus) & kPowerButton, kPowerButton);
  write(kStatus, kPowerButton);
  EXPECT_FALSE(sci());
}

TEST_F(AcpiPmTest, ButtonIsUnheardBeforeAcpiIsOn) {
  write(kEnable, kPowerButton);
  EXPECT_FALSE(pm.press_power_button());
  EXPECT_FALSE(sci());
}

TEST_F(AcpiPmTest, SleepTypeZeroWithEnableIsS5) {
  write(kControl, 0x2001);
  EXPECT_EQ(requests.shutdowns, 1);
  EXPECT_EQ(read(kControl), 1);  // SLP_EN reads as zero
}

TEST_F(AcpiPmTest, OtherSleepTypesDoNothing) {
  write(kControl, 0x2000 | 1 << 10);
  EXPECT_EQ(requests.shutdowns, 0);
}

TEST_F(AcpiPmTest, TimerRunsAtItsFrequency) {
  bench.advance(1'000'000'000);
  EXPECT_EQ(pm.pm_ports().io_read(kTimer, 4), 3'579'545u);
  bench.advance(int64_t{4'000'000'000});
  EXPECT_EQ(pm.pm_ports().io_read(kTimer, 4), 5 * 3'579'545u & 0xffffff);
}

TEST_F(AcpiPmTest, TimerCarryRaisesSci) {
  enable_acpi();
  write(kStatus, 1);
  write(kEnable, 1);
  bench.advance(2'343'000'000);  // 2^23 ticks are 2.3434 s
  EXPECT_FALSE(sci());
  bench.advance(1'000'000);
  EXPECT_TRUE(sci());
  write(kStatus, 1);
  EXPECT_FALSE(sci());
  bench.advance(2'344'000'000);
  EXPECT_TRUE(sci());
}

TEST_F(AcpiPmTest, ByteAccessesReachHalves) {
  pm.pm_ports().io_write(kEnable + 1, 1, 1);
  EXPECT_EQ(read(kEnable), kPowerButton);
  pm.pm_ports().io_write(kEnable, 4, 0xffffffff);
  EXPECT_EQ(read(kEnable), 0x0721);
}

TEST_F(AcpiPmTest, GpeBlock) {
  enable_acpi();
  pm.gpe_ports().io_write(2, 2, 1 << 5);
  pm.raise_gpe(4);
  EXPECT_FALSE(sci());
  pm.raise_gpe(5);
  EXPECT_TRUE(sci());
  EXPECT_EQ(pm.gpe_ports().io_read(0, 4), 0x00200030u);
  pm.gpe_ports().io_write(0, 1, 0x20);
  EXPECT_FALSE(sci());
}

TEST(AcpiReduced, PowerButtonIsAnEventThatReadingClears) {
  FakeIrqs irqs;
  FakeRequests requests;
  AcpiReduced pm(bus::IrqLine(irqs, 5), requests);
  pm.press_power_button();
  EXPECT_EQ(irqs.edges[5], 1u);
  EXPECT_EQ(pm.event_registers().io_read(0, 4), 1u);
  EXPECT_EQ(pm.event_registers().io_read(0, 4), 0u);
}

TEST(AcpiReduced, SleepAndReset) {
  FakeIrqs irqs;
  FakeRequests requests;
  AcpiReduced pm(bus::IrqLine(irqs, 5), requests);
  pm.sleep_registers().io_write(0, 1, 5 << 2);  // no SLP_EN
  EXPECT_EQ(requests.shutdowns, 0);
  pm.sleep_registers().io_write(0, 1, 1 << 5 | 5 << 2);
  EXPECT_EQ(requests.shutdowns, 1);
  pm.sleep_registers().io_write(2, 1, 1);
  EXPECT_EQ(requests.resets, 1);
}

}  // namespace
}  // namespace ostler::chipset
