// Split virtqueues: good rings, one test for every way to break one, and notification suppression.
#include "devices/virtio/queue.h"

#include <gtest/gtest.h>

#include "devices/virtio/features.h"
#include "fake_driver.h"

namespace ostler::virtio {
namespace {

using test::Descriptor;
using test::FakeQueue;
using test::GuestMemory;
using test::kIndirect;
using test::kNext;
using test::kWrite;

constexpr uint64_t kIndirectFeature = feature(VIRTIO_F_INDIRECT_DESC);
constexpr uint64_t kEventFeature = feature(VIRTIO_F_EVENT_IDX);

class QueueTest : public testing::Test {
 protected:
  Queue make(uint64_t features = 0) { return Queue(memory.space, 0, driver.setup, features); }
  // The device refuses what was offered, for ever.
  void expect_broken(Queue& queue) {
    EXPECT_FALSE(queue.pop().has_value());
    EXPECT_TRUE(queue.broken());
    driver.chain().readable("good").offer();
    EXPECT_FALSE(queue.pop().has_value());
    EXPECT_EQ(driver.used_index(), 0);
  }
  GuestMemory memory;
  FakeQueue driver{memory, 8};
};

TEST_F(QueueTest, empty_ring_gives_nothing) {
  Queue queue = make();
  EXPECT_FALSE(queue.pop().has_value());
  EXPECT_FALSE(queue.broken());
}

TEST_F(QueueTest, chain_has_its_readable_and_writable_parts) {
  Queue queue = make();
  driver.chain().readable("head").readable("er").writable(16).writable(1).offer();
  const auto chain = queue.pop();
  ASSERT_TRUE(chain.has_value());
  EXPECT_EQ(chain->readable().size(), 2u);
  EXPECT_EQ(chain->readable_bytes(), 6u);
  EXPECT_EQ(chain->writable_bytes(), 17u);
}

TEST_F(QueueTest, read_crosses_segments) {
  Queue queue = make();
  driver.chain().readable("ab").readable("cde").readable("f").offer();
  const auto chain = queue.pop();
  std::array<char, 4> text;
  ASSERT_TRUE(chain->read(queue.dma(), 1, std::as_writable_bytes(std::span(text))));
  EXPECT_EQ(std::string(text.data(), 4), "bcde");
}

TEST_F(QueueTest, read_past_the_end_fails) {
  Queue queue = make();
  driver.chain().readable("ab").offer();
  const auto chain = queue.pop();
  uint32_t value = 0;
  EXPECT_FALSE(chain->read_object(queue.dma(), 0, value));
}

TEST_F(QueueTest, write_crosses_segments) {
  Queue queue = make();
  auto builder = driver.chain().writable(1).writable(4);
  builder.offer();
  const auto chain = queue.pop();
  ASSERT_TRUE(chain->write(queue.dma(), 0, std::as_bytes(std::span("xyz", 3))));
  EXPECT_EQ(memory.bytes(builder.address(0), 1), "x");
  EXPECT_EQ(memory.bytes(builder.address(1), 2), "yz");
}

TEST_F(QueueTest, push_fills_the_used_ring) {
  Queue queue = make();
  driver.chain().readable("a").offer();
  const uint16_t second = driver.chain().writable(8).offer();
  auto first_chain = queue.pop();
  auto second_chain = queue.pop();
  queue.push(*std::move(second_chain), 5);
  const auto used = driver.used();
  ASSERT_TRUE(used.has_value());
  EXPECT_EQ(used->id, second);
  EXPECT_EQ(used->length, 5u);
  EXPECT_FALSE(driver.used().has_value());
}

TEST_F(QueueTest, indices_wrap_around) {
  Queue queue = make();
  for (int i = 0; i < 70000; ++i) {
    driver.set_descriptor(0, {0x100, 4, 0, 0});
    driver.make_available(0);
    auto chain = queue.pop();
    ASSERT_TRUE(chain.has_value()) << i;
    queue.push(*std::move(chain), 0);
    ASSERT_TRUE(driver.used().has_value()) << i;
  }
}

TEST_F(QueueTest, staged_buffers_appear_together) {
  Queue queue = make();
  driver.chain().writable(8).offer();
  driver.chain().writable(8).offer();
  queue.stage(*queue.pop(), 8);
  queue.stage(*queue.pop(), 3);
  EXPECT_EQ(driver.used_index(), 0);
  queue.publish();
  EXPECT_EQ(driver.used()->length, 8u);
  EXPECT_EQ(driver.used()->length, 3u);
}

TEST_F(QueueTest, unpop_gives_the_chain_again) {
  Queue queue = make();
  const uint16_t head = driver.chain().writable(8).offer();
  queue.unpop(*queue.pop());
  const auto again = queue.pop();
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(again->head(), head);
}

TEST_F(QueueTest, indirect_chain) {
  Queue queue = make(kIndirectFeature);
  driver.chain().readable("abc").writable(5).offer_indirect();
  const auto chain = queue.pop();
  ASSERT_TRUE(chain.has_value());
  EXPECT_EQ(chain->readable_bytes(), 3u);
  EXPECT_EQ(chain->writable_bytes(), 5u);
}

TEST_F(QueueTest, indirect_chain_may_be_longer_than_the_queue) {
  Queue queue = make(kIndirectFeature);
  auto builder = driver.chain();
  for (int i = 0; i < 20; ++i) builder.readable("x");
  builder.offer_indirect();
  EXPECT_EQ(queue.pop()->readable().size(), 20u);
}

TEST_F(QueueTest, indirect_after_direct_descriptors) {
  Queue queue = make(kIndirectFeature);
  const uint64_t table = memory.allocate(16);
  memory.put(table, Descriptor{0x100, 8, kWrite, 0});
  driver.chain().readable("abc").raw({table, 16, kIndirect, 0}).offer();
  const auto chain = queue.pop();
  ASSERT_TRUE(chain.has_value());
  EXPECT_EQ(chain->readable_bytes(), 3u);
  EXPECT_EQ(chain->writable_bytes(), 8u);
}

// Malformed rings.

TEST_F(QueueTest, available_index_far_ahead_breaks) {
  Queue queue = make();
  driver.chain().readable("a").offer();
  driver.set_available_index(9);
  expect_broken(queue);
}

TEST_F(QueueTest, available_index_going_back_breaks) {
  Queue queue = make();
  driver.set_available_index(0xffff);
  expect_broken(queue);
}

TEST_F(QueueTest, head_outside_the_table_breaks) {
  Queue queue = make();
  driver.make_available(8);
  expect_broken(queue);
}

TEST_F(QueueTest, next_outside_the_table_breaks) {
  Queue queue = make();
  driver.set_descriptor(0, {0x100, 4, kNext, 8});
  driver.make_available(0);
  expect_broken(queue);
}

TEST_F(QueueTest, descriptor_naming_itself_breaks) {
  Queue queue = make();
  driver.set_descriptor(0, {0x100, 4, kNext, 0});
  driver.make_available(0);
  expect_broken(queue);
}

TEST_F(QueueTest, loop_of_two_breaks) {
  Queue queue = make();
  driver.set_descriptor(0, {0x100, 4, kNext, 1});
  driver.set_descriptor(1, {0x200, 4, kNext, 0});
  driver.make_available(0);
  expect_broken(queue);
}

TEST_F(QueueTest, loop_in_an_indirect_table_breaks) {
  Queue queue = make(kIndirectFeature);
  const uint64_t table = memory.allocate(32);
  memory.put(table, Descriptor{0x100, 4, kNext, 1});
  memory.put(table + 16, Descriptor{0x200, 4, kNext, 0});
  driver.chain().raw({table, 32, kIndirect, 0}).offer();
  expect_broken(queue);
}

TEST_F(QueueTest, zero_length_descriptor_breaks) {
  Queue queue = make();
  driver.chain().raw({0x100, 0, 0, 0}).offer();
  expect_broken(queue);
}

TEST_F(QueueTest, buffer_beyond_ram_breaks) {
  Queue queue = make();
  driver.chain().raw({GuestMemory::kBytes, 4, 0, 0}).offer();
  expect_broken(queue);
}

TEST_F(QueueTest, buffer_running_out_of_ram_breaks) {
  Queue queue = make();
  driver.chain().raw({GuestMemory::kBytes - 2, 4, kWrite, 0}).offer();
  expect_broken(queue);
}

TEST_F(QueueTest, buffer_wrapping_around_the_address_space_breaks) {
  Queue queue = make();
  driver.chain().raw({~uint64_t{0} - 1, 4, 0, 0}).offer();
  expect_broken(queue);
}

TEST_F(QueueTest, huge_length_breaks) {
  Queue queue = make();
  driver.chain().raw({0, 0xffffffff, 0, 0}).offer();
  expect_broken(queue);
}

TEST_F(QueueTest, chain_of_more_than_4_gib_breaks) {
  // One buffer of 8 MiB, 512 times and once more.
  constexpr uint64_t kAt = 16 << 20, kSize = 8 << 20;
  memory::RamRegion large("large", *memory::RamBlock::create({.name = "large", .size = kSize}));
  {
    memory::Transaction change(memory.space);
    change.add(memory.space.root(), kAt, large);
  }
  Queue queue = make(kIndirectFeature);
  auto builder = driver.chain();
  for (int i = 0; i < 512; ++i) builder.raw({kAt, kSize, 0, 0});
  builder.offer_indirect();
  expect_broken(queue);
}

TEST_F(QueueTest, readable_after_writable_breaks) {
  Queue queue = make();
  driver.chain().writable(4).readable("abc").offer();
  expect_broken(queue);
}

TEST_F(QueueTest, indirect_not_negotiated_breaks) {
  Queue queue = make();
  driver.chain().readable("abc").offer_indirect();
  expect_broken(queue);
}

TEST_F(QueueTest, indirect_within_indirect_breaks) {
  Queue queue = make(kIndirectFeature);
  const uint64_t inner = memory.allocate(16), outer = memory.allocate(16);
  memory.put(inner, Descriptor{0x100, 4, 0, 0});
  memory.put(outer, Descriptor{inner, 16, kIndirect, 0});
  driver.chain().raw({outer, 16, kIndirect, 0}).offer();
  expect_broken(queue);
}

TEST_F(QueueTest, indirect_with_next_breaks) {
  Queue queue = make(kIndirectFeature);
  const uint64_t table = memory.allocate(16);
  memory.put(table, Descriptor{0x100, 4, 0, 0});
  driver.chain().raw({table, 16, kIndirect, 0}).readable("x").offer();
  expect_broken(queue);
}

TEST_F(QueueTest, indirect_table_of_odd_length_breaks) {
  Queue queue = make(kIndirectFeature);
  driver.chain().raw({0x100, 24, kIndirect, 0}).offer();
  expect_broken(queue);
}

TEST_F(QueueTest, empty_indirect_table_breaks) {
  Queue queue = make(kIndirectFeature);
  driver.chain().raw({0x100, 0, kIndirect, 0}).offer();
  expect_broken(queue);
}

TEST_F(QueueTest, huge_indirect_table_breaks) {
  Queue queue = make(kIndirectFeature);
  driver.chain().raw({0, 0xfffffff0, kIndirect, 0}).offer();
  expect_broken(queue);
}

TEST_F(QueueTest, indirect_table_outside_ram_breaks) {
  Queue queue = make(kIndirectFeature);
  driver.chain().raw({GuestMemory::kBytes, 16, kIndirect, 0}).offer();
  expect_broken(queue);
}

TEST_F(QueueTest, next_outside_an_indirect_table_breaks) {
  Queue queue = make(kIndirectFeature);
  const uint64_t table = memory.allocate(16);
  memory.put(table, Descriptor{0x100, 4, kNext, 1});
  driver.chain().raw({table, 16, kIndirect, 0}).offer();
  expect_broken(queue);
}

TEST_F(QueueTest, too_many_segments_break) {
  Queue queue = make(kIndirectFeature);
  auto builder = driver.chain();
  for (size_t i = 0; i <= Chain::kMaxSegments; ++i) builder.raw({0x100, 1, 0, 0});
  builder.offer_indirect();
  expect_broken(queue);
}

// Setup.

TEST_F(QueueTest, good_setup_has_no_fault) {
  EXPECT_EQ(Queue::fault(memory.space, driver.setup, 8, 0), "");
}

TEST_F(QueueTest, setup_size_must_be_a_power_of_two) {
  driver.setup.size = 6;
  EXPECT_NE(Queue::fault(memory.space, driver.setup, 8, 0), "");
}

TEST_F(QueueTest, setup_size_must_not_be_zero) {
  driver.setup.size = 0;
  EXPECT_NE(Queue::fault(memory.space, driver.setup, 8, 0), "");
}

TEST_F(QueueTest, setup_size_must_not_exceed_the_device) {
  EXPECT_NE(Queue::fault(memory.space, driver.setup, 4, 0), "");
}

TEST_F(QueueTest, setup_descriptor_table_alignment) {
  driver.setup.descriptors += 8;
  EXPECT_NE(Queue::fault(memory.space, driver.setup, 8, 0), "");
}

TEST_F(QueueTest, setup_available_ring_alignment) {
  driver.setup.driver += 1;
  EXPECT_NE(Queue::fault(memory.space, driver.setup, 8, 0), "");
}

TEST_F(QueueTest, setup_used_ring_alignment) {
  driver.setup.device += 2;
  EXPECT_NE(Queue::fault(memory.space, driver.setup, 8, 0), "");
}

TEST_F(QueueTest, setup_rings_must_be_ram) {
  driver.setup.device = 0x10000000;
  EXPECT_NE(Queue::fault(memory.space, driver.setup, 8, 0), "");
}

TEST_F(QueueTest, setup_addresses_near_the_end_of_64_bits) {
  driver.setup.descriptors = ~uint64_t{15};
  EXPECT_NE(Queue::fault(memory.space, driver.setup, 8, 0), "");
}

// Suppression.

TEST_F(QueueTest, interrupt_after_a_push) {
  Queue queue = make();
  driver.chain().readable("a").offer();
  queue.push(*queue.pop(), 0);
  EXPECT_TRUE(queue.should_interrupt());
  EXPECT_FALSE(queue.should_interrupt());
}

TEST_F(QueueTest, no_interrupt_without_a_push) {
  Queue queue = make();
  EXPECT_FALSE(queue.should_interrupt());
}

TEST_F(QueueTest, flag_suppresses_interrupts) {
  Queue queue = make();
  driver.set_available_flags(1);
  driver.chain().readable("a").offer();
  queue.push(*queue.pop(), 0);
  EXPECT_FALSE(queue.should_interrupt());
}

TEST_F(QueueTest, event_index_asks_for_the_third) {
  Queue queue = make(kEventFeature);
  driver.chain().readable("a").offer();
  queue.push(*queue.pop(), 0);
  EXPECT_TRUE(queue.should_interrupt());  // the first question is answered with yes
  driver.set_used_event(2);
  std::vector<bool> told;
  for (int i = 0; i < 3; ++i) {
    driver.chain().readable("a").offer();
    queue.push(*queue.pop(), 0);
    told.push_back(queue.should_interrupt());
  }
  EXPECT_EQ(told, (std::vector<bool>{false, true, false}));
}

TEST_F(QueueTest, event_index_crossed_within_a_batch) {
  Queue queue = make(kEventFeature);
  driver.chain().readable("a").offer();
  queue.push(*queue.pop(), 0);
  EXPECT_TRUE(queue.should_interrupt());
  driver.set_used_event(2);
  for (int i = 0; i < 4; ++i) {
    driver.chain().readable("a").offer();
    queue.push(*queue.pop(), 0);
  }
  EXPECT_TRUE(queue.should_interrupt());
}

TEST_F(QueueTest, a_legacy_driver_hears_of_an_empty_ring_whatever_it_wishes) {
  for (const bool wanted : {false, true}) {
    Queue queue = make(wanted ? feature(VIRTIO_F_NOTIFY_ON_EMPTY) : 0);
    driver.restart();
    driver.set_available_flags(1);
    driver.chain().readable("a").offer();
    driver.chain().readable("b").offer();
    queue.push(*queue.pop(), 0);
    EXPECT_FALSE(queue.should_interrupt());
    queue.push(*queue.pop(), 0);
    EXPECT_EQ(queue.should_interrupt(), wanted);
  }
}

TEST_F(QueueTest, notifications_off_sets_the_flag) {
  Queue queue = make();
  queue.set_notifications(false);
  EXPECT_EQ(driver.used_flags(), 1);
  queue.set_notifications(true);
  EXPECT_EQ(driver.used_flags(), 0);
}

TEST_F(QueueTest, notifications_move_the_available_event) {
  Queue queue = make(kEventFeature);
  queue.set_notifications(false);
  driver.chain().readable("a").offer();
  driver.chain().readable("b").offer();
  queue.pop();
  queue.pop();
  EXPECT_EQ(driver.available_event(), 0);
  queue.set_notifications(true);
  EXPECT_EQ(driver.available_event(), 2);
}

TEST_F(QueueTest, state_continues_where_it_was) {
  Queue queue = make();
  driver.chain().readable("first").offer();
  queue.push(*queue.pop(), 0);
  state::Saver saver;
  queue.state(saver);
  const auto bytes = saver.take();
  Queue other = make();
  state::Loader loader(bytes);
  other.state(loader);
  ASSERT_TRUE(loader.finish());
  EXPECT_FALSE(other.pop().has_value());
  driver.chain().readable("second").offer();
  EXPECT_EQ(other.pop()->readable_bytes(), 6u);
}

}  // namespace
}  // namespace ostler::virtio
