// virtio-blk with its completions on an I/O thread, while several vCPUs notify and one resets the device.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <barrier>
#include <cerrno>
#include <semaphore>
#include <thread>
#include <utility>

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
  BlockDevice device(memory.space, {null_disk(io)}, Options());
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
  BlockDevice device(memory.space, {null_disk(io)}, Options());
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

// A disk that lets its caller wait until requests of two queues are in it at the same time.
class MeetingDisk final : public ostler::block::Backend {
 public:
  explicit MeetingDisk(std::barrier<>& barrier) : barrier_(barrier) {}
  const std::string& name() const override { return name_; }
  uint64_t size() const override { return 1 << 20; }
  bool read_only() const override { return false; }
  void read(uint64_t, std::vector<iovec>, ostler::block::Done done) override { done(0); }
  void write(uint64_t, std::vector<iovec>, ostler::block::Done done) override { done(0); }
  void flush(ostler::block::Done done) override {
    barrier_.arrive_and_wait();
    done(0);
  }
  void discard(uint64_t, uint64_t, ostler::block::Done done) override { done(0); }
  void write_zeroes(uint64_t, uint64_t, bool, ostler::block::Done done) override { done(0); }
  void defer(std::function<void()> task) override { task(); }

 private:
  std::barrier<>& barrier_;
  const std::string name_ = "meeting";
};

TEST(BlockThreads, queues_run_at_the_same_time) {
  GuestMemory memory;
  FakeQueue first(memory, 16), second(memory, 16);
  std::barrier<> barrier(2);
  Options options;
  options.num_queues = 2;
  QuietTransport transport;
  BlockDevice device(memory.space,
                     {std::make_shared<MeetingDisk>(barrier), std::make_shared<MeetingDisk>(barrier)},
                     options);
  device.connect(transport);
  const QueueSetup setups[] = {first.setup, second.setup};
  ASSERT_TRUE(device.activate(kFeatures, setups));
  for (FakeQueue* queue : {&first, &second}) {
    const uint16_t head = queue->chain().readable_object(RequestHeader{4, 0, 0}).writable(1).offer();
    for (int i = 1; i < 16; ++i) queue->make_available(head);
  }
  std::thread other([&] { device.notify(1); });
  device.notify(0);
  other.join();
  EXPECT_EQ(first.used_index(), 16);
  EXPECT_EQ(second.used_index(), 16);
}

// A disk that keeps the first flush and does not finish the second by itself. A thread that asks for its size
// with `gated` set waits there, with the lock of the device's configuration.
class GatedDisk final : public ostler::block::Backend {
 public:
  const std::string& name() const override { return name_; }
  uint64_t size() const override {
    if (gated) {
      waiting.release();
      open.acquire();
    }
    return 1 << 20;
  }
  bool read_only() const override { return false; }
  void read(uint64_t, std::vector<iovec>, ostler::block::Done done) override { done(0); }
  void write(uint64_t, std::vector<iovec>, ostler::block::Done done) override { done(0); }
  void flush(ostler::block::Done done) override {
    if (std::exchange(first_, false)) return done(ENOSPC);
    second = std::move(done);
  }
  void discard(uint64_t, uint64_t, ostler::block::Done done) override { done(0); }
  void write_zeroes(uint64_t, uint64_t, bool, ostler::block::Done done) override { done(0); }
  void defer(std::function<void()> task) override { task(); }
  ostler::block::Verdict judge(bool, int) override { return ostler::block::Verdict::kKeep; }
  void on_resume(std::function<void()> handler) override { resume = std::move(handler); }

  static thread_local bool gated;
  mutable std::binary_semaphore waiting{0}, open{0};
  std::function<void()> resume;
  ostler::block::Done second;

 private:
  bool first_ = true;
  const std::string name_ = "gated";
};
thread_local bool GatedDisk::gated = false;

