// The ring that a back end serves, with a back end that writes what it likes.
#include "devices/virtio/vhost_user/shadow_ring.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>

namespace ostler::virtio::vhost_user {
namespace {

class ShadowRingTest : public testing::Test {
 protected:
  static Chain chain(uint16_t head, size_t readable, size_t writable) {
    std::vector<Segment> segments;
    for (size_t i = 0; i < readable + writable; ++i)
      segments.push_back({GuestPhys{0x1000 * (i + 1)}, static_cast<uint32_t>(16 + i)});
    return Chain(head, std::move(segments), readable);
  }
  template <class T>
  T get(uint64_t at) const {
    T value;
    std::memcpy(&value, memory.data() + at, sizeof value);
    return value;
  }
  template <class T>
  void put(uint64_t at, T value) {
    std::memcpy(memory.data() + at, &value, sizeof value);
  }
  void use(uint32_t id, uint32_t length) {
    put(ShadowRing::kUsed + 4 + 8 * (used % ShadowRing::kSize), id);
    put(ShadowRing::kUsed + 8 + 8 * (used % ShadowRing::kSize), length);
    put(ShadowRing::kUsed + 2, ++used);
  }
  uint16_t available(unsigned i) const { return get<uint16_t>(ShadowRing::kAvailable + 4 + 2 * i); }

  std::vector<std::byte> memory = std::vector<std::byte>(ShadowRing::kBytes);
  uint16_t used = 0;
  ShadowRing ring{memory.data()};
};

TEST_F(ShadowRingTest, chain_is_laid_out_as_virtio_says) {
  ring.add(chain(7, 1, 2));
  EXPECT_EQ(get<uint16_t>(ShadowRing::kAvailable + 2), 0) << "not yet seen";
  EXPECT_TRUE(ring.publish());
  EXPECT_EQ(get<uint16_t>(ShadowRing::kAvailable + 2), 1);
  uint16_t at = available(0);
  for (unsigned i = 0; i < 3; ++i) {
    const uint64_t descriptor = ShadowRing::kDescriptors + 16u * at;
    EXPECT_EQ(get<uint64_t>(descriptor), 0x1000u * (i + 1));
    EXPECT_EQ(get<uint32_t>(descriptor + 8), 16 + i);
    EXPECT_EQ(get<uint16_t>(descriptor + 12), (i > 0 ? 2 : 0) | (i < 2 ? 1 : 0));
    at = get<uint16_t>(descriptor + 14);
  }
  EXPECT_FALSE(ring.publish()) << "nothing new";
}

TEST_F(ShadowRingTest, used_chains_come_back_in_any_order) {
  for (uint16_t i = 0; i < 3; ++i) ring.add(chain(i, 1, 1));
  ring.publish();
  use(available(2), 5);
  use(available(0), 1000);
  auto done = ring.take();
  ASSERT_TRUE(done);
  EXPECT_EQ(done->chain.head(), 2);
  EXPECT_EQ(done->written, 5u);
  done = ring.take();
  ASSERT_TRUE(done);
  EXPECT_EQ(done->chain.head(), 0);
  EXPECT_EQ(done->written, 17u) << "no more than there is room for";
  EXPECT_FALSE(ring.take());
  EXPECT_EQ(ring.outstanding(), 1u);
  EXPECT_TRUE(ring.fault().empty());
}

TEST_F(ShadowRingTest, descriptors_are_used_again) {
  for (unsigned round = 0; round < 70000; ++round) {
    ring.add(chain(1, 2, 1));
    ring.publish();
    use(available(round % ShadowRing::kSize), 0);
    ASSERT_TRUE(ring.take()) << round;
  }
  EXPECT_TRUE(ring.fits(chain(0, ShadowRing::kSize, 0)));
}

TEST_F(ShadowRingTest, longest_chain_fits_alone) {
  EXPECT_TRUE(ring.fits(chain(0, 24, ShadowRing::kSize - 24)));
  ring.add(chain(0, 24, ShadowRing::kSize - 24));
  EXPECT_FALSE(ring.fits(chain(1, 1, 0)));
  ring.publish();
  use(available(0), 0);
  EXPECT_TRUE(ring.take());
  EXPECT_TRUE(ring.fits(chain(1, 24, ShadowRing::kSize - 24)));
}

TEST_F(ShadowRingTest, back_end_may_do_without_kicks) {
  put(ShadowRing::kUsed, uint16_t{1});
  ring.add(chain(0, 1, 0));
  EXPECT_FALSE(ring.publish());
}

TEST_F(ShadowRingTest, more_used_than_given_is_a_fault) {
  ring.add(chain(0, 1, 1));
  ring.publish();
  put(ShadowRing::kUsed + 2, uint16_t{2});
  EXPECT_FALSE(ring.take());
  EXPECT_FALSE(ring.fault().empty());
}

TEST_F(ShadowRingTest, used_index_that_runs_back_is_a_fault) {
  put(ShadowRing::kUsed + 2, uint16_t{0xffff});
  EXPECT_FALSE(ring.take());
  EXPECT_FALSE(ring.fault().empty());
}

TEST_F(ShadowRingTest, unknown_ids_are_a_fault) {
  for (const uint32_t id : {1u, uint32_t{ShadowRing::kSize}, 0xffffffffu}) {
    ring.reset();
    used = 0;
    ring.add(chain(0, 2, 1));  // 1 is in the middle of a chain
    ring.publish();
    use(id, 0);
    EXPECT_FALSE(ring.take());
    EXPECT_FALSE(ring.fault().empty());
  }
}

TEST_F(ShadowRingTest, chain_is_used_once) {
  ring.add(chain(0, 1, 1));
  ring.add(chain(1, 1, 1));
  ring.publish();
  use(available(0), 0);
  use(available(0), 0);
  EXPECT_TRUE(ring.take());
  EXPECT_FALSE(ring.take());
  EXPECT_FALSE(ring.fault().empty());
}

TEST_F(ShadowRingTest, links_in_shared_memory_are_not_believed) {
  ring.add(chain(0, 3, 3));
  ring.publish();
  for (unsigned i = 0; i < ShadowRing::kSize; ++i) put(ShadowRing::kDescriptors + 16u * i + 14, uint16_t{0});
  use(available(0), 0);
  EXPECT_TRUE(ring.take());
  EXPECT_TRUE(ring.fits(chain(0, ShadowRing::kSize, 0)));
  for (uint16_t i = 0; i < 100; ++i) ring.add(chain(i, 5, 5));
  EXPECT_EQ(ring.outstanding(), 100u);
}

TEST_F(ShadowRingTest, unused_chains_are_given_back_in_order) {
  for (uint16_t i = 0; i < 5; ++i) ring.add(chain(i, 1, 1));
  ring.publish();
  use(available(1), 0);
  use(available(3), 0);
  EXPECT_TRUE(ring.take());
  EXPECT_TRUE(ring.take());
  ring.add(chain(9, 1, 1));
  std::vector<uint16_t> heads;
  for (const Chain& each : ring.give_back()) heads.push_back(each.head());
  EXPECT_EQ(heads, (std::vector<uint16_t>{0, 2, 4, 9}));
  EXPECT_EQ(ring.outstanding(), 0u);
}

// ---- with the guest's used ring ----
class LentShadowRingTest : public ShadowRingTest {
 protected:
  static constexpr uint16_t kSize = 8, kIndex = 0xfffe;
  void SetUp() override { lend(); }
  void lend() {
    std::memcpy(used_part.data() + 2, &kIndex, sizeof kIndex);
    used = kIndex;
    lent.reset({.ram = {}, .used = used_part.data(), .size = kSize, .index = kIndex});
  }
  void use(uint32_t id) {
    std::memcpy(used_part.data() + 4 + 8 * (used % kSize), &id, sizeof id);
    ++used;
    std::memcpy(used_part.data() + 2, &used, sizeof used);
  }

