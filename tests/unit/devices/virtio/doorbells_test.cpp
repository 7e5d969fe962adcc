// Notifications that come as eventfds, over both transports.
#include <gtest/gtest.h>
#include <unistd.h>

#include <condition_variable>
#include <thread>

#include "devices/virtio/transport/mmio.h"
#include "devices/virtio/transport/pci.h"
#include "fake_driver.h"

namespace ostler::virtio {
namespace {

// Counts how often each of its three queues is served.
class CountingDevice final : public Device {
 public:
  explicit CountingDevice(memory::AddressSpace& memory) : Device(memory, "counting", {8, 8, 8}) {}
  ~CountingDevice() override { reset(); }
  uint16_t type() const override { return kTypeEntropy; }
  std::array<unsigned, 3> served() {
    const Lock lock(mutex_);
    return served_;
  }
  void wait_for(unsigned queue) {
    Lock lock(mutex_);
    changed_.wait(lock, [&] { return served_[queue] != 0; });
  }

 private:
  uint64_t device_features() const override { return 0; }
  void config_locked(std::vector<std::byte>&) override {}
  void process(unsigned queue, Lock&) override {
    ++served_[queue];
    changed_.notify_all();
  }
  void device_state(state::Archive& archive) override { archive.section("counting", 1); }
  std::array<unsigned, 3> served_{};
  std::condition_variable changed_;
};

class DoorbellTest : public ::testing::Test {
 protected:
  std::unique_ptr<CountingDevice> make() {
    auto device = std::make_unique<CountingDevice>(memory_.space);
    device_ = device.get();
    return device;
  }
  void start() {
    std::vector<QueueSetup> setups;
    for (const test::FakeQueue& queue : queues_) setups.push_back(queue.setup);
    ASSERT_TRUE(device_->activate(feature(VIRTIO_F_VERSION_1), setups));
  }
  static void ring(const bus::Doorbell& bell) {
    const uint64_t one = 1;
    EXPECT_EQ(write(bell.fd, &one, sizeof one), ssize_t{sizeof one});
  }

  test::GuestMemory memory_;
  std::array<test::FakeQueue, 3> queues_{test::FakeQueue{memory_, 8}, test::FakeQueue{memory_, 8},
                                         test::FakeQueue{memory_, 8}};
  event::VirtualClock clock_;
  event::Loop loop_{clock_};
  CountingDevice* device_ = nullptr;
};

TEST_F(DoorbellTest, ThereAreNoneUnlessALoopServesThem) {
  const Pci pci(make());
  EXPECT_TRUE(pci.doorbells().empty());
  const Mmio mmio(make(), {});
  EXPECT_TRUE(mmio.doorbells().empty());
}

TEST_F(DoorbellTest, AreTheNotificationRegisters) {
  Pci pci(make());
  pci.serve_on(loop_);
  const auto of_pci = pci.doorbells();
  ASSERT_EQ(of_pci.size(), 3u);
  for (unsigned queue = 0; queue < 3; ++queue) {
    EXPECT_EQ(of_pci[queue].offset, 0x3000u + 4 * queue);
    EXPECT_FALSE(of_pci[queue].value);
  }
  Mmio mmio(make(), {});
  mmio.serve_on(loop_);
  const auto of_mmio = mmio.doorbells();
  ASSERT_EQ(of_mmio.size(), 3u);
  for (unsigned queue = 0; queue < 3; ++queue) {
    EXPECT_EQ(of_mmio[queue].offset, 0x50u);
    EXPECT_EQ(of_mmio[queue].value, queue);
  }
}

TEST_F(DoorbellTest, AreServedOnTheLoop) {
  Pci pci(make());
  pci.serve_on(loop_);
  start();
  const auto before = device_->served();
  std::thread thread([this] { loop_.run(); });
  ring(pci.doorbells()[2]);
  device_->wait_for(2);
  loop_.stop();
  thread.join();
  EXPECT_EQ(device_->served()[0], before[0]);
}

// What was rung before the vCPUs stopped belongs into what is saved.
TEST_F(DoorbellTest, WhatWasRungIsServedBeforeADeviceIsQuiet) {
  Pci pci(make());
  pci.serve_on(loop_);
  start();
  const auto before = device_->served();
  ring(pci.doorbells()[1]);
  ring(pci.doorbells()[1]);
  pci.quiesce();
  EXPECT_EQ(device_->served()[1], before[1] + 1) << "once for both";
  EXPECT_EQ(device_->served()[0], before[0]);
  pci.quiesce();
  EXPECT_EQ(device_->served()[1], before[1] + 1);
}

}  // namespace
}  // namespace ostler::virtio
