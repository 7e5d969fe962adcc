// virtio-blk with its completions on an I/O thread, while several vCPUs notify and one resets the device.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "block/backend.h"
#include "block/null/null_node.h"
#include "devices/virtio/block/device.h"
#include "fake_driver.h"

namespace ostler::virtio::block {
namespace {

using test::FakeQueue;
using test::GuestMemory;

struct QuietTransport final : Transport {
  void interrupt_queue(unsigned) override { ++interrupts; }
  void interrupt_config() override {}
  void needs_reset() override {}
  std::atomic<int> interrupts{0};
};

constexpr uint64_t kFeatures = feature(VIRTIO_F_VERSION_1) | feature(VIRTIO_BLK_F_FLUSH);

std::shared_ptr<ostler::block::Backend> null_disk(ostler::block::IoThread& io) {
  auto client = ostler::block::Client::attach(
      std::make_shared<ostler::block::NullNode>(1 << 20), "disk",
      {.used = ostler::block::kPermissionRead | ostler::block::kPermissionWrite});
  return std::make_shared<ostler::block::NodeBackend>(*client, io.context());
}

TEST(BlockThreads, every_flush_completes_once) {
  constexpr int kRounds = 2000;
  GuestMemory memory;
  FakeQueue driver(memory, 16);
  ostler::block::IoThread io;
  QuietTransport transport;
  BlockDevice device(memory.space, null_disk(io), Options());
  device.connect(transport);
  const QueueSetup setups[] = {driver.setup};
  ASSERT_TRUE(device.activate(kFeatures, setups));
  auto chain = driver.chain().readable_object(RequestHeader{4, 0, 0}).writable(1);
  const uint16_t head = chain.offer();
  std::atomic<bool> stop{false};
  std::thread other([&] {
    while (!stop) device.notify(0);
  });
  for (int i = 1; i < kRounds; ++i) {
    while (static_cast<uint16_t>(i - driver.used_index()) >= 16) std::this_thread::yield();
    driver.make_available(head);
    device.notify(0);
  }
  device.quiesce();
  device.notify(0);
  device.quiesce();
  stop = true;
  other.join();
  EXPECT_EQ(driver.used_index(), kRounds);
  EXPECT_GT(transport.interrupts, 0);
}

TEST(BlockThreads, resets_under_load) {
  GuestMemory memory;
  FakeQueue driver(memory, 16);
  ostler::block::IoThread io;
  QuietTransport transport;
  BlockDevice device(memory.space, null_disk(io), Options());
  device.connect(transport);
  const QueueSetup setups[] = {driver.setup};
  driver.chain().readable_object(RequestHeader{4, 0, 0}).writable(1).offer();
  for (int i = 1; i < 16; ++i) driver.make_available(0);
  std::atomic<bool> stop{false};
  std::thread other([&] {
    while (!stop) device.notify(0);
  });
  for (int i = 0; i < 300; ++i) {
    // From the start of the rings: the same sixteen requests.
    memory.put<uint16_t>(driver.setup.device + 2, 0);
    ASSERT_TRUE(device.activate(kFeatures, setups));
    device.notify(0);
    device.reset();
    const uint16_t after = driver.used_index();
    ASSERT_LE(after, 16);
    device.notify(0);
    ASSERT_EQ(driver.used_index(), after) << "a request completed after reset";
  }
  stop = true;
  other.join();
}

}  // namespace
}  // namespace ostler::virtio::block