  alignas(4) std::array<std::byte, 4 + 8 * kSize> used_part{};
  ShadowRing lent{memory.data(), uint64_t{1} << 40};
};

TEST_F(LentShadowRingTest, chain_is_a_table_behind_its_own_head) {
  EXPECT_EQ(get<uint16_t>(ShadowRing::kAvailable + 2), kIndex);
  lent.add(chain(5, 1, 2));
  EXPECT_TRUE(lent.publish());
  EXPECT_EQ(get<uint16_t>(ShadowRing::kAvailable + 2), 0xffff);
  EXPECT_EQ(available(kIndex % kSize), 5);
  const uint64_t head = ShadowRing::kDescriptors + 16 * 5;
  EXPECT_EQ(get<uint64_t>(head), (uint64_t{1} << 40) + ShadowRing::kTables);
  EXPECT_EQ(get<uint32_t>(head + 8), 3 * 16u);
  EXPECT_EQ(get<uint16_t>(head + 12), 4);
  for (unsigned i = 0; i < 3; ++i) {
    const uint64_t descriptor = ShadowRing::kTables + 16u * i;
    EXPECT_EQ(get<uint64_t>(descriptor), 0x1000u * (i + 1));
    EXPECT_EQ(get<uint32_t>(descriptor + 8), 16 + i);
    EXPECT_EQ(get<uint16_t>(descriptor + 12), (i > 0 ? 2 : 0) | (i < 2 ? 1 : 0));
    if (i < 2) {
      EXPECT_EQ(get<uint16_t>(descriptor + 14), i + 1);
    }
  }
}

TEST_F(LentShadowRingTest, head_is_taken_once_and_within_the_ring) {
  EXPECT_TRUE(lent.takes(7));
  EXPECT_FALSE(lent.takes(8)) << "as a saved state may say";
  lent.add(chain(7, 1, 1));
  EXPECT_FALSE(lent.takes(7));
  lent.publish();
  use(7);
  EXPECT_EQ(lent.take()->chain.head(), 7);
  EXPECT_TRUE(lent.takes(7));
  EXPECT_EQ(lent.index(), 0xffff);
}

TEST_F(LentShadowRingTest, ids_past_the_guests_ring_are_a_fault) {
  lent.add(chain(1, 1, 1));
  lent.publish();
  use(8);
  EXPECT_FALSE(lent.take());
  EXPECT_FALSE(lent.fault().empty());
}

TEST_F(LentShadowRingTest, tables_are_free_again_after_use_and_after_a_reset) {
  const auto fill = [this] {
    uint16_t head = 0;
    for (; lent.fits(chain(head, 1000, 0)); ++head) lent.add(chain(head, 1000, 0));
    return head;
  };
  EXPECT_EQ(fill(), 4);
  lent.publish();
  use(2);
  EXPECT_TRUE(lent.take());
  EXPECT_TRUE(lent.fits(chain(4, 1000, 0)));
  lend();
  EXPECT_EQ(fill(), 4);
  EXPECT_EQ(lent.give_back().size(), 4u);
  EXPECT_FALSE(lent.lent());
}

}  // namespace
}  // namespace ostler::virtio::vhost_user
