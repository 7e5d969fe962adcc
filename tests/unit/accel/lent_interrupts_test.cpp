// A disk of another process whose back end's calls interrupt the guest through KVM (KVM_IRQFD), with the
// host's kernel. What a scripted kernel can show is in tests/unit/devices/virtio/vhost_user.
#include <gtest/gtest.h>

#include <functional>
#include <optional>
#include <tuple>

#include "chips.h"
#include "guests.h"
#include "vhost_user/plugged_disk.h"

namespace ostler::accel {
namespace {

using virtio::vhost_user::test::PluggedDisk;

GUEST(three_lent_interrupts16, ".code16",
      WITH_X2APIC
      "xor %bp, %bp; 1: mov %bp, %ax; out %al, $0x90; sti; 2: cmp %bp, %ax; je 2b; cli;"
      "cmp $3, %bp; jb 1b; out %al, $0x80; hlt")
GUEST(count_lent_interrupt16, ".code16",
      "push %ax; push %dx; inc %bp; mov $0x80b, %ecx; xor %eax, %eax; xor %edx, %edx; wrmsr; pop %dx;"
      "pop %ax; iret")

GUEST(one_lent_interrupt16, ".code16",
      WITH_X2APIC "xor %bp, %bp; out %al, $0x90; sti; 1: test %bp, %bp; jz 1b; cli; out %al, $0x80; hlt")

class LentInterruptsInTheKernel : public ::testing::TestWithParam<std::tuple<const char*, Irqchip::Mode>> {
 protected:
  void SetUp() override {
    chips.emplace(std::get<0>(GetParam()), std::get<1>(GetParam()));
    ASSERT_NE(chips->engine, nullptr);
    disk.emplace(chips->bus, &chips->rig.vm->irqchip()->message_fds());
    ASSERT_NO_FATAL_FAILURE(disk->start());
    disk->program(1, 0xfee00000, kVector);
    chips->start(three_lent_interrupts16(), count_lent_interrupt16());
  }
  // `each`: what happens when the guest has seen so many interrupts and waits for the next.
  void run(const std::function<void(uint64_t seen)>& each) {
    chips->rig.port.on_write = [this, each](uint64_t number, uint64_t value) {
      if (number == kDataPort) each(value & 0xff);
      if (number == kStopPort) chips->engine->kick();
    };
    ASSERT_EQ(chips->engine->run(), VcpuExit::kStopped);
    EXPECT_EQ(chips->engine->cpu_state().gpr[x86::kRbp] & 0xffff, 3u);
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(disk->queues[0].used());
    EXPECT_FALSE(disk->queues[0].used());
  }
  void ask_and_answer() {
    disk->ask();
    disk->answer();
  }

  std::optional<Chips> chips;
  std::optional<PluggedDisk> disk;
};
INSTANTIATE_TEST_SUITE_P(Here, LentInterruptsInTheKernel,
                         ::testing::Combine(::testing::ValuesIn(Rig::kvm_if_here()),
                                            ::testing::Values(Irqchip::Mode::kSplit, Irqchip::Mode::kOn)),
                         [](const auto& test) {
                           return std::get<1>(test.param) == Irqchip::Mode::kOn ? "on" : "split";
                         });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(LentInterruptsInTheKernel);

// The loop does not run.
TEST_P(LentInterruptsInTheKernel, CallsInterruptTheGuestWithoutUs) {
  run([this](uint64_t) { ask_and_answer(); });
}

TEST_P(LentInterruptsInTheKernel, CallsBeforeAMaskEndsComeOnce) {
  run([this](uint64_t) {
    disk->mask(1, true);
    ask_and_answer();
    EXPECT_EQ(disk->pending(), 2u);
    disk->mask(1, false);
    EXPECT_EQ(disk->pending(), 0u);
  });
}

TEST_P(LentInterruptsInTheKernel, CallsFollowTheMessage) {
  constexpr uint8_t kOther = 0x61;
  chips->rig.poke<uint32_t>(4 * kOther, kHandler);
  run([this](uint64_t seen) {
    disk->program(1, 0xfee00000, seen % 2 == 0 ? kOther : kVector);
    ask_and_answer();
  });
}

// ---- the eventfd changes hands ----
class LentInterruptsThatMove : public LentInterruptsInTheKernel {
 protected:
  // `once`: what happens while the guest waits for an interrupt; more than one may come.
  void run_once(const std::function<void()>& once) {
    chips->start(one_lent_interrupt16(), count_lent_interrupt16());
    chips->rig.port.on_write = [this, once](uint64_t number, uint64_t) {
      if (number == kDataPort) once();
      if (number == kStopPort) chips->engine->kick();
    };
    ASSERT_EQ(chips->engine->run(), VcpuExit::kStopped);
    EXPECT_TRUE(disk->queues[0].used());
  }
};
INSTANTIATE_TEST_SUITE_P(Here, LentInterruptsThatMove,
                         ::testing::Combine(::testing::ValuesIn(Rig::kvm_if_here()),
                                            ::testing::Values(Irqchip::Mode::kSplit, Irqchip::Mode::kOn)),
                         [](const auto& test) {
                           return std::get<1>(test.param) == Irqchip::Mode::kOn ? "on" : "split";
                         });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(LentInterruptsThatMove);

TEST_P(LentInterruptsThatMove, ACallWhileMsixIsOff) {
  run_once([this] {
    disk->set_msix(false);
    ask_and_answer();
    disk->set_msix(true);
  });
}

TEST_P(LentInterruptsThatMove, ACallWhileWeHaveIt) {
  run_once([this] {
    disk->set_msix(false);
    disk->pump();
    disk->set_msix(true);
    ask_and_answer();
    disk->pump();
  });
}

TEST_P(LentInterruptsThatMove, ACallBeforeTheDiskIsSaved) {
  run_once([this] {
    disk->mask(1, true);
    ask_and_answer();
    disk->function->quiesce();
    EXPECT_EQ(disk->pending(), 2u);
    disk->pump();
    disk->mask(1, false);
  });
}

TEST_P(LentInterruptsThatMove, ACallOfTheNextDisk) {
  run_once([this] {
    disk->unplug();
    disk->queues[0].restart();
    disk->start();
    disk->program(1, 0xfee00000, kVector);
    ask_and_answer();
  });
}

}  // namespace
}  // namespace ostler::accel
