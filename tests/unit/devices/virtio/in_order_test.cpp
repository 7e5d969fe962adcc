// Buffers that are used in the order in which they were made available (IN_ORDER), on both kinds of ring.
#include <gtest/gtest.h>

#include "devices/virtio/features.h"
#include "devices/virtio/queue.h"
#include "packed_driver.h"

namespace ostler::virtio {
namespace {

class InOrderTest : public testing::TestWithParam<bool> {
 protected:
  uint64_t features() const {
    return feature(VIRTIO_F_IN_ORDER) | (GetParam() ? feature(VIRTIO_F_RING_PACKED) : 0);
  }
  Queue make() { return Queue(memory.space, 0, GetParam() ? packed.setup : split.setup, features()); }
  // Returns what the used entry will name.
  uint32_t offer() {
    if (!GetParam()) return split.chain().writable(8).offer();
    packed.chain().writable(8).offer(++id);
    return id;
  }
  std::optional<test::Used> used() { return GetParam() ? packed.used() : split.used(); }
  test::GuestMemory memory;
  test::FakeQueue split{memory, 8};
  test::FakePackedQueue packed{memory, 8};
  uint16_t id = 40;
};

TEST_P(InOrderTest, later_chains_wait_for_earlier_ones) {
  Queue queue = make();
  const uint32_t first = offer(), second = offer(), third = offer();
  auto a = queue.pop(), b = queue.pop(), c = queue.pop();
  queue.push(*std::move(c), 3);
  queue.push(*std::move(b), 2);
  EXPECT_FALSE(used().has_value());
  EXPECT_FALSE(queue.should_interrupt());
  queue.push(*std::move(a), 1);
  EXPECT_TRUE(queue.should_interrupt());
  for (const uint32_t expected : {first, second, third}) EXPECT_EQ(used()->id, expected);
}

TEST_P(InOrderTest, unpop_keeps_the_order) {
  Queue queue = make();
  const uint32_t first = offer(), second = offer();
  auto a = queue.pop();
  queue.unpop(*queue.pop());
  auto b = queue.pop();
  queue.push(*std::move(b), 0);
  EXPECT_FALSE(used().has_value());
  queue.push(*std::move(a), 0);
  EXPECT_EQ(used()->id, first);
  EXPECT_EQ(used()->id, second);
}

TEST_P(InOrderTest, more_chains_than_the_ring_holds_break) {
  Queue queue = make();
  for (int i = 0; i < 8; ++i) {
    offer();
    EXPECT_TRUE(queue.pop().has_value());
  }
  offer();
  EXPECT_FALSE(queue.pop().has_value());
  EXPECT_TRUE(queue.broken());
}

TEST_P(InOrderTest, state_keeps_chains_that_wait) {
  Queue queue = make();
  const uint32_t first = offer(), second = offer();
  auto a = queue.pop(), b = queue.pop();
  queue.push(*std::move(b), 5);
  const ChainRecord record = a->record();
  state::Saver saver;
  queue.state(saver);
  const auto bytes = saver.take();
  Queue other = make();
  state::Loader loader(bytes);
  other.state(loader);
  ASSERT_TRUE(loader.finish());
  auto again = other.take_again(record);
  ASSERT_TRUE(again.has_value());
  other.push(*std::move(again), 1);
  EXPECT_EQ(used()->id, first);
  const auto last = used();
  EXPECT_EQ(last->id, second);
  EXPECT_EQ(last->length, 5u);
}

TEST_P(InOrderTest, kept_chain_that_was_never_taken_breaks) {
  Queue queue = make();
  offer();
  ChainRecord record = queue.pop()->record();
  record.sequence = 5;
  EXPECT_FALSE(queue.take_again(record).has_value());
  EXPECT_TRUE(queue.broken());
}

TEST_P(InOrderTest, kept_chain_that_is_named_twice_breaks) {
  Queue queue = make();
  offer();
  const ChainRecord record = queue.pop()->record();
  auto first = queue.take_again(record), second = queue.take_again(record);
  EXPECT_TRUE(first.has_value());
  EXPECT_FALSE(second.has_value());
  EXPECT_TRUE(queue.broken());
  // What was given out goes back where it came from, and nowhere else.
  if (first) queue.push(*std::move(first), 0);
  if (second) queue.push(*std::move(second), 0);
}

INSTANTIATE_TEST_SUITE_P(Rings, InOrderTest, testing::Bool(),
                         [](const auto& kind) { return kind.param ? "packed" : "split"; });

}  // namespace
}  // namespace ostler::virtio
