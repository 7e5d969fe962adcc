// Configuration space, BARs, interrupt pins, hot-unplug, and configuration mechanism 1.
#include "devices/pci/bus.h"

#include <gtest/gtest.h>

#include "devices/pci/piix.h"
#include "fixture.h"

namespace ostler::pci {
namespace {

using test::BusTest;
using test::Probe;
using test::RecordingIrq;

// A 4 KiB 32-bit memory BAR 0, 32 ports at BAR 1, a 64 KiB 64-bit BAR 2.
class Device final : public Function {
 public:
  explicit Device(std::string name = "device")
      : Function(
            std::move(name),
            {.vendor = 0x1234, .device = 0x5678, .revision = 1, .class_code = 0x020000, .interrupt_pin = 1}) {
    add_bar(0, BarKind::kMemory32, region0);
    add_bar(1, BarKind::kIo, region1);
    add_bar(2, BarKind::kMemory64, region2, true);
  }
  Probe probe0{0x1000}, probe1{0x2000}, probe2{0x3000};
  memory::IoRegion region0{"bar0", probe0, 0x1000}, region1{"bar1", probe1, 32},
      region2{"bar2", probe2, 0x10000};
};

class DeviceTest : public BusTest {
 protected:
  void SetUp() override {
    device = std::make_shared<Device>();
    ASSERT_TRUE(bus.add(device, Address{3, 0}));
  }
  uint32_t get(uint16_t at, unsigned size = 4) { return bus.config_read(3 << 3, at, size); }
  void set(uint16_t at, uint32_t value, unsigned size = 4) { bus.config_write(3 << 3, at, size, value); }
  void enable() { set(reg::kCommand, command::kIo | command::kMemory, 2); }
  std::shared_ptr<Device> device;
};

TEST_F(DeviceTest, identity) {
  EXPECT_EQ(get(0), 0x56781234u);
  EXPECT_EQ(get(8), 0x02000001u);
  EXPECT_EQ(get(0x3d, 1), 1u);
}

TEST_F(DeviceTest, interrupt_line_is_preset_by_wire) {
  EXPECT_EQ(get(0x3c, 1), 0u);
  bus.preset_interrupt_lines({10, 5, 11, 7});
  for (uint8_t slot = 4; slot < 8; ++slot) ASSERT_TRUE(bus.add(std::make_shared<Device>(), Address{slot, 0}));
  const unsigned lines[] = {7, 10, 5, 11};
  for (unsigned i = 0; i < 4; ++i)
    EXPECT_EQ(bus.config_read(static_cast<uint8_t>((4 + i) << 3), 0x3c, 1), lines[i]);
  bus.config_write(4 << 3, 0x3c, 1, 3);
  bus.reset();
  EXPECT_EQ(bus.config_read(4 << 3, 0x3c, 1), 7u);
}

TEST_F(DeviceTest, identity_cannot_be_written) {
  set(0, 0xffffffff);
  EXPECT_EQ(get(0), 0x56781234u);
}

TEST_F(DeviceTest, absent_function_reads_all_ones) {
  EXPECT_EQ(bus.config_read(0xff, 0, 4), 0xffffffffu);
  EXPECT_EQ(bus.config_read(0xff, 0, 2), 0xffffu);
  EXPECT_EQ(bus.config_read(0xff, 0, 1), 0xffu);
}

TEST_F(DeviceTest, sizing_of_a_32_bit_bar) {
  set(0x10, 0xffffffff);
  EXPECT_EQ(get(0x10), 0xfffff000u);
}

TEST_F(DeviceTest, sizing_of_an_io_bar) {
  set(0x14, 0xffffffff);
  EXPECT_EQ(get(0x14), 0xffffffe1u);
}

TEST_F(DeviceTest, sizing_of_a_64_bit_bar) {
  set(0x18, 0xffffffff);
  set(0x1c, 0xffffffff);
  EXPECT_EQ(get(0x18), 0xffff000cu);
  EXPECT_EQ(get(0x1c), 0xffffffffu);
}

TEST_F(DeviceTest, absent_bars_read_zero) {
  set(0x20, 0xffffffff);
  EXPECT_EQ(get(0x20), 0u);
  set(0x30, 0xffffffff);
  EXPECT_EQ(get(0x30), 0u);
}

TEST_F(DeviceTest, bar_appears_when_decoding_is_enabled) {
  set(0x10, 0xe0000000);
  EXPECT_EQ(read(0xe0000010), 0xffffffffu);
  enable();
  EXPECT_EQ(read(0xe0000010), 0x1010u);
}

TEST_F(DeviceTest, bar_moves) {
  enable();
  set(0x10, 0xe0000000);
  set(0x10, 0xe0100000);
  EXPECT_EQ(read(0xe0000000), 0xffffffffu);
  EXPECT_EQ(read(0xe0100000), 0x1000u);
}

TEST_F(DeviceTest, bar_written_byte_by_byte) {
  enable();
  set(0x13, 0xe0, 1);
  set(0x12, 0x12, 1);
  EXPECT_EQ(read(0xe0120000), 0x1000u);
}

TEST_F(DeviceTest, bar_vanishes_when_decoding_is_disabled) {
  set(0x10, 0xe0000000);
  enable();
  set(reg::kCommand, command::kIo, 2);
  EXPECT_EQ(read(0xe0000000), 0xffffffffu);
}

TEST_F(DeviceTest, sizing_while_decoding_leaves_nothing_behind) {
  enable();
  set(0x10, 0xe0000000);
  set(0x10, 0xffffffff);
  EXPECT_EQ(read(0xfffff000), 0xffffffffu);
  set(0x10, 0xe0000000);
  EXPECT_EQ(read(0xe0000000), 0x1000u);
}

TEST_F(DeviceTest, unassigned_bar_is_not_at_zero) {
  enable();
  EXPECT_EQ(read(0), 0xffffffffu);
}

TEST_F(DeviceTest, io_bar) {
  set(0x14, 0xc000);
  enable();
  EXPECT_EQ(in(0xc004), 0x2004u);
}

TEST_F(DeviceTest, io_bar_beyond_the_ports_is_nowhere) {
  enable();
  set(0x14, 0xffffffe0);
  set(0x14, 0x12340000);
  EXPECT_EQ(in(0), 0xffffffffu);
}

TEST_F(DeviceTest, bar_above_4_gib) {
  enable();
  set(0x18, 0x40000000);
  set(0x1c, 0x80);
  EXPECT_EQ(read(0x8040000000), 0x3000u);
}

TEST_F(DeviceTest, bar_beyond_physical_addresses_is_nowhere) {
  enable();
  set(0x18, 0xffff0000);
  set(0x1c, 0xffffffff);
  EXPECT_EQ(read(0xfffffffff0000), 0xffffffffu);
}

TEST_F(DeviceTest, overlapping_bars_do_no_harm) {
  enable();
  set(0x10, 0xe0000000);
  set(0x18, 0xe0000000);
  EXPECT_NE(read(0xe0000000), 0xffffffffu);
  set(0x10, 0xe8000000);
  EXPECT_EQ(read(0xe0000000), 0x3000u);
  EXPECT_EQ(read(0xe8000000), 0x1000u);
}

TEST_F(DeviceTest, garbage_in_every_register) {
  for (uint32_t round = 0; round < 64; ++round)
    for (uint16_t at = 0; at < 0x100; ++at) set(at, round * 0x9e3779b9u >> (at % 24), 1);
  EXPECT_EQ(get(0), 0x56781234u);
}

TEST_F(DeviceTest, interrupt_wire_follows_the_swizzle) {
  device->set_interrupt(true);
  EXPECT_TRUE(pirq.level(2));  // slot 3, INTA
  device->set_interrupt(false);
  EXPECT_FALSE(pirq.level(2));
}

TEST_F(DeviceTest, shared_wire_stays_until_the_last) {
  auto other = std::make_shared<Device>("other");
  ASSERT_TRUE(bus.add(other, Address{7, 0}));
  device->set_interrupt(true);
  other->set_interrupt(true);
  device->set_interrupt(false);
  EXPECT_TRUE(pirq.level(2));
  other->set_interrupt(false);
  EXPECT_FALSE(pirq.level(2));
}

TEST_F(DeviceTest, interrupt_disable_bit) {
  device->set_interrupt(true);
  set(reg::kCommand, command::kInterruptDisable, 2);
  EXPECT_FALSE(pirq.level(2));
  EXPECT_NE(get(reg::kStatus, 2) & kStatusInterrupt, 0u);
  set(reg::kCommand, 0, 2);
  EXPECT_TRUE(pirq.level(2));
}

TEST_F(DeviceTest, reset_unmaps) {
  set(0x10, 0xe0000000);
  enable();
  device->set_interrupt(true);
  bus.reset();
  EXPECT_EQ(read(0xe0000000), 0xffffffffu);
  EXPECT_EQ(get(0x10), 0u);
  EXPECT_FALSE(pirq.level(2));
}

TEST_F(DeviceTest, removal_takes_everything_away) {
  set(0x10, 0xe0000000);
  enable();
  device->set_interrupt(true);
  EXPECT_TRUE(bus.remove(*device));
  EXPECT_EQ(read(0xe0000000), 0xffffffffu);
  EXPECT_EQ(get(0), 0xffffffffu);
  EXPECT_FALSE(pirq.level(2));
  EXPECT_FALSE(bus.remove(*device));
}

TEST_F(DeviceTest, removed_function_lives_until_collected) {
  std::weak_ptr<Device> watch = device;
  bus.remove(*device);
  device.reset();
  EXPECT_FALSE(watch.expired());
  EXPECT_EQ(bus.collect(), 1u);
  EXPECT_TRUE(watch.expired());
}

TEST_F(DeviceTest, taken_address_is_refused_by_name) {
  const auto result = bus.add(std::make_shared<Device>("second"), Address{3, 0});
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().kind(), ErrorKind::kBusy);
}

TEST_F(DeviceTest, function_needs_a_multifunction_slot) {
  EXPECT_FALSE(bus.add(std::make_shared<Device>("second"), Address{3, 1}));
  ASSERT_TRUE(bus.add(std::make_shared<Device>("first"), Address{4, 0}, true));
  EXPECT_TRUE(bus.add(std::make_shared<Device>("second"), Address{4, 1}));
}

TEST_F(DeviceTest, slots_run_out) {
  for (int i = 0; i < 30; ++i) ASSERT_TRUE(bus.add(std::make_shared<Device>())) << i;
  const auto result = bus.add(std::make_shared<Device>("one too many"));
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().kind(), ErrorKind::kNoResource);
}

