// How a guest starts, is reset and ends, on both machines.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "machine/clockwork_guest.h"

namespace ostler::machine {
namespace {

using ::testing::ElementsAreArray;
using Kind = std::tuple<std::string, unsigned>;  // machine, vCPUs

Clockwork options_of(const Kind& kind) {
  return {.machine = std::get<0>(kind), .cpus = std::get<1>(kind)};
}

std::string name_of(const ::testing::TestParamInfo<Kind>& info) {
  return std::get<0>(info.param) + std::to_string(std::get<1>(info.param));
}

class Life : public ::testing::TestWithParam<Kind> {
 protected:
  Clockwork options_ = options_of(GetParam());
};

TEST_P(Life, EveryProcessorAndTimerWorks) {
  ClockworkGuest guest(options_);
  guest.start();
  guest.wait_for_steps(100);
  guest.pause();
  const uint32_t steps = guest.word(ClockworkGuest::kSteps);
  for (unsigned cpu = 0; cpu < options_.cpus; ++cpu)
    EXPECT_GE(guest.word(ClockworkGuest::kRounds + 4 * cpu), steps) << "vCPU " << cpu;
  EXPECT_EQ(guest.word(ClockworkGuest::kTscErrors), 0u);
  const std::vector<uint8_t> output = guest.output();
  EXPECT_GE(output.size(), steps - 1);
  EXPECT_THAT(output, ElementsAreArray(expected_output(output.size())));
}

TEST_P(Life, PausedGuestStandsStill) {
  ClockworkGuest guest(options_);
  guest.start();
  for (int round = 0; round < 20; ++round) {
    guest.wait_for_steps(3);
    guest.pause();
    const uint32_t steps = guest.word(ClockworkGuest::kSteps);
    const uint64_t instructions = guest.machine().instructions();
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    EXPECT_EQ(guest.word(ClockworkGuest::kSteps), steps);
    EXPECT_EQ(guest.machine().instructions(), instructions);
    guest.on_loop([&] { guest.machine().resume(); });
  }
  EXPECT_EQ(guest.word(ClockworkGuest::kTscErrors), 0u);
}

TEST_P(Life, ResetOfARunningGuestStartsItAgain) {
  ClockworkGuest guest(options_);
  guest.start();
  for (int round = 0; round < 10; ++round) {
    guest.wait_for_steps(7);
    size_t before = 0;
    guest.pause();
    guest.on_loop([&] {
      before = guest.output().size();
      EXPECT_TRUE(guest.machine().reset());
      guest.machine().resume();
    });
    while (guest.output().size() < before + 20) std::this_thread::yield();
    std::vector<uint8_t> output = guest.output();
    output.erase(output.begin(), output.begin() + static_cast<std::ptrdiff_t>(before));
    EXPECT_THAT(output, ElementsAreArray(expected_output(output.size()))) << "round " << round;
  }
}

TEST_P(Life, TripleFaultResets) {
  options_.at_step_50 = 't';
  ClockworkGuest guest(options_);
  guest.start();
  while (guest.output().size() < 130) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  std::vector<uint8_t> output = guest.output();
  output.resize(130);
  std::vector<uint8_t> expected = expected_output(50);
  for (const size_t more : {50u, 30u}) {
    const auto again = expected_output(more);
    expected.insert(expected.end(), again.begin(), again.end());
  }
  EXPECT_THAT(output, ElementsAreArray(expected));
}

TEST_P(Life, TripleFaultEndsWithNoReboot) {
  options_.at_step_50 = 't';
  options_.reboot = false;
  ClockworkGuest guest(options_);
  guest.start();
  EXPECT_EQ(guest.wait_for_end(), 0);
  EXPECT_THAT(guest.output(), ElementsAreArray(expected_output(50)));
}

TEST_P(Life, DebugExitGivesTheStatus) {
  options_.at_step_50 = 'x';
  options_.devices = {
      {.type = "isa-debug-exit", .id = {}, .properties = {}, .origin = "-device isa-debug-exit"}};
  ClockworkGuest guest(options_);
  guest.start();
  EXPECT_EQ(guest.wait_for_end(), 21 * 2 + 1);
  EXPECT_THAT(guest.output(), ElementsAreArray(expected_output(50)));
}

INSTANTIATE_TEST_SUITE_P(Machines, Life,
                         ::testing::Combine(::testing::Values("pc", "microvm"), ::testing::Values(1u, 4u)),
                         name_of);

TEST(PcLife, ResetControlRegisterResets) {
  ClockworkGuest guest({.machine = "pc", .cpus = 2, .at_step_50 = 'b', .reboot = false});
  guest.start();
  EXPECT_EQ(guest.wait_for_end(), 0);
  EXPECT_THAT(guest.output(), ElementsAreArray(expected_output(50)));
}

}  // namespace
}  // namespace ostler::machine
