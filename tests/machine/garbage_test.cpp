// Random accesses to everything that a guest can reach, on a whole machine: no crash, no endless work, no
// growth, and a reset machine works as a new one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <random>

#include "event/loop.h"
#include "machine/clockwork_guest.h"
#include "machine/core.h"

namespace ostler::machine {
namespace {

config::Device device(const std::string& type, config::Properties properties = {}) {
  return {.type = type, .id = {}, .properties = std::move(properties), .origin = "-device " + type};
}

size_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  size_t total = 0, resident = 0;
  statm >> total >> resident;
  return resident * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

class MachineGarbage : public ::testing::TestWithParam<std::string> {
 protected:
  MachineGarbage() {
    const std::string suffix = GetParam() == "pc" ? "-pci" : "-device";
    options_.machine = GetParam();
    options_.cpus = 2;
    options_.devices = {device("virtio-rng" + suffix), device("virtio-serial" + suffix),
                        device("isa-debug-exit")};
  }

  // Where devices are: ranges of the memory view that are not RAM, and a little beyond them.
  static std::vector<std::pair<uint64_t, uint64_t>> device_ranges(Core& core) {
    std::vector<std::pair<uint64_t, uint64_t>> ranges;
    for (const memory::FlatRange& range : core.memory().view()->ranges())
      if (!range.is_ram()) ranges.emplace_back(range.first.value, range.last.value);
    return ranges;
  }

  // One burst of accesses; the guest's own memory is not touched except by what devices do.
  static void burst(Core& core, std::mt19937_64& random, unsigned count) {
    memory::AddressSpace::Reader memory(core.memory()), ports(core.ports());
    auto ranges = device_ranges(core);
    for (unsigned i = 0; i < count; ++i) {
      if (i % 64 == 63) ranges = device_ranges(core);  // BARs have moved
      const unsigned size = 1u << (random() % 4);
      uint64_t value = random();
      if (value % 3 == 0) value = uint64_t{1} << (random() & 63);
      if (value % 3 == 1) value = random() & 0xff;
      const bool write = random() % 3 != 0;
      if (random() % 2 == 0 || ranges.empty()) {
        // Half of them where chips are dense: the first 4 KiB.
        const uint64_t port = random() % 2 == 0 ? random() & 0xfff : random() & 0xffff;
        if (write)
          ports.write({port}, std::min(size, 4u), value);
        else
          ports.read({port}, std::min(size, 4u));
        continue;
      }
      const auto& [first, last] = ranges[random() % ranges.size()];
      uint64_t at = first + random() % (last - first + 1);
      if (random() % 2 == 0) at = first + random() % std::min<uint64_t>(last - first + 1, 256);
      if (random() % 4 != 0) at &= ~uint64_t{size - 1};
      if (write)
        memory.write({at}, size, value);
      else
        memory.read({at}, size);
    }
  }

  Clockwork options_;
};

TEST_P(MachineGarbage, IsSurvived) {
  // The guest stays paused: what is looked at is the devices. The loop runs as in the program, since they ask
  // it for resets, power-offs and the end.
  ClockworkGuest guest(options_);
  size_t resident = 0;
  for (uint64_t seed = 1; seed <= 24; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937_64 random(seed);
    burst(guest.machine().core(), random, 5000);
    guest.machine().loop().run_due();
    const Snapshot snapshot = *guest.machine().save();
    EXPECT_TRUE(guest.machine().restore(snapshot)) << "a state that the machine reached is refused";
    ASSERT_TRUE(guest.machine().reset());
    if (seed == 8) resident = resident_bytes();
  }
  EXPECT_LT(resident_bytes(), resident + (4u << 20)) << "the process grows";

  guest.machine().loop().stop();  // takes back an end that the garbage asked for
  guest.machine().loop().run();
  const size_t before = guest.output().size();
  guest.start();
  while (guest.output().size() < before + 40) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  std::vector<uint8_t> output = guest.output();
  output.erase(output.begin(), output.begin() + static_cast<std::ptrdiff_t>(before));
  EXPECT_THAT(output, ::testing::ElementsAreArray(expected_output(output.size())));
}

TEST_P(MachineGarbage, BesideARunningGuestIsSurvived) {
  ClockworkGuest guest(options_);
  guest.start();
  guest.wait_for_steps(5);
  for (uint64_t seed = 100; seed < 106; ++seed) {
    std::mt19937_64 random(seed);
    burst(guest.machine().core(), random, 3000);
  }
  // It may have ended the loop; the machine can still be taken down.
}

INSTANTIATE_TEST_SUITE_P(Machines, MachineGarbage, ::testing::Values("pc", "microvm"),
                         [](const auto& instance) { return instance.param; });

}  // namespace
}  // namespace ostler::machine
