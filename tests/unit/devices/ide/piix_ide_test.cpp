// The PCI function around the channels.
#include "devices/ide/piix_ide.h"

#include "fixture.h"
#include "unit/devices/pci/fixture.h"

namespace ostler::ide::test {
namespace {

class Piix : public pci::test::BusTest {
 protected:
  static constexpr uint8_t kDevfn = 9;

  void SetUp() override {
    const auto added = bus.add(function, pci::Address{1, 1});
    // Function 1 needs a function 0.
    if (!added) {
      ASSERT_TRUE(bus.add(bridge, pci::Address{1, 0}, true));
      ASSERT_TRUE(bus.add(function, pci::Address{1, 1}));
    }
  }
  std::unique_ptr<Drive> make() { return std::make_unique<AtaDisk>(disk, Options{}); }
  uint64_t status() { return function->channel(0).command_ports().io_read(7, 1); }

  chipset::FakeIrqs irqs;
  std::shared_ptr<MemoryDisk> disk = std::make_shared<MemoryDisk>(512 * 64);
  std::shared_ptr<pci::Function> bridge =
      std::make_shared<pci::Function>("bridge", pci::Identity{.vendor = 0x8086, .device = 1});
  std::shared_ptr<PiixIde> function =
      std::make_shared<PiixIde>(memory, bus::IrqLine(irqs, 14), bus::IrqLine(irqs, 15));
};

TEST_F(Piix, IsAnIdeControllerOfThePc) {
  EXPECT_EQ(bus.config_read(kDevfn, 0, 4), 0x70108086u);
  EXPECT_EQ(bus.config_read(kDevfn, 8, 4) >> 8, 0x010180u);
}

// Those that only a command looks at: neither data nor device, status nor command.
TEST_F(Piix, RegistersOfTheNextCommandMayBeWrittenLate) {
  const auto* late = dynamic_cast<const bus::LateWrites*>(&function->channel(1).command_ports());
  ASSERT_NE(late, nullptr);
  ASSERT_EQ(late->late_writes().size(), 1u);
  EXPECT_EQ(late->late_writes()[0].offset, 1u);
  EXPECT_EQ(late->late_writes()[0].size, 5u);
}

TEST_F(Piix, PortsAnswerOnceTheyAreDecoded) {
  ASSERT_TRUE(function->attach(make(), "ide.0", 0));
  EXPECT_EQ(status(), 0xffu);
  bus.config_write(kDevfn, 0x40, 2, 0x8000);
  EXPECT_EQ(status(), 0xffu);
  bus.config_write(kDevfn, 4, 2, 1);
  EXPECT_EQ(status(), 0x50u);
}

TEST_F(Piix, PresetIsWhatFirmwareWouldDo) {
  ASSERT_TRUE(function->attach(make(), "ide.0", 0));
  function->preset();
  EXPECT_EQ(status(), 0x50u);
  bus.config_write(kDevfn, 4, 2, 0);
  bus.reset();
  EXPECT_EQ(status(), 0x50u);
}

TEST_F(Piix, BusMasterIsInBar4) {
  bus.config_write(kDevfn, 0x20, 4, 0xffffffff);
  EXPECT_EQ(bus.config_read(kDevfn, 0x20, 4), 0xfffffff1u);
  bus.config_write(kDevfn, 0x20, 4, 0xc000);
  bus.config_write(kDevfn, 4, 2, 5);
  memory::AddressSpace::Reader(ports).write(GuestPhys{0xc00c}, 4, 0x12345678);
  EXPECT_EQ(in(0xc00c), 0x12345678u);
  EXPECT_EQ(in(0xc004), 0u) << "the other channel's";
}

TEST_F(Piix, DrivesTakeTheFirstFreePlace) {
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(function->attach(make(), "", 2));
  EXPECT_TRUE(function->channel(1).has(1));
  EXPECT_FALSE(function->attach(make(), "", 2));
}

TEST_F(Piix, PlacesThatAreTakenOrAbsentAreExplained) {
  ASSERT_TRUE(function->attach(make(), "ide.1", 1));
  EXPECT_FALSE(function->channel(1).has(0));
  EXPECT_EQ(function->attach(make(), "ide.1", 1).error().message(),
            "unit 1 of the bus 'ide.1' is taken by another drive");
  EXPECT_EQ(function->attach(make(), "scsi.0", 0).error().message(),
            "there is no IDE bus 'scsi.0'; known are ide.0, ide.1");
  ASSERT_TRUE(function->attach(make(), "ide.1", 2));
  EXPECT_EQ(function->attach(make(), "ide.1", 2).error().message(), "the bus 'ide.1' has no free place");
}

}  // namespace
}  // namespace ostler::ide::test
