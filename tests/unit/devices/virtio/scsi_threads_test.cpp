// virtio-scsi with its completions on an I/O thread, while vCPUs notify, abort commands and reset the device.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "block/backend.h"
#include "block/null/null_node.h"
#include "devices/scsi/disk.h"
#include "devices/virtio/scsi/device.h"
#include "fake_driver.h"

namespace ostler::virtio::scsi {
namespace {

using test::FakeQueue;
using test::GuestMemory;

struct QuietTransport final : Transport {
  void interrupt_queue(unsigned) override {}
  void interrupt_config() override {}
  void needs_reset() override { ++broken; }
  std::atomic<int> broken{0};
};

class ScsiThreads : public testing::Test {
 protected:
  static constexpr uint8_t kTarget = 1;
  static constexpr uint64_t kFeatures = feature(VIRTIO_F_VERSION_1) | feature(VIRTIO_SCSI_F_CHANGE);

  void SetUp() override {
    auto client = ostler::block::Client::attach(
        std::make_shared<ostler::block::NullNode>(1 << 20), "disk",
        {.used = ostler::block::kPermissionRead | ostler::block::kPermissionWrite});
    auto node = std::make_shared<ostler::block::NodeBackend>(*client, io.context());
    ASSERT_TRUE(device.add(kTarget, 0, std::make_shared<ostler::scsi::Disk>(node, ostler::scsi::Options())));
    device.connect(transport);
    start();
  }
  void start() {
    const QueueSetup setups[] = {control.setup, events.setup, requests.setup};
    ASSERT_TRUE(device.activate(kFeatures, setups));
  }
  // SYNCHRONIZE CACHE, which a node leaves to its I/O thread.
  uint16_t offer_flush() {
    std::string bytes(sizeof(RequestHeader) + kDefaultCdbBytes, '\0');
    bytes[0] = 1;
    bytes[1] = kTarget;
    bytes[8] = 7;  // its id
    bytes[sizeof(RequestHeader)] = 0x35;
    return requests.chain().readable(bytes).writable(sizeof(ResponseHeader) + kDefaultSenseBytes).offer();
  }
  uint16_t offer_abort() {
    const TaskRequest abort{.type = 0, .subtype = 0, .lun = {1, kTarget}, .id = 7};
    return control.chain().readable_object(abort).writable(1).offer();
  }

  GuestMemory memory;
  FakeQueue control{memory, 16}, events{memory, 4}, requests{memory, 16};
  ostler::block::IoThread io;
  QuietTransport transport;
  ScsiDevice device{memory.space, Options()};
};

TEST_F(ScsiThreads, commands_and_functions_end_once) {
  constexpr int kRounds = 1000;
  const uint16_t flush = offer_flush(), abort = offer_abort();
  std::thread other([&] {
    for (int i = 1; i < kRounds; ++i) {
      while (static_cast<uint16_t>(i - control.used_index()) >= 16) {
        device.notify(kControlQueue);
        std::this_thread::yield();
      }
      control.make_available(abort);
      device.notify(kControlQueue);
    }
  });
  for (int i = 1; i < kRounds; ++i) {
    while (static_cast<uint16_t>(i - requests.used_index()) >= 16) {
      device.notify(kFirstRequestQueue);
      std::this_thread::yield();
    }
    requests.make_available(flush);
    device.notify(kFirstRequestQueue);
  }
  other.join();
  for (const unsigned queue : {kFirstRequestQueue, kControlQueue, kFirstRequestQueue}) {
    device.notify(queue);
    device.quiesce();
  }
  EXPECT_EQ(requests.used_index(), kRounds);
  EXPECT_EQ(control.used_index(), kRounds);
  EXPECT_EQ(transport.broken, 0);
}

TEST_F(ScsiThreads, resets_come_at_any_time) {
  std::atomic<bool> stop{false};
  std::thread vcpu([&] {
    while (!stop) device.notify(kFirstRequestQueue);
  });
  std::thread aborter([&] {
    while (!stop) device.notify(kControlQueue);
  });
  for (int round = 0; round < 50; ++round) {
    const uint16_t flush = offer_flush(), abort = offer_abort();
    for (int i = 1; i < 8; ++i) {
      requests.make_available(flush);
      control.make_available(abort);
    }
    std::this_thread::yield();
    device.reset();
    for (FakeQueue* const each : {&control, &events, &requests}) each->restart();
    start();
  }
  stop = true;
  vcpu.join();
  aborter.join();
  EXPECT_EQ(transport.broken, 0);
}

}  // namespace
}  // namespace ostler::virtio::scsi
