// A disk of another process as a PCI function on a bus, with its guest's driver: what the host's kernel is
// told of its interrupts is the test's affair.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "base/bytes.h"
#include "devices/pci/bus.h"
#include "devices/virtio/block/request.h"
#include "devices/virtio/transport/pci.h"
#include "devices/virtio/vhost_user/block.h"
#include "fake_driver.h"
#include "vhost_user/fake_back_end.h"

namespace ostler::virtio::vhost_user::test {

using ostler::virtio::test::FakeQueue;
using ostler::virtio::test::GuestMemory;

struct IrqPins final : bus::IrqSink {
  void set_irq(unsigned pin, bool level) override {
    levels = level ? levels | 1u << pin : levels & ~(1u << pin);
  }
  unsigned levels = 0;
};

struct PluggedDisk {
  static constexpr uint64_t kBar = 0x10'0000'0000, kMsixBar = 0xc000'0000;
  static constexpr uint64_t kFeatures = feature(VIRTIO_F_VERSION_1) | feature(VIRTIO_F_EVENT_IDX) |
                                        feature(VIRTIO_F_INDIRECT_DESC) | feature(VIRTIO_F_RING_RESET);
  static constexpr uint8_t kDevfn = 8;
  static constexpr uint16_t kNone = 0xffff;
  struct Request {
    uint32_t type = 0, reserved = 0;
    uint64_t sector = 0;
  };

  PluggedDisk(bus::MsiSink& msi, bus::MessageFds* kernel, uint16_t queue_count = 1)
      : bus({memory.space, memory.space.root()}, {ports, ports.root()}, pins, msi) {
    if (kernel != nullptr) bus.set_message_fds(*kernel);
    for (uint16_t i = 0; i < queue_count; ++i) queues.emplace_back(memory, 8);
  }
  ~PluggedDisk() { unplug(); }

  static FakeBackEnd::Options back_end_options() {
    FakeBackEnd::Options options;
    options.features |= feature(VIRTIO_F_INDIRECT_DESC) | feature(virtio::block::VIRTIO_BLK_F_MQ);
    options.config = std::vector<uint8_t>(60);
    options.config[0] = 200;
    options.config[34] = 8;
    return options;
  }

  void plug() {
    BlockOptions options;
    options.num_queues = static_cast<uint16_t>(queues.size());
    options.packed = options.in_order = true;  // offered, when a driver wants it
    auto made = BlockDevice::create(memory.space, loop, options, {fake.path(), reconnect});
    ASSERT_TRUE(made) << made.error().message();
    device = made->get();
    function = std::make_shared<Pci>(*std::move(made));
    if (lends) function->lend_to_kernel();
    ASSERT_TRUE(bus.add(function, pci::Address{1, 0}));
    bus.config_write(kDevfn, 0x20, 4, kBar & 0xffffffff);
    bus.config_write(kDevfn, 0x24, 4, kBar >> 32);
    bus.config_write(kDevfn, 0x14, 4, kMsixBar);
    bus.config_write(kDevfn, 0x04, 2, 6);
  }
  void unplug() {
    if (!function) return;
    bus.remove(*function);
    function.reset();
    bus.collect();
    device = nullptr;
  }

  // ---- registers ----
  uint64_t get(uint64_t at, unsigned size) { return reader.read(GuestPhys{kBar + at}, size); }
  void set(uint64_t at, unsigned size, uint64_t value) { reader.write(GuestPhys{kBar + at}, size, value); }
  void set_msix(bool on, bool masked = false) {
    bus.config_write(kDevfn, 0x42, 2, (on ? 0x8000u : 0u) | (masked ? 0x4000u : 0u));
  }
  void program(unsigned entry, uint32_t address, uint32_t data, bool masked = false) {
    const uint64_t at = kMsixBar + 16 * uint64_t{entry};
    reader.write(GuestPhys{at}, 4, address);
    reader.write(GuestPhys{at + 4}, 4, 0);
    reader.write(GuestPhys{at + 8}, 4, data);
    mask(entry, masked);
  }
  void mask(unsigned entry, bool masked) {
    reader.write(GuestPhys{kMsixBar + 16 * uint64_t{entry} + 12}, 4, masked ? 1 : 0);
  }
  uint64_t pending() { return reader.read(GuestPhys{kMsixBar + 2048}, 8); }
  void set_vector(uint16_t queue, uint16_t vector) {
    set(0x16, 2, queue);
    set(0x1a, 2, vector);
  }
  uint8_t status() { return static_cast<uint8_t>(get(0x14, 1)); }
  uint8_t isr() { return static_cast<uint8_t>(get(0x1000, 1)); }
  void set_up(uint16_t queue) {
    const QueueSetup& setup = queues[queue].setup;
    set(0x16, 2, queue);
    set(0x18, 2, setup.size);
    set(0x20, 8, setup.descriptors);
    set(0x28, 8, setup.driver);
    set(0x30, 8, setup.device);
    set(0x1c, 2, 1);
  }
  // Vector i + 1 is queue i's, its data 0x40 + i; `first_vector` kNone: they have none.
  void drive(uint64_t features = kFeatures, bool with_vectors = true) {
    if (with_vectors) set_msix(true);
    set(0x14, 1, 1);
    set(0x14, 1, 3);
    set(8, 4, 0);
    set(0xc, 4, features & 0xffffffff);
    set(8, 4, 1);
    set(0xc, 4, features >> 32);
    set(0x14, 1, 11);
    for (uint16_t i = 0; i < queues.size(); ++i) {
      if (with_vectors) {
        program(i + 1u, 0xfee00000, 0x40u + i);
        set_vector(i, static_cast<uint16_t>(i + 1));
      }
      set_up(i);
    }
    set(0x14, 1, 15);
    pump();
  }
  void start(uint64_t features = kFeatures) {
    ASSERT_NO_FATAL_FAILURE(plug());
    drive(features);
  }

  // ---- requests ----
  // Where the data will be.
  uint64_t ask(uint64_t sector = 0, uint16_t queue = 0) {
    auto chain = queues[queue].chain().readable_object(Request{.sector = sector}).writable(512).writable(1);
    chain.offer_indirect();
    set(0x3000 + 4u * queue, 2, queue);
    return 0;
  }
  // The sector that the back end is asked for next, and its head.
  struct Asked {
    uint64_t sector;
    uint16_t head;
  };
  std::optional<Asked> asked(unsigned queue = 0) {
    const auto chain = fake.pop(queue);
    if (!chain || chain->readable.size() != sizeof(Request)) return std::nullopt;
    Request request;
    std::memcpy(&request, chain->readable.data(), sizeof request);
    return Asked{request.sector, chain->head};
  }
  // The back end does the next request, and calls.
  void answer(unsigned queue = 0) {
    const auto next = asked(queue);
    ASSERT_TRUE(next);
    fake.push(queue, next->head, 513);
  }

  // What is ready now on the loop.
  void pump() {
    loop.post([this] { loop.stop(); });
    loop.run();
  }

  GuestMemory memory{memory::Backing::kMemfd};
  memory::AddressSpace ports{"ports", memory::AddressSpace::kPortSize};
  std::deque<FakeQueue> queues;
  FakeBackEnd fake{back_end_options()};
  event::VirtualClock clock;  // paused
  event::Loop loop{clock};
  unsigned reconnect = 0;
  bool lends = true;  // irqfd=on
  IrqPins pins;
  pci::Bus bus;
  memory::AddressSpace::Reader reader{memory.space};
  std::shared_ptr<Pci> function;
  BlockDevice* device = nullptr;  // of `function`
};

}  // namespace ostler::virtio::vhost_user::test
