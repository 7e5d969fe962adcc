#include "devices/virtio/vhost_user/table_space.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace ostler::virtio::vhost_user {
namespace {

TEST(TableSpace, places_in_a_row_are_given_once) {
  TableSpace space(10);
  EXPECT_EQ(space.take(4), 0u);
  EXPECT_EQ(space.take(4), 4u);
  EXPECT_FALSE(space.fits(3));
  EXPECT_FALSE(space.take(3));
  EXPECT_EQ(space.take(2), 8u);
  space.give(0, 4);
  space.give(8, 2);
  EXPECT_FALSE(space.take(6)) << "6 are free, but not in a row";
  EXPECT_EQ(space.take(3), 0u);
}

TEST(TableSpace, free_places_that_touch_become_one_run) {
  for (const auto& order : {std::vector<uint32_t>{0, 1, 2}, {2, 1, 0}, {0, 2, 1}, {1, 0, 2}}) {
    TableSpace space(9);
    for (int i = 0; i < 3; ++i) space.take(3);
    for (const uint32_t i : order) space.give(3 * i, 3);
    EXPECT_EQ(space.take(9), 0u);
  }
}

TEST(TableSpace, keeps_its_places_apart) {
  constexpr uint32_t kPlaces = 64;
  TableSpace space(kPlaces);
  std::mt19937 engine(1);
  const auto random = [&engine] { return static_cast<uint32_t>(engine()); };
  std::vector<std::pair<uint32_t, uint32_t>> taken;
  std::vector<bool> used(kPlaces);
  for (int i = 0; i < 20000; ++i) {
    const uint32_t count = 1 + random() % 12;
    const bool fits = space.fits(count);
    if (const auto first = random() % 2 == 0 ? space.take(count) : std::nullopt) {
      ASSERT_TRUE(fits);
      for (uint32_t at = *first; at < *first + count; ++at) {
        ASSERT_LT(at, kPlaces);
        ASSERT_FALSE(used[at]);
        used[at] = true;
      }
      taken.emplace_back(*first, count);
    } else if (!taken.empty()) {
      std::swap(taken[random() % taken.size()], taken.back());
      const auto [at, places] = taken.back();
      taken.pop_back();
      for (uint32_t each = at; each < at + places; ++each) used[each] = false;
      space.give(at, places);
    }
  }
  for (const auto& [first, count] : taken) space.give(first, count);
  EXPECT_EQ(space.take(kPlaces), 0u);
}

}  // namespace
}  // namespace ostler::virtio::vhost_user
