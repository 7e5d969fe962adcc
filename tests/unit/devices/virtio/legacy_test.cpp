// The interface of virtio 0.9.5 over PCI: identity, ports, queues at a page number, use before DRIVER_OK, and
// that only one interface drives.
#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "../pci/fixture.h"
#include "devices/virtio/transport/legacy_ports.h"
#include "devices/virtio/transport/pci.h"
#include "fake_driver.h"

namespace ostler::virtio {
namespace {

using pci::test::RecordingIrq;
using pci::test::RecordingMsi;
using test::FakeQueue;
using test::GuestMemory;

constexpr uint32_t kTestFeature = 1u << 3;
constexpr uint32_t kRingFeatures = 1u << VIRTIO_F_NOTIFY_ON_EMPTY | 1u << VIRTIO_F_ANY_LAYOUT |
                                   1u << VIRTIO_F_INDIRECT_DESC | 1u << VIRTIO_F_EVENT_IDX;

// Two queues; returns each chain at once. Configuration: 8 bytes that the driver may write.
class TestDevice final : public Device {
 public:
  explicit TestDevice(memory::AddressSpace& memory) : Device(memory, "test", {8, 16}) {}
  ~TestDevice() override { reset(); }
  uint16_t type() const override { return kTypeEntropy; }
  void change_config() {
    const Lock lock(mutex_);
    config_changed_locked();
  }
  int served = 0;
  uint64_t accepted() const { return driver_features(); }
  bool is_legacy() const { return legacy_driver(); }

 private:
  uint64_t device_features() const override { return kTestFeature; }
  void config_locked(std::vector<std::byte>& config) override { config.assign(bytes_.begin(), bytes_.end()); }
  void config_written_locked(uint64_t offset, std::span<const std::byte> from) override {
    for (size_t i = 0; i < from.size() && offset + i < bytes_.size(); ++i) bytes_[offset + i] = from[i];
  }
  void process(unsigned index, Lock&) override {
    while (auto chain = queue(index)->pop()) {
      ++served;
      queue(index)->push(*std::move(chain), 0);
    }
    signal_locked(*queue(index));
  }
  void device_state(state::Archive& archive) override {
    archive.section("test-device", 1);
    archive.field("config", bytes_);
  }
  std::array<std::byte, 8> bytes_{};
};

class LegacyTest : public testing::Test {
 protected:
  static constexpr uint8_t kDevfn = 1 << 3;
  static constexpr uint64_t kPorts = 0xc000, kMsixBar = 0xe0100000, kBar = 0xe0000000;
  enum Port : uint64_t {
    kFeatures = 0,
    kAccept = 4,
    kPage = 8,
    kSize = 12,
    kSelect = 14,
    kNotify = 16,
    kStatus = 18,
    kIsr = 19
  };

  LegacyTest() { make(PciInterfaces::kTransitional); }
  ~LegacyTest() override { bus.reset(); }
  void make(PciInterfaces interfaces) {
    remove();
    auto owned = std::make_unique<TestDevice>(memory.space);
    device = owned.get();
    function = std::make_shared<Pci>(std::move(owned), std::optional<uint16_t>(), interfaces);
    ASSERT_TRUE(bus.add(function, pci::Address{1, 0}));
    bus.config_write(kDevfn, 0x10, 4, kPorts);
    bus.config_write(kDevfn, 0x14, 4, kMsixBar);
    bus.config_write(kDevfn, 0x20, 4, kBar);
    bus.config_write(kDevfn, 0x04, 2, 7);
  }
  void remove() {
    if (!function) return;
    bus.remove(*function);
    bus.collect();
  }
  void save_and_load() {
    state::Saver saver;
    function->state(saver);
    const auto bytes = saver.take();
    make(PciInterfaces::kTransitional);
    state::Loader loader(bytes);
    function->state(loader);
    ASSERT_TRUE(loader.finish());
  }
  uint32_t in(uint64_t port, unsigned size) {
    return static_cast<uint32_t>(ports_reader.read(GuestPhys{kPorts + port}, size));
  }
  void out(uint64_t port, unsigned size, uint64_t value) {
    ports_reader.write(GuestPhys{kPorts + port}, size, value);
  }
  uint64_t modern(uint64_t at, unsigned size) { return reader.read(GuestPhys{kBar + at}, size); }
  void modern(uint64_t at, unsigned size, uint64_t value) { reader.write(GuestPhys{kBar + at}, size, value); }

