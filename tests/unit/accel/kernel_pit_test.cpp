// The interval timer of the kernel, and its state on its way to our own.
#include "machine/kernel_pit.h"

#include <gtest/gtest.h>

#include "chips.h"
#include "devices/chipset/irq_router.h"
#include "guests.h"

namespace ostler::accel {
namespace {

using chipset::PitCounter;
using chipset::PitImage;

// Chips with a timer as the pc machine wires it.
struct Timed : Chips {
  Timed() : Chips("kvm", Irqchip::Mode::kOn) {}
  void move_to_kernel() {
    const auto moved = machine::move_pit_to_kernel(kernel(), pit, hpet);
    ASSERT_TRUE(moved) << moved.error().message();
  }
  Irqchip& kernel() { return *rig.vm->irqchip(); }
  void run() {
    rig.port.on_write = [this](uint64_t number, uint64_t) {
      if (number == kStopPort) engine->kick();
    };
    EXPECT_EQ(engine->run(), VcpuExit::kStopped);
  }
  unsigned interrupts() { return engine->cpu_state().gpr[x86::kRbp] & 0xffff; }

  chipset::IrqRouter router{&pic, io_apic};
  chipset::Hpet hpet{loop, router, &bus};
  chipset::Pit pit{loop, bus::IrqLine(hpet, chipset::Hpet::kPitPin)};
};

class KernelPit : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Here, KernelPit, ::testing::ValuesIn(Rig::kvm_if_here()),
                         [](const auto& test) { return test.param; });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(KernelPit);

#define SET_UP_8259                                                                               \
  "mov $0x11, %al; out %al, $0x20; mov $0x50, %al; out %al, $0x21; mov $4, %al; out %al, $0x21\n" \
  "mov $1, %al; out %al, $0x21; mov $0xfe, %al; out %al, $0x21\n"
#define COUNT_THREE "sti; 1: cmp $3, %bp; jb 1b; cli; out %al, $0x80; hlt"
GUEST(tick16, ".code16", "inc %bp; push %ax; mov $0x20, %al; out %al, $0x20; pop %ax; iret")

GUEST(program16, ".code16",
      SET_UP_8259
      "mov $0x34, %al; out %al, $0x43; xor %al, %al; out %al, $0x40; mov $4, %al; out %al, $0x40\n"
      "mov $3, %al; out %al, $0x61\n" COUNT_THREE)
TEST_P(KernelPit, InterruptsAndTellsItsState) {
  Timed machine;
  machine.move_to_kernel();
  machine.start(program16(), tick16());
  machine.run();
  EXPECT_GE(machine.interrupts(), 3u);
  machine::take_pit_from_kernel(&machine.kernel(), machine.pit);
  const PitImage image = machine.pit.image();
  EXPECT_EQ(image.counters[0].mode, 2u);
  EXPECT_EQ(image.counters[0].count, 0x400u);
  EXPECT_EQ(image.counters[0].access, 3u);
  EXPECT_TRUE(image.counters[0].loaded);
  EXPECT_FALSE(image.counters[2].loaded);
  EXPECT_TRUE(image.counters[2].gate);
  EXPECT_TRUE(image.speaker);
  EXPECT_EQ(machine.pit.control_port().io_read(0, 1) & 3, 3u);
}

// What our own timer counted goes on there, although its line was high.
GUEST(wait16, ".code16", SET_UP_8259 COUNT_THREE)
TEST_P(KernelPit, GoesOnWithWhatOurTimerCounted) {
  Timed machine;
  machine.pit.ports().io_write(3, 1, 0x34);
  machine.pit.ports().io_write(0, 1, 0xe8);
  machine.pit.ports().io_write(0, 1, 3);
  EXPECT_EQ(machine.kernel().chip(0)->chip.pic.last_irr & 1, 1u);
  machine.move_to_kernel();
  machine::give_pit_to_kernel(&machine.kernel(), machine.pit, machine.hpet);
  machine.start(wait16(), tick16());
  machine.run();
  EXPECT_GE(machine.interrupts(), 3u);
}

GUEST(apic16, ".code16",
      "mov $0x1b, %ecx; mov $0xfee00d00, %eax; xor %edx, %edx; wrmsr; mov $0x80f, %ecx; mov $0x1ff, %eax\n"
      "wrmsr; mov $0xff, %al; out %al, $0x21\n" COUNT_THREE)
GUEST(end16, ".code16", "inc %bp; mov $0x80b, %ecx; xor %eax, %eax; xor %edx, %edx; wrmsr; iret")
TEST_P(KernelPit, ReachesTheIoApicToo) {
  Timed machine;
  machine.move_to_kernel();
  chipset::IoApic::Image pins{.select = 0, .id = 0, .asserted = 0, .entries = {}};
  pins.entries.fill(1u << 16);
  pins.entries[2] = kVector;
  machine.io_apic.set_image(pins);
  machine::give_to_kernel(machine.kernel(), nullptr, machine.io_apic);
  machine.pit.set_image({.counters = {PitCounter::Image{.mode = 2, .loaded = true, .count = 1000}}});
  machine::give_pit_to_kernel(&machine.kernel(), machine.pit, machine.hpet);
  machine.start(apic16(), end16());
  machine.run();
  EXPECT_GE(machine.interrupts(), 3u);
}

TEST_P(KernelPit, GivesItsLineToTheHpet) {
  Timed machine;
  machine.move_to_kernel();
  const auto replaced = [&] { return (machine.kernel().pit()->flags & KVM_PIT_FLAGS_HPET_LEGACY) != 0; };
  machine.hpet.io_write(0x10, 8, 3);
  EXPECT_TRUE(replaced());
  machine::give_pit_to_kernel(&machine.kernel(), machine.pit, machine.hpet);
  EXPECT_TRUE(replaced()) << "restored";
  machine.hpet.io_write(0x10, 8, 1);
  EXPECT_FALSE(replaced());
  machine.hpet.io_write(0x10, 8, 3);
  machine.hpet.reset();
  machine::reset_kernel_pit(&machine.kernel(), machine.pit);
  EXPECT_FALSE(replaced());
  EXPECT_EQ(machine.kernel().pit()->channels[0].mode, 0xffu) << "counts only what is programmed";
}

// There and back through the kernel's structures nothing is lost.
TEST(KernelPitState, IsTheSameInBothForms) {
  PitImage image;
  image.speaker = true;
  image.counters[0] = {
      .mode = 2, .access = 3, .loaded = true, .write_high_next = true, .low_byte = 7, .count = 9};
  image.counters[1] = {.mode = 4,
                       .access = 3,
                       .bcd = true,
                       .loaded = true,
                       .read_high_next = true,
                       .count = 0x10000,
                       .count_latched = true,
                       .latched_count = 0x1234};
  image.counters[2] = {.mode = 0,
                       .access = 2,
                       .gate = false,
                       .loaded = true,
                       .count = 77,
                       .count_latched = true,
                       .status_latched = true,
                       .latched_count = 0x4321,
                       .latched_status = 0xb4};
  EXPECT_EQ(machine::pit_image_of(machine::pit_state_of(image)), image);
  image.counters[1].count_latched = false;
  EXPECT_EQ(machine::pit_image_of(machine::pit_state_of(image)), image) << "between two bytes";
}

}  // namespace
}  // namespace ostler::accel