TEST_F(DeviceTest, state_maps_bars_again) {
  set(0x10, 0xe0000000);
  enable();
  device->set_interrupt(true);
  state::Saver saver;
  device->state(saver);
  const auto bytes = saver.take();
  bus.reset();
  state::Loader loader(bytes);
  device->state(loader);
  ASSERT_TRUE(loader.finish());
  EXPECT_EQ(read(0xe0000000), 0x1000u);
  EXPECT_TRUE(pirq.level(2));
}

TEST_F(DeviceTest, state_of_another_device_is_refused) {
  I440fxHostBridge other;
  state::Saver saver;
  other.state(saver);
  const auto bytes = saver.take();
  state::Loader loader(bytes);
  device->state(loader);
  EXPECT_FALSE(loader.finish());
}

class PortsTest : public DeviceTest {
 protected:
  Probe reset_control{0x77};
  ConfigPorts config_ports{bus, &reset_control};
};

TEST_F(PortsTest, mechanism_1_reads) {
  config_ports.io_write(0, 4, 0x80001800);
  EXPECT_EQ(config_ports.io_read(4, 4), 0x56781234u);
  EXPECT_EQ(config_ports.io_read(6, 2), 0x5678u);
  EXPECT_EQ(config_ports.io_read(5, 1), 0x12u);
}

