// Every device: save, change, restore, and it is as it was saved, in the same object and in a new one.
#include <gtest/gtest.h>

#include <random>

#include "rigs/rigs.h"

namespace ostler::rigs {
namespace {

class SaveRestore : public ::testing::TestWithParam<Kind> {
 protected:
  void shake(Rig& rig, int steps) {
    for (int i = 0; i < steps; ++i)
      rig.step(static_cast<uint32_t>(random_()), static_cast<uint32_t>(random_()), random_());
  }

 private:
  std::mt19937_64 random_{20261121};
};

TEST_P(SaveRestore, MutateAndRestoreGivesTheSavedState) {
  const std::unique_ptr<Rig> rig = GetParam().make();
  for (int round = 0; round < 50; ++round) {
    shake(*rig, 40);
    const std::vector<std::byte> saved = rig->save();
    shake(*rig, 40);
    ASSERT_TRUE(rig->load(saved));
    EXPECT_TRUE(rig->save() == saved) << "round " << round;
  }
}

TEST_P(SaveRestore, NewObjectTakesTheState) {
  const std::unique_ptr<Rig> rig = GetParam().make();
  shake(*rig, 500);
  const std::vector<std::byte> saved = rig->save();
  const std::unique_ptr<Rig> other = GetParam().make();
  ASSERT_TRUE(other->load(saved));
  EXPECT_TRUE(other->save() == saved);
}

TEST_P(SaveRestore, SavingChangesNothing) {
  const std::unique_ptr<Rig> rig = GetParam().make();
  shake(*rig, 500);
  const std::vector<std::byte> first = rig->save();
  EXPECT_TRUE(rig->save() == first);
}

TEST_P(SaveRestore, ShortStreamsAreRefused) {
  const std::unique_ptr<Rig> rig = GetParam().make();
  const std::vector<std::byte> saved = rig->save();
  for (size_t size = 0; size < saved.size(); size += 1 + saved.size() / 97) {
    const std::unique_ptr<Rig> other = GetParam().make();
    EXPECT_FALSE(other->load(std::span<const std::byte>(saved).first(size))) << size;
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, SaveRestore, ::testing::ValuesIn(all_kinds()),
                         [](const auto& instance) { return instance.param.name; });

}  // namespace
}  // namespace ostler::rigs
