// virtio-blk over a node in memory: every request type, its refusals, and life cycle.
#include <gtest/gtest.h>

#include <condition_variable>

#include "base/bytes.h"
#include "devices/virtio/block/device.h"
#include "fake_driver.h"
#include "rigs/memory_node.h"

namespace ostler::virtio::block {
namespace {

using rigs::MemoryNode;
using test::FakeQueue;
using test::GuestMemory;
using test::kWrite;

using Disks = std::vector<std::shared_ptr<ostler::block::Backend>>;
constexpr uint64_t kDiskBytes = rigs::MemoryNode::kBytes;

struct CountingTransport final : Transport {
  void interrupt_queue(unsigned) override { ++queue_interrupts; }
  void interrupt_config() override { ++config_interrupts; }
  void needs_reset() override { ++resets_needed; }
  int queue_interrupts = 0, config_interrupts = 0, resets_needed = 0;
};

class BlockTest : public testing::Test {
 protected:
  static constexpr uint64_t kFeatures = feature(VIRTIO_F_VERSION_1) | feature(VIRTIO_BLK_F_FLUSH);
  void start(uint64_t features = kFeatures) {
    device = std::make_unique<BlockDevice>(memory.space, Disks{node}, options);
    device->connect(transport);
    const QueueSetup setups[] = {driver.setup};
    ASSERT_TRUE(device->activate(features, setups));
  }
  // Header, then data as the builder adds it.
  FakeQueue::Builder request(RequestType type, uint64_t sector) {
    return driver.chain().readable_object(RequestHeader{static_cast<uint32_t>(type), 0, sector});
  }
  // Runs the chain, whose status byte is its last buffer `last`.
  int status(FakeQueue::Builder& builder, size_t last) {
    memory.put<uint8_t>(builder.address(last), 0xee);
    builder.offer();
    device->notify(0);
    return memory.get<uint8_t>(builder.address(last));
  }
  GuestMemory memory;
  FakeQueue driver{memory, 16};
  std::shared_ptr<MemoryNode> node = std::make_shared<MemoryNode>();
  Options options;
  CountingTransport transport;
  std::unique_ptr<BlockDevice> device;
};

TEST_F(BlockTest, read) {
  start();
  node->data.replace(512, 5, "hello");
  auto chain = request(RequestType::kIn, 1).writable(512).writable(1);
  EXPECT_EQ(status(chain, 2), 0);
  EXPECT_EQ(memory.bytes(chain.address(1), 5), "hello");
  EXPECT_EQ(driver.used()->length, 513u);
  EXPECT_EQ(transport.queue_interrupts, 1);
}

TEST_F(BlockTest, read_into_several_buffers) {
  start();
  node->data.replace(0, 512, std::string(256, 'a') + std::string(256, 'b'));
  auto chain = request(RequestType::kIn, 0).writable(256).writable(256).writable(1);
  EXPECT_EQ(status(chain, 3), 0);
  EXPECT_EQ(memory.bytes(chain.address(2), 1), "b");
}

TEST_F(BlockTest, status_in_the_data_buffer) {
  start();
  node->data.replace(0, 1, "x");
  auto chain = request(RequestType::kIn, 0).writable(513);
  memory.put<uint8_t>(chain.address(1) + 512, 0xee);
  status(chain, 1);
  EXPECT_EQ(memory.get<uint8_t>(chain.address(1) + 512), 0);
  EXPECT_EQ(memory.bytes(chain.address(1), 1), "x");
}

TEST_F(BlockTest, write) {
  start();
  auto chain = request(RequestType::kOut, 2).readable(std::string(512, 'w')).writable(1);
  EXPECT_EQ(status(chain, 2), 0);
  EXPECT_EQ(node->data.substr(1024, 512), std::string(512, 'w'));
  EXPECT_EQ(driver.used()->length, 1u);
  EXPECT_EQ(node->flushes, 0);
}

TEST_F(BlockTest, write_without_flush_feature_is_stable_when_done) {
  start(feature(VIRTIO_F_VERSION_1));
  auto chain = request(RequestType::kOut, 2).readable(std::string(512, 'w')).writable(1);
  EXPECT_EQ(status(chain, 2), 0);
  EXPECT_EQ(node->flushes, 1);
}

TEST_F(BlockTest, write_with_cache_turned_off_is_stable_when_done) {
  start(kFeatures | feature(VIRTIO_BLK_F_CONFIG_WCE));
  const std::byte off{0};
  device->write_config(32, std::span(&off, 1));
  auto chain = request(RequestType::kOut, 2).readable(std::string(512, 'w')).writable(1);
  EXPECT_EQ(status(chain, 2), 0);
  EXPECT_EQ(node->flushes, 1);
}

TEST_F(BlockTest, last_sector_and_no_further) {
  start();
  auto last = request(RequestType::kIn, kDiskBytes / 512 - 1).writable(512).writable(1);
  EXPECT_EQ(status(last, 2), 0);
  auto past = request(RequestType::kIn, kDiskBytes / 512).writable(512).writable(1);
  EXPECT_EQ(status(past, 2), 1);
  auto across = request(RequestType::kIn, kDiskBytes / 512 - 1).writable(1024).writable(1);
  EXPECT_EQ(status(across, 2), 1);
}

TEST_F(BlockTest, sector_that_overflows_is_an_error) {
  start();
  auto chain = request(RequestType::kIn, ~uint64_t{0} / 512 + 1).writable(512).writable(1);
  EXPECT_EQ(status(chain, 2), 1);
}

TEST_F(BlockTest, length_that_is_no_sector_is_an_error) {
  start();
  auto chain = request(RequestType::kIn, 0).writable(100).writable(1);
  EXPECT_EQ(status(chain, 2), 1);
}

TEST_F(BlockTest, write_to_read_only_disk_is_an_error) {
  node->is_read_only = true;
  start();
  EXPECT_NE(device->features() & feature(VIRTIO_BLK_F_RO), 0u);
  auto chain = request(RequestType::kOut, 0).readable(std::string(512, 'w')).writable(1);
  EXPECT_EQ(status(chain, 2), 1);
  EXPECT_EQ(node->data[0], '\0');
}

TEST_F(BlockTest, host_error_reaches_the_status) {
  start();
  node->fail_with = EIO;
  auto chain = request(RequestType::kOut, 0).readable(std::string(512, 'w')).writable(1);
  EXPECT_EQ(status(chain, 2), 1);
}

TEST_F(BlockTest, flush_error_reaches_the_status) {
  start();
  node->fail_with = ENOSPC;
  auto chain = request(RequestType::kFlush, 0).writable(1);
  EXPECT_EQ(status(chain, 1), 1);
  EXPECT_EQ(node->flushes, 1);
}

TEST_F(BlockTest, get_id_is_padded) {
  options.serial = "disk7";
  start();
  auto chain = request(RequestType::kGetId, 0).writable(20).writable(1);
  EXPECT_EQ(status(chain, 2), 0);
  EXPECT_EQ(memory.bytes(chain.address(1), 20), "disk7" + std::string(15, '\0'));
}

TEST_F(BlockTest, discard_of_two_ranges) {
  start();
  const RangeSegment ranges[] = {{8, 8, 0}, {32, 1, 0}};
  auto chain = request(RequestType::kDiscard, 0).readable_object(ranges).writable(1);
  EXPECT_EQ(status(chain, 2), 0);
  EXPECT_EQ(node->discarded, (std::vector<std::pair<uint64_t, uint64_t>>{{4096, 4096}, {16384, 512}}));
}

TEST_F(BlockTest, discard_with_unmap_flag_is_unsupported) {
  start();
  auto chain = request(RequestType::kDiscard, 0).readable_object(RangeSegment{0, 8, 1}).writable(1);
  EXPECT_EQ(status(chain, 2), 2);
}

TEST_F(BlockTest, discard_past_the_end_is_an_error) {
  start();
  auto chain =
      request(RequestType::kDiscard, 0).readable_object(RangeSegment{~uint64_t{0}, 8, 0}).writable(1);
  EXPECT_EQ(status(chain, 2), 1);
  EXPECT_TRUE(node->discarded.empty());
}

TEST_F(BlockTest, write_zeroes) {
  start();
  node->data.replace(512, 4, "data");
  auto chain = request(RequestType::kWriteZeroes, 0).readable_object(RangeSegment{1, 1, 1}).writable(1);
  EXPECT_EQ(status(chain, 2), 0);
  EXPECT_EQ(node->data.substr(512, 4), std::string(4, '\0'));
}

TEST_F(BlockTest, too_many_ranges_are_an_error) {
  start();
  auto chain = request(RequestType::kDiscard, 0).readable(std::string(16 * 33, '\0')).writable(1);
  EXPECT_EQ(status(chain, 2), 1);
}

TEST_F(BlockTest, unknown_type_is_unsupported) {
  start();
  auto chain = request(static_cast<RequestType>(77), 0).writable(1);
  EXPECT_EQ(status(chain, 1), 2);
}

TEST_F(BlockTest, short_header_needs_a_reset) {
  start();
  driver.chain().readable("short").writable(1).offer();
  device->notify(0);
  EXPECT_EQ(transport.resets_needed, 1);
  EXPECT_FALSE(driver.used().has_value());
}

TEST_F(BlockTest, missing_status_needs_a_reset) {
  start();
  request(RequestType::kFlush, 0).offer();
  device->notify(0);
  device->notify(0);
  EXPECT_EQ(transport.resets_needed, 1);
}

TEST_F(BlockTest, works_again_after_reset) {
  start();
  request(RequestType::kFlush, 0).offer();
  device->notify(0);
  device->reset();
  FakeQueue again(memory, 16);
  const QueueSetup setups[] = {again.setup};
  ASSERT_TRUE(device->activate(kFeatures, setups));
  auto chain = again.chain().readable_object(RequestHeader{4, 0, 0}).writable(1);
  chain.offer();
  device->notify(0);
  EXPECT_TRUE(again.used().has_value());
}

TEST_F(BlockTest, batch_gives_one_interrupt) {
  start();
  for (int i = 0; i < 4; ++i) request(RequestType::kIn, 0).writable(512).writable(1).offer();
  device->notify(0);
  EXPECT_EQ(driver.used_index(), 4);
  EXPECT_EQ(transport.queue_interrupts, 1);
}

TEST_F(BlockTest, late_completion_interrupts) {
  node->hold = true;
  start();
  auto chain = request(RequestType::kIn, 0).writable(512).writable(1);
  EXPECT_EQ(status(chain, 2), 0xee);
  EXPECT_EQ(transport.queue_interrupts, 0);
  node->release();
  EXPECT_EQ(memory.get<uint8_t>(chain.address(2)), 0);
  EXPECT_EQ(transport.queue_interrupts, 1);
}

TEST_F(BlockTest, requests_in_flight_are_bounded_by_the_queue) {
  node->hold = true;
  start();
  // A driver that offers the same chain again and again, without waiting for its return.
  auto chain = request(RequestType::kFlush, 0).writable(1);
  const uint16_t head = chain.offer();
  for (int i = 0; i < 15; ++i) driver.make_available(head);
  device->notify(0);
  for (int round = 0; round < 5; ++round) {
    for (int i = 0; i < 16; ++i) driver.make_available(head);
    device->notify(0);
  }
  EXPECT_LE(node->flushes, 32);
  EXPECT_LE(node->held_tasks.size(), 16u);
  node->hold = false;
  node->release();
}

TEST_F(BlockTest, stalled_queue_goes_on_after_a_completion) {
  node->hold = true;
  start();
  auto chain = request(RequestType::kFlush, 0).writable(1);
  const uint16_t head = chain.offer();
  for (int i = 0; i < 15; ++i) driver.make_available(head);
  device->notify(0);
  for (int i = 0; i < 4; ++i) driver.make_available(head);
  device->notify(0);
  EXPECT_EQ(node->flushes, 16);
  node->hold = false;
  node->release();
  EXPECT_EQ(node->flushes, 20);
  EXPECT_EQ(driver.used_index(), 20);
}

TEST_F(BlockTest, notify_before_activation_is_ignored) {
  device = std::make_unique<BlockDevice>(memory.space, Disks{node}, options);
  device->connect(transport);
  request(RequestType::kFlush, 0).writable(1).offer();
  device->notify(0);
  EXPECT_EQ(node->flushes, 0);
}

TEST_F(BlockTest, notify_of_a_queue_that_does_not_exist_is_ignored) {
  start();
  device->notify(1);
  device->notify(0xffffffff);
  EXPECT_EQ(transport.resets_needed, 0);
}

TEST_F(BlockTest, capacity_is_in_sectors) {
  start();
  uint64_t capacity = 0;
  device->read_config(0, std::as_writable_bytes(std::span(&capacity, 1)));
  EXPECT_EQ(capacity, kDiskBytes / 512);
}

TEST_F(BlockTest, limits_of_discards_are_told) {
  options.discard_granularity = 65536;
  options.max_discard_sectors = 1000;
  options.max_write_zeroes_sectors = 2000;
  start();
  std::array<uint32_t, 4> limits{};  // §5.2.4: most sectors, most segments, alignment; most sectors of zeroes
  device->read_config(36, std::as_writable_bytes(std::span(limits)));
  EXPECT_EQ(limits[0], 1000u);
  EXPECT_EQ(limits[2], 128u);
  EXPECT_EQ(limits[3], 2000u);
}

TEST_F(BlockTest, config_past_its_end_reads_zero) {
  start();
  uint64_t value = 1;
  device->read_config(0x800, std::as_writable_bytes(std::span(&value, 1)));
  EXPECT_EQ(value, 0u);
}

TEST_F(BlockTest, resize_tells_the_driver) {
  start();
  const uint32_t before = device->config_generation();
  node->data.resize(2 * kDiskBytes);
  device->capacity_changed();
  EXPECT_NE(device->config_generation(), before);
  EXPECT_EQ(transport.config_interrupts, 1);
}

TEST_F(BlockTest, state_survives) {
  start();
  auto first = request(RequestType::kIn, 0).writable(512).writable(1);
  status(first, 2);
  const QueueSetup setups[] = {driver.setup};
  state::Saver saver;
  device->state(saver, true, kFeatures, setups);
  const auto bytes = saver.take();

  BlockDevice other(memory.space, Disks{node}, options);
  other.connect(transport);
  state::Loader loader(bytes);
  other.state(loader, true, kFeatures, setups);
  ASSERT_TRUE(loader.finish());
  auto second = request(RequestType::kIn, 0).writable(512).writable(1);
  second.offer();
  other.notify(0);
  EXPECT_EQ(driver.used_index(), 2);
}

TEST_F(BlockTest, state_of_another_disk_is_refused) {
  start();
  const QueueSetup setups[] = {driver.setup};
  state::Saver saver;
  device->state(saver, true, kFeatures, setups);
  const auto bytes = saver.take();
  node->data.resize(2 * kDiskBytes);
  state::Loader loader(bytes);
  device->state(loader, true, kFeatures, setups);
  EXPECT_FALSE(loader.finish());
}

TEST_F(BlockTest, properties_parse) {
  const config::KeyValue values[] = {
      {"drive", "hd0"}, {"addr", "4.1"}, {"num-queues", "2"}, {"vectors", "3"}};
  const auto parsed = pci_properties().parse(values);
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->drive, "hd0");
  EXPECT_EQ(parsed->addr, (config::PciAddress{4, 1}));
  EXPECT_EQ(parsed->num_queues, 2);
  EXPECT_EQ(parsed->vectors_wanted(), 3);
}

TEST_F(BlockTest, unknown_property_names_the_nearest) {
  const config::KeyValue values[] = {{"drve", "hd0"}};
  const auto parsed = pci_properties().parse(values);
  ASSERT_FALSE(parsed);
  EXPECT_NE(parsed.error().message().find("drive"), std::string::npos);
}

TEST_F(BlockTest, ignored_error) {
  start();
  node->fail_with = EIO;
  node->verdict = ostler::block::Verdict::kIgnore;
  auto chain = request(RequestType::kOut, 1).readable(std::string(512, 'w')).writable(1);
  EXPECT_EQ(status(chain, 2), 0);
  EXPECT_EQ(node->paused_for, 0);
}

class KeptRequests : public BlockTest {
 protected:
  // A write of 'w' to sector 1 that finds the host's disk full; the address of its status byte.
  uint64_t fail_a_write() {
    node->fail_with = ENOSPC;
    node->verdict = ostler::block::Verdict::kKeep;
    auto chain = request(RequestType::kOut, 1).readable(std::string(512, 'w')).writable(1);
    EXPECT_EQ(status(chain, 2), 0xee);
    return chain.address(2);
  }
  int used_count() {
    int count = 0;
    while (driver.used()) ++count;
    return count;
  }
};

TEST_F(KeptRequests, are_sent_again_when_the_guest_goes_on) {
  start();
  const uint64_t at = fail_a_write();
  EXPECT_EQ(node->paused_for, ENOSPC);
  EXPECT_FALSE(driver.used());
  node->paused_for = 0;
  node->resume();  // and fails again
  EXPECT_EQ(node->paused_for, ENOSPC);
  EXPECT_EQ(memory.get<uint8_t>(at), 0xee);
  node->fail_with = 0;
  node->resume();
  EXPECT_EQ(memory.get<uint8_t>(at), 0);
  EXPECT_EQ(node->data.substr(512, 512), std::string(512, 'w'));
  EXPECT_EQ(used_count(), 1);
  EXPECT_EQ(transport.queue_interrupts, 1);
  node->resume();
  EXPECT_EQ(used_count(), 0);
}

TEST_F(KeptRequests, that_fail_on_another_thread) {
  start();
  node->hold = true;
  const uint64_t at = fail_a_write();
  EXPECT_EQ(node->paused_for, 0);
  node->release();
  EXPECT_EQ(node->paused_for, ENOSPC);
  node->fail_with = 0;
  node->resume();
  EXPECT_EQ(memory.get<uint8_t>(at), 0xee);
  node->release();
  EXPECT_EQ(memory.get<uint8_t>(at), 0);
}

TEST_F(KeptRequests, are_forgotten_by_a_reset) {
  start();
  const uint64_t at = fail_a_write();
  device->quiesce();
  device->reset();
  node->fail_with = 0;
  node->resume();
  EXPECT_EQ(memory.get<uint8_t>(at), 0xee);
  EXPECT_EQ(node->data.substr(512, 512), std::string(512, '\0'));
}

TEST_F(KeptRequests, are_part_of_the_saved_state) {
  start();
  const uint64_t at = fail_a_write();
  const QueueSetup setups[] = {driver.setup};
  state::Saver saver;
  device->state(saver, true, kFeatures, setups);
  const auto saved = saver.take();
  device->reset();
  state::Loader loader(saved);
  device->state(loader, true, kFeatures, setups);
  ASSERT_TRUE(loader.finish());
  node->fail_with = 0;
  node->resume();
  EXPECT_EQ(memory.get<uint8_t>(at), 0);
  EXPECT_EQ(node->data.substr(512, 512), std::string(512, 'w'));
  EXPECT_EQ(used_count(), 1);
}

TEST_F(KeptRequests, of_a_hostile_stream_break_the_queue) {
  start();
  fail_a_write();
  const QueueSetup setups[] = {driver.setup};
  state::Saver saver;
  device->state(saver, true, kFeatures, setups);
  const auto saved = saver.take();
  driver.set_descriptor(0, {.address = 0, .length = 0, .flags = 0, .next = 0});
  state::Loader loader(saved);
  device->state(loader, true, kFeatures, setups);
  ASSERT_TRUE(loader.finish());
  node->resume();
  EXPECT_EQ(used_count(), 0);
}

TEST_F(KeptRequests, never_exceed_the_queue) {
  start();
  node->fail_with = ENOSPC;
  node->verdict = ostler::block::Verdict::kKeep;
  auto chain = request(RequestType::kFlush, 0).writable(1);
  const uint16_t head = chain.offer();
  for (int i = 1; i < 16; ++i) driver.make_available(head);
  device->notify(0);
  EXPECT_EQ(node->flushes, 16);
  for (int i = 0; i < 16; ++i) driver.make_available(head);
  device->notify(0);
  EXPECT_EQ(node->flushes, 16);
  node->fail_with = 0;
  node->resume();
  EXPECT_EQ(node->flushes, 16 + 16 + 16);
  EXPECT_EQ(used_count(), 32);
}

TEST_F(BlockTest, a_resized_disk_interrupts) {
  start();
  node->data.resize(2 * kDiskBytes);
  node->resized();
  EXPECT_EQ(transport.config_interrupts, 1);
  uint64_t capacity = 0;
  device->read_config(0, std::as_writable_bytes(std::span(&capacity, 1)));
  EXPECT_EQ(capacity, 2 * kDiskBytes / 512);
}

TEST_F(BlockTest, a_disk_that_writes_through_tells_so) {
  node->writes_are_stable = true;
  start();
  uint8_t writeback = 1;
  device->read_config(32, std::as_writable_bytes(std::span(&writeback, 1)));
  EXPECT_EQ(writeback, 0);
}

TEST_F(BlockTest, legacy_driver_sets_the_cache_before_its_features) {
  options.config_wce = true;
  device = std::make_unique<BlockDevice>(memory.space, Disks{node}, options);
  const auto cache = [&] {
    uint8_t value = 9;
    device->read_config(32, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  };
  const uint8_t off = 0;
  device->write_config(32, std::as_bytes(std::span(&off, 1)));
  EXPECT_EQ(cache(), 1);
  device->set_legacy_driver();
  device->write_config(32, std::as_bytes(std::span(&off, 1)));
  EXPECT_EQ(cache(), 0);
  ASSERT_TRUE(
      device->activate(feature(VIRTIO_BLK_F_FLUSH) | feature(VIRTIO_BLK_F_CONFIG_WCE), {&driver.setup, 1}));
  auto chain = request(RequestType::kOut, 0).readable(std::string(512, 'x')).writable(1);
  EXPECT_EQ(status(chain, 2), 0);
  EXPECT_EQ(node->flushes, 1);
}

}  // namespace
}  // namespace ostler::virtio::block
