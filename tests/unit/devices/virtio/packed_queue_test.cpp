// Packed virtqueues: good rings, one test for every way to break one, notification suppression, state.
#include <gtest/gtest.h>

#include "devices/virtio/features.h"
#include "devices/virtio/queue.h"
#include "packed_driver.h"

namespace ostler::virtio {
namespace {

using test::FakePackedQueue;
using test::GuestMemory;
using test::kAvail;
using test::kIndirect;
using test::kNext;
using test::kWrite;
using test::PackedDescriptor;

constexpr uint64_t kPacked = feature(VIRTIO_F_RING_PACKED);
constexpr uint64_t kIndirectFeature = feature(VIRTIO_F_INDIRECT_DESC);
constexpr uint64_t kEventFeature = feature(VIRTIO_F_EVENT_IDX);
constexpr uint16_t kEnable = 0, kDisable = 1, kDesc = 2;

class PackedQueueTest : public testing::Test {
 protected:
  Queue make(uint64_t features = 0) { return Queue(memory.space, 0, driver.setup, kPacked | features); }
  void expect_broken(Queue& queue) {
    EXPECT_FALSE(queue.pop().has_value());
    EXPECT_TRUE(queue.broken());
    EXPECT_FALSE(queue.pop().has_value());
    EXPECT_FALSE(driver.used().has_value());
  }
  void serve_one(Queue& queue) {
    driver.chain().readable("a").offer(0);
    queue.push(*queue.pop(), 0);
  }
  GuestMemory memory;
  FakePackedQueue driver{memory, 6};
};

TEST_F(PackedQueueTest, empty_ring_gives_nothing) {
  Queue queue = make();
  EXPECT_TRUE(queue.empty());
  EXPECT_FALSE(queue.pop().has_value());
  EXPECT_FALSE(queue.broken());
}

TEST_F(PackedQueueTest, chain_has_its_parts_and_its_id) {
  Queue queue = make();
  driver.chain().readable("head").readable("er").writable(16).offer(77);
  const auto chain = queue.pop();
  ASSERT_TRUE(chain.has_value());
  EXPECT_EQ(chain->head(), 77);
  EXPECT_EQ(chain->slots(), 3);
  EXPECT_EQ(chain->readable_bytes(), 6u);
  EXPECT_EQ(chain->writable_bytes(), 16u);
}

TEST_F(PackedQueueTest, used_out_of_order) {
  Queue queue = make();
  driver.chain().readable("a").writable(4).offer(1);
  driver.chain().writable(8).offer(2);
  auto first = queue.pop(), second = queue.pop();
  queue.push(*std::move(second), 5);
  const auto used = driver.used();
  ASSERT_TRUE(used.has_value());
  EXPECT_EQ(used->id, 2u);
  EXPECT_EQ(used->length, 5u);
  EXPECT_FALSE(driver.used().has_value());
  queue.push(*std::move(first), 3);
  EXPECT_EQ(driver.used()->id, 1u);
}

TEST_F(PackedQueueTest, write_flag_tells_of_written_bytes) {
  Queue queue = make();
  driver.chain().writable(4).offer(1);
  driver.chain().readable("x").offer(2);
  queue.push(*queue.pop(), 4);
  queue.push(*queue.pop(), 0);
  EXPECT_NE(driver.entry(0).flags & kWrite, 0);
  EXPECT_EQ(driver.entry(1).flags & kWrite, 0);
}

TEST_F(PackedQueueTest, wraps_around_with_chains_of_each_length) {
  Queue queue = make();
  for (uint16_t i = 0; i < 1000; ++i) {
    auto builder = driver.chain();
    for (int part = 0; part <= i % 6; ++part) builder.raw({0x100, 4, 0, 0});
    builder.offer(i);
    auto chain = queue.pop();
    ASSERT_TRUE(chain.has_value()) << i;
    EXPECT_FALSE(queue.pop().has_value());
    queue.push(*std::move(chain), 0);
    const auto used = driver.used();
    ASSERT_TRUE(used.has_value()) << i;
    EXPECT_EQ(used->id, i);
  }
}

TEST_F(PackedQueueTest, staged_buffers_appear_together) {
  Queue queue = make();
  driver.chain().writable(8).offer(1);
  driver.chain().writable(8).offer(2);
  queue.stage(*queue.pop(), 8);
  queue.stage(*queue.pop(), 3);
  EXPECT_FALSE(driver.used().has_value());
  queue.publish();
  EXPECT_EQ(driver.used()->length, 8u);
  EXPECT_EQ(driver.used()->length, 3u);
}

TEST_F(PackedQueueTest, unpop_over_the_end_gives_the_chain_again) {
  Queue queue = make();
  for (int i = 0; i < 5; ++i) {
    serve_one(queue);
    driver.used();
  }
  driver.chain().writable(8).writable(8).offer(9);
  queue.unpop(*queue.pop());
  auto again = queue.pop();
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(again->head(), 9);
  queue.push(*std::move(again), 0);
  EXPECT_EQ(driver.used()->id, 9u);
}

TEST_F(PackedQueueTest, indirect_chain_takes_one_entry) {
  Queue queue = make(kIndirectFeature);
  auto builder = driver.chain();
  for (int i = 0; i < 20; ++i) builder.readable("x");
  builder.writable(5).offer_indirect(3);
  const auto chain = queue.pop();
  ASSERT_TRUE(chain.has_value());
  EXPECT_EQ(chain->slots(), 1);
  EXPECT_EQ(chain->readable_bytes(), 20u);
  EXPECT_EQ(chain->writable_bytes(), 5u);
}

TEST_F(PackedQueueTest, next_in_an_indirect_table_means_nothing) {
  Queue queue = make(kIndirectFeature);
  driver.chain().raw({0x100, 4, 0, 0}).raw({0x200, 4, 99, kNext}).offer_indirect(3);
  EXPECT_EQ(queue.pop()->readable_bytes(), 8u);
}

// Malformed rings.

TEST_F(PackedQueueTest, chain_longer_than_the_ring_breaks) {
  Queue queue = make();
  for (uint16_t i = 0; i < 6; ++i) driver.put(i, {0x100, 4, 0, kNext | kAvail});
  expect_broken(queue);
}

TEST_F(PackedQueueTest, entries_available_again_before_their_use_break) {
  Queue queue = make();
  for (uint16_t i = 0; i < 6; ++i) driver.chain().readable("a").offer(i);
  for (int i = 0; i < 6; ++i) EXPECT_TRUE(queue.pop().has_value());
  driver.chain().readable("a").offer(6);
  expect_broken(queue);
}

TEST_F(PackedQueueTest, zero_length_descriptor_breaks) {
  Queue queue = make();
  driver.chain().raw({0x100, 0, 0, 0}).offer(0);
  expect_broken(queue);
}

TEST_F(PackedQueueTest, buffer_beyond_ram_breaks) {
  Queue queue = make();
  driver.chain().raw({GuestMemory::kBytes, 4, 0, 0}).offer(0);
  expect_broken(queue);
}

TEST_F(PackedQueueTest, readable_after_writable_breaks) {
  Queue queue = make();
  driver.chain().writable(4).readable("abc").offer(0);
  expect_broken(queue);
}

TEST_F(PackedQueueTest, indirect_not_negotiated_breaks) {
  Queue queue = make();
  driver.chain().readable("abc").offer_indirect(0);
  expect_broken(queue);
}

TEST_F(PackedQueueTest, indirect_with_next_breaks) {
  Queue queue = make(kIndirectFeature);
  const uint64_t table = memory.allocate(16);
  memory.put(table, PackedDescriptor{0x100, 4, 0, 0});
  driver.chain().raw({table, 16, 0, kIndirect}).readable("x").offer(0);
  expect_broken(queue);
}

TEST_F(PackedQueueTest, indirect_tables_of_wrong_lengths_break) {
  for (const uint32_t length : {0u, 24u, 16u * 1025, 0xfffffff0u}) {
    GuestMemory fresh;
    FakePackedQueue other(fresh, 6);
    Queue queue(fresh.space, 0, other.setup, kPacked | kIndirectFeature);
    other.chain().raw({0x100, length, 0, kIndirect}).offer(0);
    EXPECT_FALSE(queue.pop().has_value());
    EXPECT_TRUE(queue.broken()) << length;
  }
}

TEST_F(PackedQueueTest, indirect_table_outside_ram_breaks) {
  Queue queue = make(kIndirectFeature);
  driver.chain().raw({GuestMemory::kBytes, 16, 0, kIndirect}).offer(0);
  expect_broken(queue);
}

// Setup.

TEST_F(PackedQueueTest, setup_of_any_size) {
  EXPECT_EQ(Queue::fault(memory.space, driver.setup, 8, kPacked), "");
  EXPECT_NE(Queue::fault(memory.space, driver.setup, 5, kPacked), "");
  driver.setup.size = 0;
  EXPECT_NE(Queue::fault(memory.space, driver.setup, 8, kPacked), "");
}

TEST_F(PackedQueueTest, setup_of_misaligned_parts) {
  for (uint64_t QueueSetup::*part : {&QueueSetup::descriptors, &QueueSetup::driver, &QueueSetup::device}) {
    QueueSetup setup = driver.setup;
    setup.*part += 2;
    EXPECT_NE(Queue::fault(memory.space, setup, 8, kPacked), "");
  }
}

TEST_F(PackedQueueTest, setup_outside_ram) {
  for (uint64_t QueueSetup::*part : {&QueueSetup::descriptors, &QueueSetup::driver, &QueueSetup::device}) {
    QueueSetup setup = driver.setup;
    setup.*part = GuestMemory::kBytes;
    EXPECT_NE(Queue::fault(memory.space, setup, 8, kPacked), "");
  }
}

// Suppression.

TEST_F(PackedQueueTest, interrupt_as_the_flags_say) {
  Queue queue = make();
  serve_one(queue);
  EXPECT_TRUE(queue.should_interrupt());
  EXPECT_FALSE(queue.should_interrupt());
  driver.set_event(0, kDisable);
  serve_one(queue);
  EXPECT_FALSE(queue.should_interrupt());
  driver.set_event(0, kEnable);
  EXPECT_FALSE(queue.should_interrupt());
}

TEST_F(PackedQueueTest, event_of_one_descriptor) {
  Queue queue = make(kEventFeature);
  driver.set_event(0x8000 | 2, kDesc);
  std::vector<bool> told;
  for (int i = 0; i < 5; ++i) {
    serve_one(queue);
    told.push_back(queue.should_interrupt());
  }
  EXPECT_EQ(told, (std::vector<bool>{false, false, true, false, false}));
}

TEST_F(PackedQueueTest, event_in_the_next_round) {
  Queue queue = make(kEventFeature);
  driver.set_event(1, kDesc);  // wrap counter 0
  std::vector<bool> told;
  for (int i = 0; i < 9; ++i) {
    serve_one(queue);
    told.push_back(queue.should_interrupt());
  }
  EXPECT_EQ(told, (std::vector<bool>{false, false, false, false, false, false, false, true, false}));
}

TEST_F(PackedQueueTest, event_crossed_within_a_batch_over_the_end) {
  Queue queue = make(kEventFeature);
  driver.set_event(0x8000 | 5, kDesc);
  for (int i = 0; i < 4; ++i) serve_one(queue);
  EXPECT_FALSE(queue.should_interrupt());
  for (int i = 0; i < 4; ++i) serve_one(queue);
  EXPECT_TRUE(queue.should_interrupt());
}

TEST_F(PackedQueueTest, notifications_by_flag) {
  Queue queue = make();
  queue.set_notifications(false);
  EXPECT_EQ(driver.device_flags(), kDisable);
  queue.set_notifications(true);
  EXPECT_EQ(driver.device_flags(), kEnable);
}

TEST_F(PackedQueueTest, notifications_move_the_event_along) {
  Queue queue = make(kEventFeature);
  queue.set_notifications(true);
  EXPECT_EQ(driver.device_flags(), kDesc);
  EXPECT_EQ(driver.device_offset_wrap(), 0x8000);
  for (int i = 0; i < 4; ++i) serve_one(queue);
  EXPECT_EQ(driver.device_offset_wrap(), 0x8004);
  for (int i = 0; i < 2; ++i) serve_one(queue);
  EXPECT_EQ(driver.device_offset_wrap(), 0);
}

// State.

TEST_F(PackedQueueTest, state_continues_where_it_was) {
  Queue queue = make(kEventFeature);
  for (int i = 0; i < 8; ++i) {
    serve_one(queue);
    driver.used();
  }
  driver.chain().writable(4).offer(1);
  const auto kept = queue.pop();
  const ChainRecord record = kept->record();
  state::Saver saver;
  queue.state(saver);
  const auto bytes = saver.take();
  Queue other = make(kEventFeature);
  state::Loader loader(bytes);
  other.state(loader);
  ASSERT_TRUE(loader.finish());
  EXPECT_FALSE(other.pop().has_value());
  auto again = other.take_again(record);
  ASSERT_TRUE(again.has_value());
  driver.chain().readable("second").offer(2);
  EXPECT_EQ(other.pop()->readable_bytes(), 6u);
  other.push(*std::move(again), 2);
  EXPECT_EQ(driver.used()->id, 1u);
}

TEST_F(PackedQueueTest, state_with_a_place_outside_the_ring_is_refused) {
  QueueSetup large = driver.setup;
  large.size = 8;
  Queue queue(memory.space, 0, large, kPacked);
  for (uint16_t i = 0; i < 7; ++i) {
    driver.put(i, {0x100, 4, 0, kAvail});
    queue.push(*queue.pop(), 0);
  }
  state::Saver saver;
  queue.state(saver);
  const auto bytes = saver.take();
  Queue other = make();
  state::Loader loader(bytes);
  other.state(loader);
  EXPECT_FALSE(loader.finish());
  EXPECT_FALSE(other.pop().has_value());
}

TEST_F(PackedQueueTest, kept_chain_whose_memory_is_gone_breaks) {
  Queue queue = make();
  ChainRecord record;
  record.addresses = {GuestMemory::kBytes};
  record.lengths = {1};
  EXPECT_FALSE(queue.take_again(record).has_value());
  EXPECT_TRUE(queue.broken());
}

}  // namespace
}  // namespace ostler::virtio
