// A guest of ours whose chips pass through the kernel's, where KVM has them, and come back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "accel/kvm/system.h"
#include "machine/clockwork_guest.h"

namespace ostler::machine {
namespace {

using ::testing::Combine;
using ::testing::ElementsAreArray;
using ::testing::Values;
using ::testing::ValuesIn;

class ThroughTheKernel : public ::testing::TestWithParam<std::tuple<std::string, std::string>> {};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(ThroughTheKernel);

// None where the host has no KVM.
std::vector<std::string> chips_here() {
  if (!accel::kvm::System::open("/dev/kvm")) return {};
  return {"off", "split", "on"};
}

TEST_P(ThroughTheKernel, AGuestGoesOnAsItWas) {
  const auto& [machine, chips] = GetParam();
  ClockworkGuest guest({.machine = machine});
  // The guest never runs there: what it is made of is handed over and taken back.
  ClockworkGuest kernels({.machine = machine, .kernel_irqchip = chips, .paused = true});
  ASSERT_TRUE(guest.built() && kernels.built());
  guest.start();
  constexpr uint32_t kRounds = 10;
  for (uint32_t round = 0; round < kRounds; ++round) {
    guest.wait_for_steps(5);
    guest.pause();
    guest.on_loop([&] {
      const auto there = kernels.machine().restore(*guest.machine().save());
      ASSERT_TRUE(there) << there.error().message();
      const Snapshot back = *kernels.machine().save();
      ASSERT_TRUE(guest.machine().reset());
      const auto here = guest.machine().restore(back);
      ASSERT_TRUE(here) << here.error().message();
      guest.machine().resume();
    });
  }
  guest.wait_for_steps(5);
  guest.pause();
  const auto output = guest.output();
  EXPECT_THAT(output, ElementsAreArray(expected_output(output.size())));
  EXPECT_EQ(guest.word(ClockworkGuest::kTscErrors), 0u);
  // The 8254 begins its count anew on the way there and on the way back: what had rung rings again.
  EXPECT_LE(guest.word(ClockworkGuest::kStray), machine == "pc" && chips == "on" ? 2 * kRounds : 0);
}

INSTANTIATE_TEST_SUITE_P(Chips, ThroughTheKernel, Combine(Values("pc", "microvm"), ValuesIn(chips_here())),
                         [](const auto& test) {
                           return std::get<0>(test.param) + "_" + std::get<1>(test.param);
                         });

}  // namespace
}  // namespace ostler::machine