  // A queue of the device's size on pages of its own, as §2.7.2 lays it out.
  FakeQueue legacy_queue(uint16_t size) {
    FakeQueue queue(memory, size);
    const uint64_t at = memory.allocate(0x2000, 4096);
    queue.setup.descriptors = at;
    queue.setup.driver = at + 16u * size;
    queue.setup.device = at + 0x1000;
    return queue;
  }
  void place(uint16_t index, const FakeQueue& queue) {
    out(kSelect, 2, index);
    out(kPage, 4, queue.setup.descriptors >> 12);
  }
  void negotiate(uint32_t features = 0) {
    out(kStatus, 1, 0);
    out(kStatus, 1, 1);
    out(kStatus, 1, 3);
    out(kAccept, 4, features);
  }
  void start(uint32_t features = 0) {
    negotiate(features);
    place(0, driver);
    out(kStatus, 1, 7);
  }
  void offer_and_notify() {
    driver.chain().readable("x").offer();
    out(kNotify, 2, 0);
  }

  GuestMemory memory;
  FakeQueue driver = legacy_queue(8);
  memory::AddressSpace ports{"ports", memory::AddressSpace::kPortSize};
  RecordingIrq pirq;
  RecordingMsi msi;
  pci::Bus bus{{memory.space, memory.space.root()}, {ports, ports.root()}, pirq, msi};
  memory::AddressSpace::Reader reader{memory.space}, ports_reader{ports};
  std::shared_ptr<Pci> function;
  TestDevice* device = nullptr;
};

TEST_F(LegacyTest, identity) {
  EXPECT_EQ(bus.config_read(kDevfn, 0, 4), 0x10051af4u);
  EXPECT_EQ(bus.config_read(kDevfn, 8, 1), 0u);
  EXPECT_EQ(bus.config_read(kDevfn, 0x2c, 4), 0x00041af4u);
  EXPECT_EQ(bus.config_read(kDevfn, 0x10, 4), kPorts | 1);
  EXPECT_EQ(function->legacy_ports()->region().size(), 32u);
  make(PciInterfaces::kModern);
  EXPECT_EQ(bus.config_read(kDevfn, 0, 4), 0x10441af4u);
  EXPECT_EQ(bus.config_read(kDevfn, 8, 1), 1u);
  EXPECT_EQ(bus.config_read(kDevfn, 0x2c, 4), 0x11001af4u);
  EXPECT_EQ(bus.config_read(kDevfn, 0x10, 4), 0u);
}

TEST_F(LegacyTest, without_the_modern_interface) {
  make(PciInterfaces::kLegacy);
  EXPECT_EQ(bus.config_read(kDevfn, 0, 4), 0x10051af4u);
  EXPECT_EQ(bus.config_read(kDevfn, 0x20, 4), 0u);
  EXPECT_EQ(bus.config_read(kDevfn, 0x10, 4), kPorts | 1);
  // MSI-X is its only capability.
  const unsigned at = bus.config_read(kDevfn, 0x34, 1);
  EXPECT_EQ(bus.config_read(kDevfn, static_cast<uint16_t>(at), 2), 0x11u);
  start();
  offer_and_notify();
  EXPECT_EQ(device->served, 1);
}

TEST_F(LegacyTest, features_are_the_first_32) {
  EXPECT_EQ(in(kFeatures, 4), kTestFeature | kRingFeatures);
  start(0xffffffff);
  EXPECT_EQ(in(kAccept, 4), kTestFeature | kRingFeatures);
  EXPECT_EQ(device->accepted(), kTestFeature | kRingFeatures);
  out(kAccept, 4, 0);
  EXPECT_EQ(in(kAccept, 4), kTestFeature | kRingFeatures);
}

TEST_F(LegacyTest, a_buffer_goes_and_comes) {
  start();
  EXPECT_EQ(in(kStatus, 1), 7u);
  EXPECT_EQ(in(kPage, 4), driver.setup.descriptors >> 12);
  EXPECT_TRUE(device->is_legacy());
  offer_and_notify();
  EXPECT_TRUE(driver.used().has_value());
  EXPECT_TRUE(pirq.level(0) || pirq.level(1) || pirq.level(2) || pirq.level(3));
  EXPECT_EQ(in(kIsr, 1), 1u);
  EXPECT_EQ(in(kIsr, 1), 0u);
  EXPECT_FALSE(pirq.level(0) || pirq.level(1) || pirq.level(2) || pirq.level(3));
  device->change_config();
  EXPECT_EQ(in(kIsr, 1), 2u);
}

TEST_F(LegacyTest, queue_sizes_are_the_devices) {
  out(kSelect, 2, 0);
  EXPECT_EQ(in(kSize, 2), 8u);
  out(kSelect, 2, 1);
  EXPECT_EQ(in(kSize, 2), 16u);
  out(kSize, 2, 4);
  EXPECT_EQ(in(kSize, 2), 16u);
  out(kSelect, 2, 2);
  EXPECT_EQ(in(kSize, 2), 0u);
  out(kPage, 4, 1);
  EXPECT_EQ(in(kPage, 4), 0u);
  EXPECT_EQ(in(kSelect, 2), 2u);
}

TEST_F(LegacyTest, used_ring_begins_on_the_next_page) {
  FakeQueue other = legacy_queue(16);
  start();
  place(1, other);
  other.chain().readable("x").offer();
  out(kNotify, 2, 1);
  EXPECT_TRUE(other.used().has_value());
}

TEST_F(LegacyTest, device_is_used_before_driver_ok) {
  negotiate();
  place(0, driver);
  offer_and_notify();
  EXPECT_EQ(device->served, 1);
  out(kStatus, 1, 7);
  offer_and_notify();
  EXPECT_EQ(device->served, 2);
}

TEST_F(LegacyTest, device_is_used_before_any_status) {
  out(kStatus, 1, 0);
  place(0, driver);
  offer_and_notify();
  EXPECT_EQ(device->served, 1);
}

TEST_F(LegacyTest, notification_of_a_queue_without_a_place) {
  negotiate();
  out(kNotify, 2, 0);
  out(kNotify, 2, 0xffff);
  place(0, driver);
  out(kStatus, 1, 7);
  offer_and_notify();
  EXPECT_EQ(device->served, 1);
}

TEST_F(LegacyTest, queue_is_placed_while_the_device_runs_and_taken_away) {
  negotiate();
  out(kStatus, 1, 7);
  place(0, driver);
  offer_and_notify();
  EXPECT_EQ(device->served, 1);
  out(kPage, 4, 0x7f);  // it has a place
  EXPECT_EQ(in(kPage, 4), driver.setup.descriptors >> 12);
  out(kPage, 4, 0);
  EXPECT_EQ(in(kPage, 4), 0u);
  offer_and_notify();
  EXPECT_EQ(device->served, 1);
  driver.restart();
  place(0, driver);
  offer_and_notify();
  EXPECT_EQ(device->served, 2);
}

TEST_F(LegacyTest, queue_outside_of_memory) {
  negotiate();
  out(kSelect, 2, 0);
  out(kPage, 4, 0xffffffff);
  out(kStatus, 1, 7);
  out(kNotify, 2, 0);
  EXPECT_EQ(device->served, 0);
  EXPECT_EQ(in(kStatus, 1), 7u);
  start();
  offer_and_notify();
  EXPECT_EQ(device->served, 1);
}

TEST_F(LegacyTest, status_bits_that_came_later_are_not_there) {
  negotiate();
  out(kStatus, 1, 0x7f);
  EXPECT_EQ(in(kStatus, 1), 7u);
  place(0, driver);
  driver.set_available_index(100);
  out(kNotify, 2, 0);
  EXPECT_EQ(device->failures(), 1u);
  EXPECT_EQ(in(kStatus, 1), 7u);
  EXPECT_EQ(in(kIsr, 1), 0u);
}

TEST_F(LegacyTest, configuration_lies_behind_the_vectors_while_msix_is_on) {
  EXPECT_EQ(in(20, 4), 0u);
  out(20, 1, 0x11);
  out(21, 1, 0x22);
  EXPECT_EQ(in(20, 2), 0x2211u);
  bus.config_write(kDevfn, 0x42, 2, 0x8000);
  EXPECT_EQ(in(24, 2), 0x2211u);
  EXPECT_EQ(in(20, 2), 0xffffu);
  out(20, 2, 0);
  EXPECT_EQ(in(20, 2), 0u);
  out(20, 2, 9);
  EXPECT_EQ(in(20, 2), 0xffffu);
  out(kSelect, 2, 7);
  out(22, 2, 1);
  EXPECT_EQ(in(22, 2), 0xffffu);
}

TEST_F(LegacyTest, interrupts_by_msix) {
  bus.config_write(kDevfn, 0x42, 2, 0x8000);
  reader.write(GuestPhys{kMsixBar + 16}, 8, 0xfee00000);
  reader.write(GuestPhys{kMsixBar + 24}, 8, 0x41);
  start();
  out(kSelect, 2, 0);
  out(22, 2, 1);
  EXPECT_EQ(in(22, 2), 1u);
  offer_and_notify();
  ASSERT_EQ(msi.messages.size(), 1u);
  EXPECT_EQ(msi.messages[0].second, 0x41u);
  EXPECT_EQ(in(kIsr, 1), 0u);
  out(kStatus, 1, 0);
  EXPECT_EQ(in(22, 2), 0xffffu);
}

TEST_F(LegacyTest, modern_writes_while_the_legacy_interface_drives) {
  start();
  modern(0x14, 1, 15);
  modern(0x16, 2, 0);
  modern(0x18, 2, 4);
  modern(0x0c, 4, 1);
  modern(0x2000, 4, 0x1234);
  EXPECT_EQ(in(kStatus, 1), 7u);
  EXPECT_EQ(in(kSize, 2), 8u);
  EXPECT_EQ(in(kAccept, 4), 0u);
  EXPECT_EQ(in(20, 4), 0u);
  offer_and_notify();
  EXPECT_EQ(device->served, 1);
  modern(0x14, 1, 0);
  EXPECT_EQ(in(kStatus, 1), 0u);
  modern(0x14, 1, 3);
  EXPECT_EQ(modern(0x14, 1), 3u);
}

TEST_F(LegacyTest, legacy_writes_while_the_modern_interface_drives) {
  modern(0x14, 1, 3);
  out(kStatus, 1, 7);
  out(kAccept, 4, 1);
  place(0, driver);
  out(20, 4, 0x1234);
  EXPECT_EQ(modern(0x14, 1), 3u);
  EXPECT_EQ(in(kPage, 4), 0u);
  EXPECT_EQ(modern(0x2000, 4), 0u);
  EXPECT_FALSE(device->is_legacy());
  out(kNotify, 2, 0);
  out(kStatus, 1, 0);
  EXPECT_EQ(modern(0x14, 1), 0u);
  start();
  offer_and_notify();
  EXPECT_EQ(device->served, 1);
}

TEST_F(LegacyTest, other_widths_do_nothing) {
  negotiate();
  for (const unsigned size : {1u, 2u, 4u})
    for (uint64_t port = 0; port < 20; ++port) {
      const bool whole = port < 12   ? size == 4 && port % 4 == 0
                         : port < 18 ? size == 2 && port % 2 == 0
                                     : size == 1;
      if (whole) continue;
      EXPECT_EQ(in(port, size), 0u) << port;
      out(port, size, 0);
    }
  EXPECT_EQ(in(kStatus, 1), 3u);
}

TEST_F(LegacyTest, garbage_in_every_port) {
  std::mt19937_64 random(20261121);
  const uint64_t size = function->legacy_ports()->region().size();
  for (int i = 0; i < 20000; ++i) {
    const unsigned width = 1u << random() % 3;
    if (random() % 2 == 0)
      out(random() % size, width, random() % 3 == 0 ? random() : random() % 256);
    else
      in(random() % size, width);
    if (random() % 8 == 0) modern(random() % 0x60, 1u << random() % 4, random() % 256);
  }
  driver.restart();
  start();
  offer_and_notify();
  EXPECT_TRUE(driver.used().has_value());
}

TEST_F(LegacyTest, state_in_the_middle_of_negotiation) {
  negotiate(kTestFeature);
  place(0, driver);
  save_and_load();
  EXPECT_TRUE(device->is_legacy());
  EXPECT_EQ(in(kPage, 4), driver.setup.descriptors >> 12);
  modern(0x14, 1, 15);
  EXPECT_EQ(in(kStatus, 1), 3u);
  out(kStatus, 1, 7);
  offer_and_notify();
  EXPECT_EQ(device->served, 1);
  EXPECT_EQ(device->accepted(), kTestFeature);
}

TEST_F(LegacyTest, state_of_a_device_that_runs_before_driver_ok) {
  negotiate();
  place(0, driver);
  offer_and_notify();
  save_and_load();
  offer_and_notify();
  EXPECT_EQ(driver.used_index(), 2);
  EXPECT_EQ(in(kIsr, 1), 1u);
}

TEST_F(LegacyTest, machine_reset_lets_either_interface_begin) {
  start();
  function->reset();
  bus.config_write(kDevfn, 0x20, 4, kBar);
  bus.config_write(kDevfn, 0x04, 2, 7);
  modern(0x14, 1, 3);
  EXPECT_EQ(modern(0x14, 1), 3u);
}

// Both interfaces, resets, notifications and the host's changes at once.
TEST_F(LegacyTest, vcpus_at_odds) {
  start();
  constexpr int kSteps = 20000;
  std::vector<std::thread> vcpus;
  for (unsigned seed = 0; seed < 4; ++seed)
    vcpus.emplace_back([this, seed] {
      std::mt19937_64 random(seed);
      memory::AddressSpace::Reader own(memory.space), own_ports(ports);
      const uint64_t page = driver.setup.descriptors >> 12;
      for (int i = 0; i < kSteps; ++i) {
        const uint64_t value = random();
        switch (value % 8) {
          case 0:
            own_ports.write(GuestPhys{kPorts + kStatus}, 1, value >> 8 & 7);
            break;
          case 1:
            own_ports.write(GuestPhys{kPorts + kPage}, 4, (value >> 8 & 1) * page);
            break;
          case 2:
            own.write(GuestPhys{kBar + 0x14}, 1, value >> 8 & 15);
            break;
          case 3:
            own_ports.write(GuestPhys{kPorts + 20}, 1, value >> 8 & 0xff);
            break;
          case 4:
            own_ports.read(GuestPhys{kPorts + kIsr}, 1);
            break;
          case 5:
            own.write(GuestPhys{kBar + 0x3000}, 2, 0);
            break;
          default:
            own_ports.write(GuestPhys{kPorts + kNotify}, 2, value >> 8 & 1);
        }
      }
    });
  for (int i = 0; i < kSteps; ++i) device->change_config();
  for (auto& vcpu : vcpus) vcpu.join();
  driver.restart();
  start();
  offer_and_notify();
  EXPECT_TRUE(driver.used().has_value());
}

TEST(PciInterfacesTest, names_and_options) {
  using enum PciInterfaces;
  using config::OnOffAuto;
  const auto chosen = [](const std::string& name, OnOffAuto no_legacy, bool no_modern) {
    DeviceOptions options;
    options.disable_legacy = no_legacy;
    options.disable_modern = no_modern;
    return pci_interfaces(name, kTypeBlock, options);
  };
  EXPECT_EQ(*chosen("virtio-blk-pci", OnOffAuto::kAuto, false), kTransitional);
  EXPECT_EQ(*chosen("virtio-blk-pci", OnOffAuto::kOff, false), kTransitional);
  EXPECT_EQ(*chosen("virtio-blk-pci", OnOffAuto::kOn, false), kModern);
  EXPECT_EQ(*chosen("virtio-blk-pci", OnOffAuto::kAuto, true), kLegacy);
  EXPECT_EQ(*chosen("virtio-blk-pci-transitional", OnOffAuto::kAuto, false), kTransitional);
  EXPECT_EQ(*chosen("virtio-blk-pci-non-transitional", OnOffAuto::kAuto, false), kModern);
  EXPECT_FALSE(chosen("virtio-blk-pci", OnOffAuto::kOn, true));
  EXPECT_FALSE(chosen("virtio-blk-pci-transitional", OnOffAuto::kOn, false));
  EXPECT_FALSE(chosen("virtio-blk-pci-non-transitional", OnOffAuto::kAuto, true));
}

TEST(PciInterfacesTest, addresses_of_the_platform_need_the_modern_interface) {
  DeviceOptions options;
  options.iommu_platform = true;
  EXPECT_EQ(*pci_interfaces("virtio-blk-pci", kTypeBlock, options), PciInterfaces::kTransitional);
  EXPECT_EQ(options.withheld_features() & feature(VIRTIO_F_ACCESS_PLATFORM), 0u);
  options.disable_modern = true;
  EXPECT_FALSE(pci_interfaces("virtio-blk-pci", kTypeBlock, options));
}

TEST(PciInterfacesTest, types_that_came_later_are_modern) {
  constexpr uint16_t kSocket = 19;
  DeviceOptions options;
  EXPECT_EQ(*pci_interfaces("virtio-vsock-pci", kSocket, options), PciInterfaces::kModern);
  options.disable_legacy = config::OnOffAuto::kOn;
  EXPECT_EQ(*pci_interfaces("virtio-vsock-pci", kSocket, options), PciInterfaces::kModern);
  options.disable_legacy = config::OnOffAuto::kOff;
  EXPECT_FALSE(pci_interfaces("virtio-vsock-pci", kSocket, options));
  options.disable_legacy = config::OnOffAuto::kAuto;
  options.disable_modern = true;
  EXPECT_FALSE(pci_interfaces("virtio-vsock-pci", kSocket, options));
}

}  // namespace
}  // namespace ostler::virtio