TEST_F(PortsTest, address_reads_back) {
  config_ports.io_write(0, 4, 0xffffffff);
  EXPECT_EQ(config_ports.io_read(0, 4), 0x80fffffcu);
}

TEST_F(PortsTest, disabled_address_reads_all_ones) {
  config_ports.io_write(0, 4, 0x00001800);
  EXPECT_EQ(config_ports.io_read(4, 4), 0xffffffffu);
}

TEST_F(PortsTest, other_buses_are_empty) {
  config_ports.io_write(0, 4, 0x80011800);
  EXPECT_EQ(config_ports.io_read(4, 4), 0xffffffffu);
}

TEST_F(PortsTest, byte_writes_do_not_reach_the_latch) {
  config_ports.io_write(0, 4, 0x80001800);
  config_ports.io_write(0, 1, 0x04);
  EXPECT_EQ(config_ports.io_read(0, 4), 0x80001800u);
}

TEST_F(PortsTest, reset_control_is_the_byte_at_cf9) {
  config_ports.io_write(1, 1, 6);
  EXPECT_EQ(reset_control.last_write, (std::pair<uint64_t, uint64_t>{0, 6}));
  EXPECT_EQ(config_ports.io_read(1, 1), 0x77u);
}

TEST_F(PortsTest, ecam) {
  Ecam ecam(bus);
  EXPECT_EQ(ecam.io_read(3 << 15, 4), 0x56781234u);
  EXPECT_EQ(ecam.io_read(4 << 15, 4), 0xffffffffu);
  EXPECT_EQ(ecam.io_read((uint64_t{1} << 20) + (3 << 15), 4), 0xffffffffu);
  ecam.io_write((3 << 15) + 0x10, 4, 0xffffffff);
  EXPECT_EQ(ecam.io_read((3 << 15) + 0x10, 4), 0xfffff000u);
}