TEST(BlockThreads, request_that_is_sent_again_while_its_queue_is_reset) {
  const auto others_go_on = [] {
    for (int i = 0; i < 100; ++i) std::this_thread::yield();
  };
  for (int round = 0; round < 30; ++round) {
    GuestMemory memory;
    FakeQueue driver(memory, 16);
    QuietTransport transport;
    const auto disk = std::make_shared<GatedDisk>();
    BlockDevice device(memory.space, {disk}, Options());
    device.connect(transport);
    const QueueSetup setups[] = {driver.setup};
    ASSERT_TRUE(device.activate(kFeatures | feature(VIRTIO_F_RING_RESET), setups));
    driver.chain().readable_object(RequestHeader{4, 0, 0}).writable(1).offer();
    device.notify(0);
    const uint16_t unknown = driver.chain().readable_object(RequestHeader{99, 0, 0}).writable(1).offer();
    device.notify(0);
    uint16_t answered = driver.used_index();
    ASSERT_EQ(answered, 1);
    std::thread reader([&] {
      GatedDisk::gated = true;
      std::array<std::byte, 8> bytes;
      device.read_config(0, bytes);
    });
    disk->waiting.acquire();
    std::thread resetter([&] { device.reset_queue(0); });
    // Until nothing is taken any more.
    for (;; answered = driver.used_index()) {
      driver.make_available(unknown);
      device.notify(0);
      if (driver.used_index() == answered) break;
    }
    others_go_on();
    disk->resume();
    disk->open.release();
    reader.join();
    others_go_on();
    ASSERT_TRUE(disk->second);
    disk->second(0);
    resetter.join();
    ASSERT_EQ(driver.used_index(), answered + 1);
  }
}

TEST(BlockThreads, resets_of_several_queues_under_load) {
  constexpr unsigned kQueues = 4;
  GuestMemory memory;
  std::vector<FakeQueue> drivers;
  for (unsigned i = 0; i < kQueues; ++i) drivers.emplace_back(memory, 16);
  ostler::block::IoThread io[2];
  Options options;
  options.num_queues = kQueues;
  auto client = ostler::block::Client::attach(
      std::make_shared<ostler::block::NullNode>(1 << 20), "disk",
      {.used = ostler::block::kPermissionRead | ostler::block::kPermissionWrite});
  std::vector<std::shared_ptr<ostler::block::Backend>> disks;
  for (unsigned i = 0; i < kQueues; ++i)
    disks.push_back(std::make_shared<ostler::block::NodeBackend>(*client, io[i % 2].context()));
  QuietTransport transport;
  BlockDevice device(memory.space, disks, options);
  device.connect(transport);
  std::vector<QueueSetup> setups;
  for (FakeQueue& driver : drivers) {
    setups.push_back(driver.setup);
    driver.chain().readable_object(RequestHeader{4, 0, 0}).writable(1).offer();
    for (int i = 1; i < 16; ++i) driver.make_available(0);
  }
  std::atomic<bool> stop{false};
  std::vector<std::thread> vcpus;
  for (unsigned i = 0; i < kQueues; ++i)
    vcpus.emplace_back([&, i] {
      while (!stop) device.notify(i);
    });
  for (int round = 0; round < 200; ++round) {
    for (FakeQueue& driver : drivers) memory.put<uint16_t>(driver.setup.device + 2, 0);
    ASSERT_TRUE(device.activate(kFeatures, setups));
    if (round % 3 == 0) device.quiesce();
    device.capacity_changed();
    device.reset();
    std::vector<uint16_t> after;
    for (FakeQueue& driver : drivers) after.push_back(driver.used_index());
    for (unsigned i = 0; i < kQueues; ++i) device.notify(i);
    for (unsigned i = 0; i < kQueues; ++i) ASSERT_EQ(drivers[i].used_index(), after[i]);
  }
  stop = true;
  for (std::thread& vcpu : vcpus) vcpu.join();
}

}  // namespace
}  // namespace ostler::virtio::block
