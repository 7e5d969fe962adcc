// virtio devices on both transports, with a hostile driver's rings in RAM.
#include <cstring>

#include "devices/pci/bus.h"
#include "devices/pci/config_access.h"
#include "devices/pci/piix.h"
#include "devices/virtio/transport/legacy_ports.h"
#include "devices/virtio/transport/mmio.h"
#include "devices/virtio/transport/pci.h"
#include "memory/ram_block.h"
#include "rigs/rigs.h"
#include "rigs/virtio_backends.h"

namespace ostler::rigs {
namespace {

using chipset::FakeIrqs;

// The back ends of whichever device is made, and the RAM with its rings.
class VirtioRig : public Rig {
 public:
  static constexpr uint64_t kRam = 256 * 1024;
  static constexpr uint64_t kRings = 0x4000;  // of queue q: + q * kRingBytes
  static constexpr uint64_t kRingBytes = 0x4000;
  static constexpr uint64_t kBuffers = 0x20000;

  VirtioRig() {
    memory::Transaction change(memory_);
    change.add(memory_.root(), 0, region_);
  }

  void stimulate(uint32_t random) override {
    const uint32_t more = random >> 4;
    switch (random % 16) {
      case 0:
        set_up();
        return;
      case 1:
      case 2:
      case 3:
        offer(more);
        return;
      case 4: {  // garbage somewhere
        const uint64_t garbage = more * 0x9e3779b97f4a7c15u;
        std::memcpy(ram_->host() + more % (kRam - 8), &garbage, 8);
        return;
      }
      case 5:
        notify(more % 6);
        return;
      case 6:
        back_ends_.stimulate(more);
        return;
      default:
        notify(more % 2);
    }
  }

 protected:
  std::unique_ptr<virtio::Device> make_device(const std::string& kind) {
    return back_ends_.make(kind, memory_);
  }
  // The driver's steps to DRIVER_OK with queues at known places.
  virtual void set_up() = 0;
  virtual void notify(unsigned queue) = 0;

  virtual virtio::QueueSetup setup_of(unsigned queue) {
    const uint64_t at = kRings + queue * kRingBytes;
    return {.enabled = true, .size = 8, .descriptors = at, .driver = at + 0x400, .device = at + 0x800};
  }

  memory::AddressSpace memory_{"memory", memory::AddressSpace::kMemorySize};

 private:
  template <class T>
  void put(uint64_t at, T value) {
    std::memcpy(ram_->host() + at, &value, sizeof value);
  }
  // A chain of a header and a few buffers, mostly well made, made available.
  void offer(uint32_t random) {
    struct Descriptor {
      uint64_t address;
      uint32_t length;
      uint16_t flags;
      uint16_t next;
    };
    const auto setup = setup_of(random % 6);
    const auto writable = static_cast<uint16_t>((random >> 3 & 1) != 0 ? 2 : 0);
    const uint32_t type = random >> 4 & 15;
    put(kBuffers, type);
    put(kBuffers + 8, uint64_t{random >> 8 & 0xff});
    const uint32_t data = (random >> 16 & 7) * 512 + 1;
    put(setup.descriptors, Descriptor{kBuffers, (random >> 20 & 7) == 0 ? 8u : 16u, 1, 1});
    put(setup.descriptors + 16, Descriptor{kBuffers + 0x100, data - (writable != 0 ? 0u : 1u),
                                           static_cast<uint16_t>(writable | 1), 2});
    put(setup.descriptors + 32, Descriptor{kBuffers + 0x7000, (random >> 23 & 1) + 1u, 2, 0});
    put(setup.descriptors + 48, Descriptor{kBuffers + 0x2000, 1526, 2, 0});
    uint16_t index = 0;
    std::memcpy(&index, ram_->host() + setup.driver + 2, 2);
    put(setup.driver + 4 + 2u * (index % setup.size), static_cast<uint16_t>((random >> 24 & 3) == 0 ? 3 : 0));
    put(setup.driver + 2, static_cast<uint16_t>(index + 1));
  }
  std::shared_ptr<memory::RamBlock> ram_ = *memory::RamBlock::create({.name = "ram", .size = kRam});
  memory::RamRegion region_{"ram", ram_};
  VirtioBackends back_ends_;
};

constexpr uint64_t kFeatures = uint64_t{1} << virtio::VIRTIO_F_VERSION_1 |
                               uint64_t{1} << virtio::VIRTIO_F_EVENT_IDX |
                               uint64_t{1} << virtio::VIRTIO_F_INDIRECT_DESC;

class MmioRig final : public VirtioRig {
 public:
  explicit MmioRig(const std::string& kind) : mmio_(make_device(kind), bus::IrqLine(irqs_, 0)) {}
  state::Savable& device() override { return mmio_; }
  std::vector<Range> ranges() override { return {{&mmio_, virtio::Mmio::kSize}}; }

 private:
  void set_up() override {
    const auto set = [&](uint64_t at, uint64_t value) { mmio_.io_write(at, 4, value & 0xffffffff); };
    set(0x70, 0);
    set(0x70, 3);
    set(0x24, 0);
    set(0x20, kFeatures);
    set(0x24, 1);
    set(0x20, kFeatures >> 32);
    set(0x70, 11);
    for (unsigned queue = 0; queue < mmio_.device().queue_count(); ++queue) {
      const auto setup = setup_of(queue);
      set(0x30, queue);
      set(0x38, setup.size);
      set(0x80, setup.descriptors);
      set(0x90, setup.driver);
      set(0xa0, setup.device);
      set(0x44, 1);
    }
    set(0x70, 15);
  }
  void notify(unsigned queue) override { mmio_.io_write(0x50, 4, queue); }