class PiixTest : public BusTest {
 protected:
  RecordingIrq pic, io_apic;
};

TEST_F(PiixTest, host_bridge_identity_and_pam) {
  auto bridge = std::make_shared<I440fxHostBridge>();
  ASSERT_TRUE(bus.add(bridge, Address{0, 0}));
  EXPECT_EQ(bus.config_read(0, 0, 4), 0x12378086u);
  bus.config_write(0, 0x5a, 1, 0x33);
  EXPECT_EQ(bus.config_read(0, 0x5a, 1), 0x33u);
}

TEST_F(PiixTest, wire_goes_to_the_io_apic) {
  Piix3 bridge(&pic, &io_apic, 16);
  bridge.set_irq(2, true);
  EXPECT_TRUE(io_apic.level(18));
  EXPECT_EQ(pic.changes, 0);  // routing is disabled after reset
}

TEST_F(PiixTest, wire_is_routed_to_an_isa_interrupt) {
  Piix3 bridge(&pic, &io_apic, 16);
  bridge.config_write(0x61, 1, 11);
  bridge.set_irq(1, true);
  EXPECT_TRUE(pic.level(11));
  bridge.config_write(0x61, 1, 10);
  EXPECT_FALSE(pic.level(11));
  EXPECT_TRUE(pic.level(10));
  bridge.config_write(0x61, 1, 0x80);
  EXPECT_FALSE(pic.level(10));
}

TEST_F(PiixTest, preset_routes_stay_over_resets) {
  auto bridge = std::make_shared<Piix3>(&pic, &io_apic, 16);
  ASSERT_TRUE(bus.add(bridge, Address{1, 0}));
  bridge->preset({10, 10, 11, 11});
  bridge->set_irq(2, true);
  EXPECT_TRUE(pic.level(11));
  bus.config_write(1 << 3, 0x62, 1, 0x80);
  EXPECT_FALSE(pic.level(11));
  bus.reset();
  EXPECT_EQ(bus.config_read(1 << 3, 0x60, 4), 0x0b0b0a0au);
  EXPECT_TRUE(pic.level(11));
}

TEST_F(PiixTest, two_wires_on_one_isa_interrupt) {
  Piix3 bridge(&pic, &io_apic, 16);
  bridge.config_write(0x60, 4, 0x0b0b0b0b);
  bridge.set_irq(0, true);
  bridge.set_irq(3, true);
  bridge.set_irq(0, false);
  EXPECT_TRUE(pic.level(11));
  bridge.set_irq(3, false);
  EXPECT_FALSE(pic.level(11));
}

TEST_F(PiixTest, reserved_isa_interrupts_cannot_be_routed_to) {
  Piix3 bridge(&pic, &io_apic, 16);
  bridge.config_write(0x60, 1, 0);
  bridge.set_irq(0, true);
  EXPECT_EQ(pic.changes, 0);
}

TEST_F(PiixTest, power_management_block_follows_pmbase) {
  Probe probe(0x500);
  memory::IoRegion block("pm", probe, 64);
  auto pm = std::make_shared<Piix4Pm>(block);
  ASSERT_TRUE(bus.add(pm, Address{1, 0}));
  pm->preset(0x600);
  EXPECT_EQ(in(0x608), 0x508u);
  bus.config_write(1 << 3, 0x40, 4, 0xb001);
  EXPECT_EQ(in(0x608), 0xffffffffu);
  EXPECT_EQ(in(0xb000), 0x500u);
  bus.reset();
  EXPECT_EQ(in(0x600), 0x500u);
}

}  // namespace
}  // namespace ostler::pci
