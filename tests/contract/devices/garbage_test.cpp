// Whatever a guest writes anywhere: no crash, no endless work, and a state that can still be saved and
// loaded.
#include <gtest/gtest.h>

#include <random>

#include "rigs/rigs.h"

namespace ostler::rigs {
namespace {

class Garbage : public ::testing::TestWithParam<Kind> {};

TEST_P(Garbage, IsSurvived) {
  constexpr int kSteps = 20'000;
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937_64 random(seed);
    const std::unique_ptr<Rig> rig = GetParam().make();
    for (int i = 0; i < kSteps; ++i) {
      // Small values and single bits find more than noise does.
      uint64_t value = random();
      if (value % 3 == 0) value = uint64_t{1} << (random() & 63);
      if (value % 3 == 1) value = random() & 0xff;
      rig->step(static_cast<uint32_t>(random()), static_cast<uint32_t>(random()), value);
      rig->check();
    }
    const std::vector<std::byte> stream = rig->save();
    EXPECT_TRUE(rig->load(stream)) << "a state that the device reached is refused";
  }
}

TEST_P(Garbage, InSavedStateIsSurvived) {
  std::mt19937_64 random(7);
  const std::vector<std::byte> good = GetParam().make()->save();
  for (int round = 0; round < 300; ++round) {
    std::vector<std::byte> stream = good;
    for (unsigned changes = 1 + random() % 4; changes != 0; --changes)
      stream[random() % stream.size()] = static_cast<std::byte>(random());
    const std::unique_ptr<Rig> rig = GetParam().make();
    if (!rig->load(stream)) continue;
    for (int i = 0; i < 50; ++i)
      rig->step(static_cast<uint32_t>(random()), static_cast<uint32_t>(random()), random());
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, Garbage, ::testing::ValuesIn(all_kinds()),
                         [](const auto& instance) { return instance.param.name; });

}  // namespace
}  // namespace ostler::rigs
