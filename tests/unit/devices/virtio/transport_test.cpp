// Both transports in front of a small device: negotiation, queue setup, interrupts, garbage in every
// register, state.
#include <gtest/gtest.h>

#include <random>

#include "../pci/fixture.h"
#include "devices/virtio/options.h"
#include "devices/virtio/transport/mmio.h"
#include "devices/virtio/transport/pci.h"
#include "packed_driver.h"

namespace ostler::virtio {
namespace {

using pci::test::RecordingIrq;
using pci::test::RecordingMsi;
using test::FakePackedQueue;
using test::FakeQueue;
using test::GuestMemory;

constexpr unsigned kTestFeature = 3;

DeviceOptions everything_offered() {
  DeviceOptions options;
  options.packed = options.in_order = options.notification_data = options.iommu_platform = true;
  return options;
}

// Two queues; returns each chain of queue 0 at once. Configuration: 8 bytes that the driver may write.
class TestDevice final : public Device {
 public:
  explicit TestDevice(memory::AddressSpace& memory)
      : Device(memory, "test", {8, 8}, everything_offered().withheld_features()) {}
  ~TestDevice() override { reset(); }
  uint16_t type() const override { return kTypeEntropy; }
  void change_config() {
    const Lock lock(mutex_);
    config_changed_locked();
  }
  int served = 0;
  uint64_t more_features = 0;
  bool is_running() const { return running(); }

 private:
  uint64_t device_features() const override { return feature(kTestFeature) | more_features; }
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

// What a driver does, over either transport.
class Bench {
 public:
  virtual ~Bench() = default;
  virtual uint8_t status() = 0;
  virtual void set_status(uint8_t value) = 0;
  virtual uint64_t features() = 0;
  virtual void set_features(uint64_t bits) = 0;
  virtual uint32_t queue_max(uint16_t queue) = 0;
  virtual void set_queue(uint16_t queue, const QueueSetup& setup) = 0;
  virtual void reset_queue(uint16_t queue) = 0;
  virtual bool queue_enabled(uint16_t queue) = 0;
  virtual void notify(uint16_t queue) = 0;
  virtual void notify_with_data(uint32_t data) = 0;
  virtual uint32_t read_config(uint64_t offset) = 0;
  virtual void write_config(uint64_t offset, uint32_t value) = 0;
  virtual uint32_t generation() = 0;
  virtual bool interrupted() = 0;  // since the last look; acknowledges
  virtual void poke(uint64_t offset, unsigned size, uint64_t value) = 0;
  virtual uint64_t peek(uint64_t offset, unsigned size) = 0;
  virtual void save_and_load() = 0;
  TestDevice* device = nullptr;
};

class MmioBench final : public Bench {
 public:
  explicit MmioBench(GuestMemory& guest_memory) : memory(guest_memory) { make(); }
  void make() {
    auto owned = std::make_unique<TestDevice>(memory.space);
    device = owned.get();
    mmio = std::make_unique<Mmio>(std::move(owned), bus::IrqLine(irq, 0));
  }
  uint32_t get(uint64_t at) { return static_cast<uint32_t>(mmio->io_read(at, 4)); }
  void set(uint64_t at, uint64_t value) { mmio->io_write(at, 4, value & 0xffffffff); }
  uint8_t status() override { return static_cast<uint8_t>(get(0x70)); }
  void set_status(uint8_t value) override { set(0x70, value); }
  uint64_t features() override {
    set(0x14, 1);
    const uint64_t high = get(0x10);
    set(0x14, 0);
    return high << 32 | get(0x10);
  }
  void set_features(uint64_t bits) override {
    set(0x24, 0);
    set(0x20, bits);
    set(0x24, 1);
    set(0x20, bits >> 32);
  }
  uint32_t queue_max(uint16_t queue) override {
    set(0x30, queue);
    return get(0x34);
  }
  void set_queue(uint16_t queue, const QueueSetup& setup) override {
    set(0x30, queue);
    set(0x38, setup.size);
    set(0x80, setup.descriptors);
    set(0x84, setup.descriptors >> 32);
    set(0x90, setup.driver);
    set(0x94, setup.driver >> 32);
    set(0xa0, setup.device);
    set(0xa4, setup.device >> 32);
    set(0x44, 1);
  }
  void reset_queue(uint16_t queue) override {
    set(0x30, queue);
    set(0xc0, 1);
    EXPECT_EQ(get(0xc0), 0u);
  }
  bool queue_enabled(uint16_t queue) override {
    set(0x30, queue);
    return get(0x44) != 0;
  }
  void notify(uint16_t queue) override { set(0x50, queue); }
  void notify_with_data(uint32_t data) override { set(0x50, data); }
  uint32_t read_config(uint64_t offset) override { return get(0x100 + offset); }
  void write_config(uint64_t offset, uint32_t value) override { set(0x100 + offset, value); }
  uint32_t generation() override { return get(0xfc); }
  bool interrupted() override {
    const bool level = irq.level(0);
    EXPECT_EQ(level, get(0x60) != 0);
    set(0x64, get(0x60));
    EXPECT_FALSE(irq.level(0));
    return level;
  }
  void poke(uint64_t offset, unsigned size, uint64_t value) override {
    mmio->io_write(offset % 0x200, size, value);
  }
  uint64_t peek(uint64_t offset, unsigned size) override { return mmio->io_read(offset % 0x200, size); }
  void save_and_load() override {
    state::Saver saver;
    mmio->state(saver);
    const auto bytes = saver.take();
    make();
    state::Loader loader(bytes);
    mmio->state(loader);
    ASSERT_TRUE(loader.finish());
  }
  GuestMemory& memory;
  RecordingIrq irq;
  std::unique_ptr<Mmio> mmio;
};

class PciBench final : public Bench {
 public:
  static constexpr uint64_t kBar = 0xe0000000, kMsixBar = 0xe0100000;
  static constexpr uint8_t kDevfn = 1 << 3;

