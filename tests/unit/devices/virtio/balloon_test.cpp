// virtio-balloon: memory goes back to the host, statistics, hints and reports of free pages.
#include "devices/virtio/balloon/device.h"

#include <gtest/gtest.h>

#include "fake_driver.h"

namespace ostler::virtio::balloon {
namespace {

using test::FakeQueue;
using test::GuestMemory;

constexpr uint64_t kBase = feature(VIRTIO_F_VERSION_1);
constexpr uint64_t kStats = feature(VIRTIO_BALLOON_F_STATS_VQ);
constexpr uint64_t kHint = feature(VIRTIO_BALLOON_F_FREE_PAGE_HINT);
constexpr uint64_t kReport = feature(VIRTIO_BALLOON_F_PAGE_REPORTING);
constexpr uint64_t kFree = 0x80000;  // where nothing of the driver is

struct CountingTransport final : Transport {
  void interrupt_queue(unsigned) override { ++queue_interrupts; }
  void interrupt_config() override { ++config_interrupts; }
  void needs_reset() override { ++resets_needed; }
  int queue_interrupts = 0, config_interrupts = 0, resets_needed = 0;
};

class BalloonTest : public testing::Test {
 protected:
  BalloonTest() {
    for (int i = 0; i < 5; ++i) queues.emplace_back(memory, uint16_t{8});
    options.free_page_hint = options.free_page_reporting = options.deflate_on_oom = true;
    for (uint64_t at = kFree; at < GuestMemory::kBytes; at += 8) memory.put(at, uint64_t{0x5555555555555555});
  }
  void make() {
    device = std::make_unique<BalloonDevice>(memory.space, loop, GuestMemory::kBytes, options);
    device->connect(transport);
  }
  void start(uint64_t wanted = kBase | kStats | kHint | kReport) {
    features = wanted;
    make();
    ASSERT_TRUE(device->activate(features, setups()));
  }
  std::vector<QueueSetup> setups() const {
    std::vector<QueueSetup> all;
    for (const FakeQueue& queue : queues) all.push_back(queue.setup);
    return all;
  }
  void inflate(const std::vector<uint32_t>& frames) {
    queues[0].chain().readable({reinterpret_cast<const char*>(frames.data()), frames.size() * 4}).offer();
    device->notify(0);
  }
  uint32_t config(uint64_t offset) {
    uint32_t value = 0;
    device->read_config(offset, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  void write_config(uint64_t offset, uint32_t value) {
    device->write_config(offset, std::as_bytes(std::span(&value, 1)));
  }
  bool kept(uint64_t frame) const { return memory.get<uint64_t>(frame * 4096) == 0x5555555555555555; }
  bool gone(uint64_t frame) const { return memory.get<uint64_t>(frame * 4096) == 0; }

  GuestMemory memory;
  std::vector<FakeQueue> queues;
  event::VirtualClock clock;  // paused: moved by advance() alone
  event::Loop loop{clock};
  Options options;
  CountingTransport transport;
  std::unique_ptr<BalloonDevice> device;
  uint64_t features = 0;
};

TEST_F(BalloonTest, pages_in_the_balloon_go_to_the_host) {
  start();
  inflate({0x90, 0x91, 0x93, 0x92, 0x8f, 0xa0});
  for (const uint64_t frame : {0x8f, 0x90, 0x91, 0x92, 0x93, 0xa0}) EXPECT_TRUE(gone(frame)) << frame;
  for (const uint64_t frame : {0x8e, 0x94, 0x9f, 0xa1}) EXPECT_TRUE(kept(frame)) << frame;
  EXPECT_EQ(device->reclaimed(), 6u * 4096);
  EXPECT_TRUE(queues[0].used().has_value());
}

TEST_F(BalloonTest, frames_that_are_not_ram_are_ignored) {
  start();
  inflate({0xffffffff, 0x100, 0x7fffffff, 0x90});
  EXPECT_TRUE(gone(0x90));
  EXPECT_EQ(device->reclaimed(), 4096u);
  EXPECT_EQ(transport.resets_needed, 0);
}

TEST_F(BalloonTest, endless_list_of_frames_needs_a_reset) {
  start();
  queues[0].chain().raw({0, 4 * 4096 + 4, 0, 0}).offer();
  device->notify(0);
  EXPECT_EQ(transport.resets_needed, 1);
  EXPECT_EQ(device->reclaimed(), 0u);
}

TEST_F(BalloonTest, deflated_pages_only_come_back) {
  start();
  queues[1].chain().readable(std::string(8, '\1')).offer();
  device->notify(1);
  EXPECT_TRUE(queues[1].used().has_value());
  EXPECT_EQ(device->reclaimed(), 0u);
}

TEST_F(BalloonTest, target_is_told_as_pages_in_the_balloon) {
  start();
  device->set_target(GuestMemory::kBytes - 5 * 4096);
  EXPECT_EQ(transport.config_interrupts, 1);
  EXPECT_EQ(config(0), 5u);
  device->set_target(~uint64_t{0});
  EXPECT_EQ(config(0), 0u);
  device->set_target(0);
  EXPECT_EQ(config(0), GuestMemory::kBytes / 4096);
  EXPECT_EQ(device->actual(), GuestMemory::kBytes);
  write_config(4, 3);
  EXPECT_EQ(device->actual(), GuestMemory::kBytes - 3 * 4096);
  write_config(4, 0xffffffff);
  EXPECT_EQ(device->actual(), 0u);
}

TEST_F(BalloonTest, statistics_are_read_and_asked_for_again) {
  options.guest_stats_polling_interval = 2;
  start();
  const std::string told("\4\0\0\x10\0\0\0\0\0\0\x63\0\1\1\1\1\1\1\1\1",
                         20);  // free memory, and a tag that nobody knows
  queues[2].chain().readable(told).offer();
  device->notify(2);
  EXPECT_EQ(device->statistics().values[4], 0x1000u);
  EXPECT_FALSE(device->statistics().values[0].has_value());
  EXPECT_FALSE(queues[2].used().has_value());  // stays with the device
  clock.advance(2'000'000'000);
  loop.run_due();
  EXPECT_TRUE(queues[2].used().has_value());
  queues[2].chain().readable(told.substr(10)).offer();
  device->notify(2);
  EXPECT_FALSE(device->statistics().values[4].has_value());
  clock.advance(2'000'000'000);
  loop.run_due();
  EXPECT_TRUE(queues[2].used().has_value());
}

TEST_F(BalloonTest, reported_pages_go_to_the_host) {
  start();
  auto report = queues[4].chain().raw({kFree + 0x3000, 0x2000, test::kWrite, 0});
  report.raw({kFree + 0x8800, 0x2000, test::kWrite, 0}).offer();
  device->notify(4);
  EXPECT_TRUE(queues[4].used().has_value());
  EXPECT_TRUE(gone(0x83));
  EXPECT_TRUE(gone(0x84));
  EXPECT_TRUE(kept(0x82));
  EXPECT_TRUE(kept(0x88));  // only a part of it was reported
  EXPECT_TRUE(gone(0x89));
}

TEST_F(BalloonTest, poisoned_pages_are_left_alone) {
  start(kBase | kStats | kHint | kReport | feature(VIRTIO_BALLOON_F_PAGE_POISON));
  write_config(12, 0xaa);
  queues[4].chain().raw({kFree + 0x3000, 0x1000, test::kWrite, 0}).offer();
  device->notify(4);
  EXPECT_TRUE(kept(0x83));
  EXPECT_TRUE(queues[4].used().has_value());
}

TEST_F(BalloonTest, queues_that_were_not_negotiated_are_not_counted) {
  start(kBase | kReport);
  queues[2].chain().raw({kFree, 0x1000, test::kWrite, 0}).offer();
  device->notify(2);
  EXPECT_TRUE(gone(0x80));
  EXPECT_FALSE(device->reclaim_free_pages());
}

TEST_F(BalloonTest, free_pages_are_hinted_when_asked_for) {
  start();
  const auto hint = [&](uint64_t frame) {
    queues[3].chain().raw({frame * 4096, 0x1000, test::kWrite, 0}).offer();
    device->notify(3);
  };
  const auto tell = [&](uint32_t command) {
    queues[3].chain().readable_object(command).offer();
    device->notify(3);
  };
  hint(0x80);  // nobody asked
  EXPECT_TRUE(kept(0x80));
  EXPECT_TRUE(device->reclaim_free_pages());
  const uint32_t round = config(8);
  EXPECT_GE(round, 2u);
  tell(round - 1);
  hint(0x81);
  EXPECT_TRUE(kept(0x81));
  tell(round);
  hint(0x82);
  EXPECT_TRUE(gone(0x82));
  tell(0);
  EXPECT_EQ(config(8), 1u);
  hint(0x83);
  EXPECT_TRUE(kept(0x83));
  EXPECT_TRUE(device->reclaim_free_pages());
  EXPECT_NE(config(8), round);
}

TEST_F(BalloonTest, state) {
  start();
  device->set_target(0);
  write_config(4, 7);
  EXPECT_TRUE(device->reclaim_free_pages());
  const uint32_t round = config(8);
  queues[3].chain().readable_object(round).offer();
  device->notify(3);
  state::Saver saver;
  device->state(saver, true, features, setups());
  const auto bytes = saver.take();
  make();
  state::Loader loader(bytes);
  device->state(loader, true, features, setups());
  ASSERT_TRUE(loader.finish());
  EXPECT_EQ(config(0), GuestMemory::kBytes / 4096);
  EXPECT_EQ(config(4), 7u);
  queues[3].chain().raw({kFree, 0x1000, test::kWrite, 0}).offer();
  device->notify(3);
  EXPECT_TRUE(gone(0x80));
}

TEST_F(BalloonTest, legacy_driver_writes_its_size_byte_by_byte) {
  start(kStats);
  const std::array<uint8_t, 4> bytes = {3, 0, 0, 0};
  for (size_t i = 0; i < bytes.size(); ++i)
    device->write_config(4 + i, std::as_bytes(std::span(&bytes[i], 1)));
  EXPECT_EQ(device->actual(), GuestMemory::kBytes - 3 * 4096);
  write_config(2, 0xffffffff);  // across fields
  EXPECT_EQ(device->actual(), GuestMemory::kBytes - 3 * 4096);
}

}  // namespace
}  // namespace ostler::virtio::balloon
