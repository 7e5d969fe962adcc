// Drivers that know the ring formats, good ones and hostile ones, before each virtio device: chains come back
// by the rules, and a state that was reached can be saved and loaded.
#include <gtest/gtest.h>

#include <random>

#include "rigs/virtio_backends.h"
#include "rigs/virtqueue_run.h"

namespace ostler::rigs {
namespace {

class Virtqueues : public ::testing::TestWithParam<std::string> {};

TEST_P(Virtqueues, keep_the_rules_of_their_rings) {
  for (uint64_t seed = 1; seed <= 150; ++seed) {
    std::mt19937_64 random(seed);
    std::vector<uint8_t> steps(20000);
    for (uint8_t& each : steps) each = static_cast<uint8_t>(random());
    EXPECT_EQ(run_virtqueues(GetParam(), steps), "") << "seed " << seed;
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, Virtqueues, ::testing::ValuesIn(VirtioBackends::kinds()),
                         [](const auto& instance) { return instance.param; });

}  // namespace
}  // namespace ostler::rigs