  explicit PciBench(GuestMemory& guest_memory, bool msix = false) : memory(guest_memory), use_msix(msix) {
    make();
  }
  ~PciBench() override { bus.reset(); }
  void make() {
    if (function) {
      bus.remove(*function);
      bus.collect();
    }
    auto owned = std::make_unique<TestDevice>(memory.space);
    device = owned.get();
    function = std::make_shared<Pci>(std::move(owned));
    ASSERT_TRUE(bus.add(function, pci::Address{1, 0}));
  }
  void map() {
    bus.config_write(kDevfn, 0x20, 4, kBar);
    bus.config_write(kDevfn, 0x14, 4, kMsixBar);
    bus.config_write(kDevfn, 0x04, 2, 6);
    if (use_msix) bus.config_write(kDevfn, 0x42, 2, 0x8000);
  }
  uint64_t get(uint64_t at, unsigned size) { return reader.read(GuestPhys{kBar + at}, size); }
  void set(uint64_t at, unsigned size, uint64_t value) { reader.write(GuestPhys{kBar + at}, size, value); }
  uint8_t status() override { return static_cast<uint8_t>(get(0x14, 1)); }
  void set_status(uint8_t value) override { set(0x14, 1, value); }
  uint64_t features() override {
    set(0, 4, 1);
    const uint64_t high = get(4, 4);
    set(0, 4, 0);
    return high << 32 | get(4, 4);
  }
  void set_features(uint64_t bits) override {
    set(8, 4, 0);
    set(0xc, 4, bits & 0xffffffff);
    set(8, 4, 1);
    set(0xc, 4, bits >> 32);
  }
  uint32_t queue_max(uint16_t queue) override {
    set(0x16, 2, queue);
    return static_cast<uint32_t>(get(0x18, 2));
  }
  void set_queue(uint16_t queue, const QueueSetup& setup) override {
    set(0x16, 2, queue);
    set(0x18, 2, setup.size);
    if (use_msix) {
      set(0x1a, 2, queue + 1u);
      reader.write(GuestPhys{kMsixBar + 16 * (queue + 1u)}, 8, 0xfee00000);
      reader.write(GuestPhys{kMsixBar + 16 * (queue + 1u) + 8}, 8, 0x40u + queue);
    }
    set(0x20, 8, setup.descriptors);
    set(0x28, 8, setup.driver);
    set(0x30, 4, setup.device & 0xffffffff);
    set(0x34, 4, setup.device >> 32);
    set(0x1c, 2, 1);
  }
  void reset_queue(uint16_t queue) override {
    set(0x16, 2, queue);
    set(0x3a, 2, 1);
    EXPECT_EQ(get(0x3a, 2), 0u);
  }
  bool queue_enabled(uint16_t queue) override {
    set(0x16, 2, queue);
    return get(0x1c, 2) != 0;
  }
  void notify(uint16_t queue) override { set(0x3000 + 4u * queue, 2, queue); }
  void notify_with_data(uint32_t data) override { set(0x3000 + 4u * (data & 0xffff), 4, data); }
  uint32_t read_config(uint64_t offset) override { return static_cast<uint32_t>(get(0x2000 + offset, 4)); }
  void write_config(uint64_t offset, uint32_t value) override { set(0x2000 + offset, 4, value); }
  uint32_t generation() override { return static_cast<uint32_t>(get(0x15, 1)); }
  bool interrupted() override {
    if (use_msix) return std::exchange(msi.messages, {}).size() != 0;
    const bool level = pirq.level(0);
    EXPECT_EQ(level, get(0x1000, 1) != 0);
    EXPECT_FALSE(pirq.level(0));
    return level;
  }
  void poke(uint64_t offset, unsigned size, uint64_t value) override {
    function->io_write(offset % 0x3ff8, size, value);
  }
  uint64_t peek(uint64_t offset, unsigned size) override { return function->io_read(offset % 0x3ff8, size); }
  void save_and_load() override {
    state::Saver saver;
    function->state(saver);
    const auto bytes = saver.take();
    make();
    state::Loader loader(bytes);
    function->state(loader);
    ASSERT_TRUE(loader.finish());
  }
  GuestMemory& memory;
  const bool use_msix;
  memory::AddressSpace ports{"ports", memory::AddressSpace::kPortSize};
  RecordingIrq pirq;
  RecordingMsi msi;
  pci::Bus bus{{memory.space, memory.space.root()}, {ports, ports.root()}, pirq, msi};
  memory::AddressSpace::Reader reader{memory.space};
  std::shared_ptr<Pci> function;
};

enum class Kind { kMmio, kPciPin, kPciMsix };

class TransportTest : public testing::TestWithParam<Kind> {
 protected:
  static constexpr uint64_t kWanted = feature(VIRTIO_F_VERSION_1) | feature(kTestFeature);
  static constexpr uint64_t kRings = feature(VIRTIO_F_INDIRECT_DESC) | feature(VIRTIO_F_EVENT_IDX) |
                                     feature(VIRTIO_F_ACCESS_PLATFORM) | feature(VIRTIO_F_RING_PACKED) |
                                     feature(VIRTIO_F_IN_ORDER) | feature(VIRTIO_F_NOTIFICATION_DATA) |
                                     feature(VIRTIO_F_RING_RESET);
  void SetUp() override {
    if (GetParam() == Kind::kMmio) {
      bench = std::make_unique<MmioBench>(memory);
      return;
    }
    auto made = std::make_unique<PciBench>(memory, GetParam() == Kind::kPciMsix);
    made->map();
    bench = std::move(made);
  }
  void negotiate(uint64_t features = kWanted) {
    bench->set_status(1);
    bench->set_status(3);
    bench->set_features(features);
    bench->set_status(11);
  }
  void start() {
    negotiate();
    bench->set_queue(0, driver.setup);
    bench->set_status(15);
  }
  GuestMemory memory;
  FakeQueue driver{memory, 8};
  std::unique_ptr<Bench> bench;
};

TEST_P(TransportTest, offers_its_features) {
  EXPECT_EQ(bench->features(), kWanted | kRings);
}

TEST(DeviceOptions, packed_in_order_and_the_like_are_offered_when_asked_for) {
  EXPECT_EQ(DeviceOptions{}.withheld_features(), feature(VIRTIO_F_RING_PACKED) | feature(VIRTIO_F_IN_ORDER) |
                                                     feature(VIRTIO_F_NOTIFICATION_DATA) |
                                                     feature(VIRTIO_F_ACCESS_PLATFORM));
  EXPECT_EQ(everything_offered().withheld_features(), 0u);
}

TEST_P(TransportTest, serves_a_packed_ring) {
  FakePackedQueue packed(memory, 7);
  negotiate(kWanted | feature(VIRTIO_F_RING_PACKED));
  bench->set_queue(0, packed.setup);
  bench->set_status(15);
  packed.chain().readable("x").offer(3);
  bench->notify(0);
  EXPECT_TRUE(packed.used().has_value());
  EXPECT_TRUE(bench->interrupted());
  bench->save_and_load();
  packed.chain().readable("y").offer(4);
  bench->notify(0);
  EXPECT_EQ(packed.used()->id, 4u);
}

TEST_P(TransportTest, notification_data_beside_the_queue) {
  negotiate(kWanted | feature(VIRTIO_F_NOTIFICATION_DATA));
  bench->set_queue(0, driver.setup);
  bench->set_status(15);
  driver.chain().readable("x").offer();
  bench->notify_with_data(0x00010000);
  EXPECT_EQ(bench->device->served, 1);
}

TEST_P(TransportTest, queue_is_reset_and_set_up_anew) {
  negotiate(kWanted | feature(VIRTIO_F_RING_RESET));
  bench->set_queue(0, driver.setup);
  bench->set_status(15);
  driver.chain().readable("x").offer();
  bench->notify(0);
  bench->reset_queue(0);
  EXPECT_FALSE(bench->queue_enabled(0));
  driver.chain().readable("x").offer();
  bench->notify(0);
  EXPECT_EQ(bench->device->served, 1);
  FakeQueue other(memory, 4);
  bench->set_queue(0, other.setup);
  EXPECT_TRUE(bench->queue_enabled(0));
  other.chain().readable("x").offer();
  bench->notify(0);
  EXPECT_TRUE(other.used().has_value());
  EXPECT_EQ(bench->status(), 15);
}

TEST_P(TransportTest, queue_that_was_reset_needs_a_good_setup) {
  negotiate(kWanted | feature(VIRTIO_F_RING_RESET));
  bench->set_queue(0, driver.setup);
  bench->set_status(15);
  bench->reset_queue(0);
  driver.setup.device = GuestMemory::kBytes;
  bench->set_queue(0, driver.setup);
  EXPECT_EQ(bench->status(), 15 | status::kNeedsReset);
  EXPECT_EQ(bench->device->failures(), 1u);
}

TEST_P(TransportTest, queue_reset_without_its_feature_is_ignored) {
  start();
  bench->reset_queue(0);
  bench->reset_queue(77);
  EXPECT_TRUE(bench->queue_enabled(0));
}

TEST_P(TransportTest, state_of_a_queue_that_was_reset) {
  negotiate(kWanted | feature(VIRTIO_F_RING_RESET));
  bench->set_queue(0, driver.setup);
  bench->set_status(15);
  bench->reset_queue(0);
  bench->save_and_load();
  bench->set_queue(0, driver.setup);
  driver.chain().readable("x").offer();
  bench->notify(0);
  EXPECT_EQ(bench->device->served, 1);
}

TEST_P(TransportTest, serves_a_chain_and_interrupts) {
  start();
  EXPECT_EQ(bench->status(), 15);
  driver.chain().readable("x").offer();
  bench->notify(0);
  EXPECT_TRUE(driver.used().has_value());
  EXPECT_TRUE(bench->interrupted());
  EXPECT_FALSE(bench->interrupted());
}

TEST_P(TransportTest, features_not_offered_are_refused) {
  negotiate(kWanted | feature(9));
  EXPECT_EQ(bench->status(), 3);
}

TEST_P(TransportTest, legacy_drivers_are_refused) {
  negotiate(feature(kTestFeature));
  EXPECT_EQ(bench->status(), 3);
}

TEST_P(TransportTest, features_are_fixed_after_features_ok) {
  negotiate();
  bench->set_features(0);
  bench->set_queue(0, driver.setup);
  bench->set_status(15);
  EXPECT_EQ(bench->status(), 15);
}

TEST_P(TransportTest, driver_ok_without_features_ok_is_ignored) {
  bench->set_status(7);
  EXPECT_EQ(bench->status(), 3);
}

TEST_P(TransportTest, notify_before_driver_ok_is_ignored) {
  negotiate();
  bench->set_queue(0, driver.setup);
  driver.chain().readable("x").offer();
  bench->notify(0);
  EXPECT_EQ(bench->device->served, 0);
}

TEST_P(TransportTest, notify_of_queues_not_enabled_is_ignored) {
  start();
  bench->notify(1);
  bench->notify(63);
  EXPECT_EQ(bench->status(), 15);
}

TEST_P(TransportTest, absent_queue_has_size_zero) {
  EXPECT_EQ(bench->queue_max(1), 8u);
  EXPECT_EQ(bench->queue_max(2), 0u);
  EXPECT_EQ(bench->queue_max(0xffff), 0u);
}

TEST_P(TransportTest, unusable_queue_needs_a_reset) {
  negotiate();
  driver.setup.size = 5;
  bench->set_queue(0, driver.setup);
  bench->set_status(15);
  EXPECT_EQ(bench->status(), 15 | status::kNeedsReset);
  driver.chain().readable("x").offer();
  bench->notify(0);
  EXPECT_EQ(bench->device->served, 0);
}

TEST_P(TransportTest, broken_ring_needs_a_reset_and_says_so) {
  start();
  driver.set_available_index(100);
  bench->notify(0);
  EXPECT_EQ(bench->status(), 15 | status::kNeedsReset);
  if (GetParam() != Kind::kPciMsix) {  // no vector was given to the configuration
    EXPECT_TRUE(bench->interrupted());
  }
}

TEST_P(TransportTest, reset_starts_anew) {
  start();
  driver.set_available_index(100);
  bench->notify(0);
  bench->set_status(0);
  EXPECT_EQ(bench->status(), 0);
  EXPECT_FALSE(bench->interrupted());
  FakeQueue again(memory, 8);
  negotiate();
  bench->set_queue(0, again.setup);
  bench->set_status(15);
  again.chain().readable("x").offer();
  bench->notify(0);
  EXPECT_TRUE(again.used().has_value());
}

TEST_P(TransportTest, nothing_moves_after_reset) {
  start();
  bench->set_status(0);
  driver.chain().readable("x").offer();
  bench->notify(0);
  EXPECT_EQ(bench->device->served, 0);
}

TEST_P(TransportTest, config_reads_back_and_ends) {
  bench->write_config(4, 0x11223344);
  EXPECT_EQ(bench->read_config(4), 0x11223344u);
  EXPECT_EQ(bench->read_config(6), 0x1122u);
  EXPECT_EQ(bench->read_config(8), 0u);
}

TEST_P(TransportTest, config_change_moves_the_generation) {
  start();
  const uint32_t before = bench->generation();
  bench->device->change_config();
  EXPECT_NE(bench->generation(), before);
}

TEST_P(TransportTest, garbage_in_every_register) {
  std::mt19937_64 random(20261120);
  for (int i = 0; i < 20000; ++i) {
    const unsigned size = 1u << random() % 4;
    if (random() % 2 == 0)
      bench->poke(random(), size, random() % 3 == 0 ? random() : random() % 256);
    else
      bench->peek(random(), size);
  }
  bench->set_status(0);
  EXPECT_EQ(bench->status(), 0);
}

TEST_P(TransportTest, state_in_the_middle_of_negotiation) {
  negotiate();
  bench->save_and_load();
  EXPECT_EQ(bench->status(), 11);
  bench->set_queue(0, driver.setup);
  bench->set_status(15);
  driver.chain().readable("x").offer();
  bench->notify(0);
  EXPECT_TRUE(driver.used().has_value());
}

TEST_P(TransportTest, state_of_a_running_device) {
  start();
  bench->write_config(0, 7);
  driver.chain().readable("x").offer();
  bench->notify(0);
  bench->interrupted();
  bench->save_and_load();
  EXPECT_EQ(bench->status(), 15);
  EXPECT_EQ(bench->read_config(0), 7u);
  driver.chain().readable("y").offer();
  bench->notify(0);
  EXPECT_EQ(driver.used_index(), 2);
  EXPECT_TRUE(bench->interrupted());
}

TEST_P(TransportTest, state_of_a_broken_device) {
  start();
  driver.set_available_index(100);
  bench->notify(0);
  bench->save_and_load();
  EXPECT_EQ(bench->status(), 15 | status::kNeedsReset);
  bench->set_status(0);
  EXPECT_EQ(bench->status(), 0);
}

INSTANTIATE_TEST_SUITE_P(Both, TransportTest, testing::Values(Kind::kMmio, Kind::kPciPin, Kind::kPciMsix),
                         [](const auto& instance) -> std::string {
                           if (instance.param == Kind::kMmio) return "mmio";
                           return instance.param == Kind::kPciPin ? "pci_pin" : "pci_msix";
                         });

TEST(MmioTest, identity) {
  GuestMemory memory;
  MmioBench bench(memory);
  EXPECT_EQ(bench.get(0), 0x74726976u);
  EXPECT_EQ(bench.get(4), 2u);
  EXPECT_EQ(bench.get(8), 4u);
}

TEST(VirtioPciTest, identity_and_capabilities) {
  GuestMemory memory;
  PciBench bench(memory);
  EXPECT_EQ(bench.bus.config_read(PciBench::kDevfn, 0, 4), 0x10441af4u);
  std::vector<unsigned> vendor_types;
  unsigned at = bench.bus.config_read(PciBench::kDevfn, 0x34, 1);
  for (int i = 0; at != 0 && i < 16; ++i) {
    if (bench.bus.config_read(PciBench::kDevfn, static_cast<uint16_t>(at), 1) == 9)
      vendor_types.push_back(bench.bus.config_read(PciBench::kDevfn, static_cast<uint16_t>(at + 3), 1));
    at = bench.bus.config_read(PciBench::kDevfn, static_cast<uint16_t>(at + 1), 1);
  }
  EXPECT_EQ(vendor_types, (std::vector<unsigned>{1, 3, 4, 2, 5}));
}

// The capability's place, as a driver finds it.
uint16_t access_window(pci::Bus& bus) {
  unsigned at = bus.config_read(PciBench::kDevfn, 0x34, 1);
  while (at != 0 && !(bus.config_read(PciBench::kDevfn, static_cast<uint16_t>(at), 1) == 9 &&
                      bus.config_read(PciBench::kDevfn, static_cast<uint16_t>(at + 3), 1) == 5))
    at = bus.config_read(PciBench::kDevfn, static_cast<uint16_t>(at + 1), 1);
  return static_cast<uint16_t>(at);
}

TEST(ControlState, features_that_were_agreed_on_were_offered) {
  GuestMemory memory;
  TestDevice saved(memory.space), loaded(memory.space);
  saved.more_features = feature(kTestFeature + 1);
  Control from(saved);
  ASSERT_TRUE(from.claim(Interface::kModern));
  from.write_driver_features(static_cast<uint32_t>(saved.more_features));
  from.driver_feature_select = 1;
  from.write_driver_features(static_cast<uint32_t>(feature(VIRTIO_F_VERSION_1) >> 32));
  from.write_status(status::kAcknowledge | status::kDriver | status::kFeaturesOk);
  ASSERT_NE(from.status() & status::kFeaturesOk, 0);
  state::Saver saver;
  from.state(saver);
  const auto bytes = saver.take();
  for (const bool same : {true, false}) {
    loaded.more_features = same ? saved.more_features : 0;
    Control to(loaded);
    state::Loader loader(bytes);
    to.state(loader);
    EXPECT_EQ(loader.finish().has_value(), same);
  }
}

TEST(VirtioPciTest, configuration_access_window) {
  GuestMemory memory;
  PciBench bench(memory);
  const uint16_t window = access_window(bench.bus);
  bench.bus.config_write(PciBench::kDevfn, window + 4u, 1, 4);
  bench.bus.config_write(PciBench::kDevfn, window + 8u, 4, 0x14);
  bench.bus.config_write(PciBench::kDevfn, window + 12u, 4, 1);
  bench.bus.config_write(PciBench::kDevfn, window + 16u, 1, 3);
  EXPECT_EQ(bench.bus.config_read(PciBench::kDevfn, window + 16u, 1), 3u);
}

TEST(VirtioPciTest, configuration_access_window_out_of_range) {
  GuestMemory memory;
  PciBench bench(memory);
  const uint16_t window = access_window(bench.bus);
  bench.bus.config_write(PciBench::kDevfn, window + 4u, 1, 4);
  bench.bus.config_write(PciBench::kDevfn, window + 8u, 4, 0xfffffffc);
  bench.bus.config_write(PciBench::kDevfn, window + 12u, 4, 4);
  EXPECT_EQ(bench.bus.config_read(PciBench::kDevfn, window + 16u, 4), 0u);
  bench.bus.config_write(PciBench::kDevfn, window + 16u, 4, 1);
}

TEST(VirtioPciTest, vector_that_does_not_exist_reads_back_as_none) {
  GuestMemory memory;
  PciBench bench(memory);
  bench.map();
  bench.set(0x10, 2, 3);
  EXPECT_EQ(bench.get(0x10, 2), 0xffffu);
  bench.set(0x10, 2, 2);
  EXPECT_EQ(bench.get(0x10, 2), 2u);
}

}  // namespace
}  // namespace ostler::virtio
