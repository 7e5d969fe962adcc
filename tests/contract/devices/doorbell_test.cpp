// Sixty-four vCPUs that write every doorbell as fast as they can: nothing grows, and the main loop, on which
// the back ends work, still serves others.
#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <future>
#include <thread>

#include "devices/virtio/features.h"
#include "memory/ram_block.h"
#include "net/open.h"
#include "rigs/virtio_backends.h"
#include "rigs/virtqueue_driver.h"
#include "support/loop_thread.h"

namespace ostler::rigs {
namespace {

constexpr unsigned kVcpus = 64, kWrites = 20000, kOthers = 100;
constexpr uint64_t kRam = 0x20000, kMostGrowth = 24u << 20;

struct Quiet final : virtio::Transport {
  void interrupt_queue(unsigned) override {}
  void interrupt_config() override {}
  void needs_reset() override {}
};

uint64_t resident_bytes() {
  uint64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages >> pages;
  return pages * 4096;
}

class Doorbells : public testing::TestWithParam<std::string> {
 protected:
  Doorbells() {
    memory::Transaction change(memory_);
    change.add(memory_.root(), 0, region_);
  }
  // "user": a card before user networking, whose frames cross to the loop's thread.
  std::unique_ptr<virtio::Device> make() {
    if (GetParam() != "user") return back_ends_.make(GetParam(), memory_);
    network_ = *ostler::net::open(thread_.loop, "user", {});
    return std::make_unique<virtio::net::NetDevice>(memory_, *network_, virtio::net::Options{});
  }

  memory::AddressSpace memory_{"memory", memory::AddressSpace::kMemorySize};
  std::shared_ptr<memory::RamBlock> ram_ = *memory::RamBlock::create({.name = "ram", .size = kRam});
  memory::RamRegion region_{"ram", ram_};
  test::LoopThread thread_;
  std::unique_ptr<ostler::net::Backend> network_;
  VirtioBackends back_ends_;
  Quiet transport_;
};

TEST_P(Doorbells, flood_grows_nothing_and_starves_nobody) {
  auto device = make();
  device->connect(transport_);
  const uint64_t features = virtio::feature(virtio::VIRTIO_F_VERSION_1);
  std::vector<VirtqueueDriver> drivers;
  std::vector<virtio::QueueSetup> setups;
  for (unsigned i = 0; i < device->queue_count(); ++i) {
    drivers.emplace_back(std::span(ram_->host(), kRam), 0x1000 + i * VirtqueueDriver::kBytes, 8, features);
    setups.push_back(drivers.back().setup());
  }
  ASSERT_TRUE(device->activate(features, setups));
  // Something lies in each queue, good or not.
  for (auto& driver : drivers) {
    const VirtqueueDriver::Buffer buffers[] = {{0x10000, 64, false}, {0x11000, 256, true}};
    while (driver.offer(buffers, false)) {
    }
  }
  thread_.start();
  const auto flood = [&](auto&& meanwhile) {
    std::vector<std::jthread> vcpus;
    for (unsigned cpu = 0; cpu < kVcpus; ++cpu)
      vcpus.emplace_back([&, cpu] {
        for (unsigned i = 0; i < kWrites; ++i) device->notify((cpu + i) % device->queue_count());
      });
    meanwhile();
  };
  // While the loop is busy with something else, nothing piles up for it.
  std::promise<void> free;
  thread_.loop.post([&] { free.get_future().wait(); });
  const uint64_t before = resident_bytes();
  flood([] {});
  EXPECT_LT(resident_bytes(), before + kMostGrowth);
  free.set_value();
  flood([&] {
    for (unsigned i = 0; i < kOthers; ++i) {
      std::promise<void> served;
      thread_.loop.post([&] { served.set_value(); });
      served.get_future().wait();
    }
  });
  thread_.stop();
  device.reset();
  network_.reset();
}

INSTANTIATE_TEST_SUITE_P(Devices, Doorbells,
                         testing::Values("balloon", "blk", "net", "rng", "console", "scsi", "vsock", "9p",
                                         "user"),
                         [](const auto& instance) { return instance.param; });

}  // namespace
}  // namespace ostler::rigs