  FakeIrqs irqs_;
  virtio::Mmio mmio_;
};

struct IgnoredMsi final : bus::MsiSink {
  void send_msi(GuestPhys, uint32_t) override {}
};

class PciRig : public VirtioRig {
 public:
  explicit PciRig(const std::string& kind, virtio::PciInterfaces interfaces = virtio::PciInterfaces::kModern)
      : function_(std::make_shared<virtio::Pci>(make_device(kind), std::optional<uint16_t>(), interfaces)) {
    if (!bus_.add(function_, pci::Address{1, 0})) std::abort();
  }
  state::Savable& device() override { return *function_; }
  std::vector<Range> ranges() override {
    return {{function_.get(), 0x4000}, {&config_, pci::ConfigPorts::kPorts}};
  }
  void stimulate(uint32_t random) override {
    // Configuration space of the function, at its own address.
    if (random % 8 == 1)
      bus_.config_write(8, static_cast<uint16_t>(random >> 4 & 0xfc), 4, random * 0x9e3779b9u);
    else
      VirtioRig::stimulate(random);
  }

 protected:
  void set_up() override {
    bus_.config_write(8, 4, 2, 6);
    const auto set = [&](uint64_t at, unsigned size, uint64_t value) {
      function_->io_write(at, size, value);
    };
    set(0x14, 1, 0);
    set(0x14, 1, 3);
    set(0x08, 4, 0);
    set(0x0c, 4, kFeatures & 0xffffffff);
    set(0x08, 4, 1);
    set(0x0c, 4, kFeatures >> 32);
    set(0x14, 1, 11);
    for (unsigned queue = 0; queue < function_->device().queue_count(); ++queue) {
      const auto setup = setup_of(queue);
      set(0x16, 2, queue);
      set(0x18, 2, setup.size);
      set(0x20, 8, setup.descriptors);
      set(0x28, 8, setup.driver);
      set(0x30, 8, setup.device);
      set(0x1a, 2, queue);
      set(0x1c, 2, 1);
    }
    set(0x14, 1, 15);
  }
  void notify(unsigned queue) override { function_->io_write(0x3000 + 4 * queue, 2, queue); }

  FakeIrqs irqs_;
  IgnoredMsi msi_;
  memory::AddressSpace ports_{"ports", memory::AddressSpace::kPortSize};
  std::shared_ptr<virtio::Pci> function_;
  pci::Bus bus_{{memory_, memory_.root()}, {ports_, ports_.root()}, irqs_, msi_};
  pci::ConfigPorts config_{bus_};
};

// Both interfaces; the driver that keeps the rules is a legacy one.
class TransitionalRig final : public PciRig {
 public:
  explicit TransitionalRig(const std::string& kind) : PciRig(kind, virtio::PciInterfaces::kTransitional) {}
  std::vector<Range> ranges() override {
    auto all = PciRig::ranges();
    all.push_back({function_->legacy_ports(), function_->legacy_ports()->region().size()});
    return all;
  }

 private:
  virtio::QueueSetup setup_of(unsigned queue) override {
    auto setup = PciRig::setup_of(queue);
    if (queue < function_->device().queue_count()) setup.size = function_->device().queue_max_size(queue);
    setup.driver = setup.descriptors + 16u * setup.size;
    setup.device = (setup.driver + 2u * (3u + setup.size) + 0xfff) & ~uint64_t{0xfff};
    return setup;
  }
  void set_up() override {
    bus_.config_write(8, 4, 2, 7);
    set(18, 1, 0);
    set(18, 1, 3);
    set(4, 4, kFeatures & 0xffffffff);
    for (unsigned queue = 0; queue < function_->device().queue_count(); ++queue) {
      set(14, 2, queue);
      set(8, 4, setup_of(queue).descriptors >> 12);
    }
    set(18, 1, 7);
  }
  void notify(unsigned queue) override { set(16, 2, queue); }
  void set(uint64_t port, unsigned size, uint64_t value) {
    function_->legacy_ports()->io_write(port, size, value);
  }
};

class Piix3Rig final : public Rig {
 public:
  state::Savable& device() override { return bridge_; }
  std::vector<Range> ranges() override { return {{&access_, 256}}; }
  void stimulate(uint32_t random) override { bridge_.set_irq(random >> 8 & 3, (random & 16) != 0); }

 private:
  // Configuration space as a range of bytes.
  struct Access final : bus::IoHandler {
    explicit Access(pci::Function& target) : function(target) {}
    std::string_view name() const override { return "config"; }
    uint64_t io_read(uint64_t offset, unsigned size) override {
      return function.config_read(static_cast<uint16_t>(offset), std::min(size, 4u));
    }
    void io_write(uint64_t offset, unsigned size, uint64_t value) override {
      function.config_write(static_cast<uint16_t>(offset), std::min(size, 4u), static_cast<uint32_t>(value));
    }
    pci::Function& function;
  };
  FakeIrqs pic_, io_apic_;
  pci::Piix3 bridge_{&pic_, &io_apic_, 16};
  Access access_{bridge_};
};

}  // namespace

std::vector<Kind> virtio_kinds() {
  std::vector<Kind> kinds;
  for (const std::string& name : VirtioBackends::kinds()) {
    kinds.push_back({"virtio_mmio_" + name, [name] { return std::make_unique<MmioRig>(name); }});
    kinds.push_back({"virtio_pci_" + name, [name] { return std::make_unique<PciRig>(name); }});
    if (name == "vsock") continue;  // came later
    kinds.push_back({"virtio_legacy_" + name, [name] { return std::make_unique<TransitionalRig>(name); }});
  }
  kinds.push_back({"piix3", [] { return std::make_unique<Piix3Rig>(); }});
  return kinds;
}

}  // namespace ostler::rigs
