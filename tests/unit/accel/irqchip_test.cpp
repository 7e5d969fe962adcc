// The interrupt controllers of the kernel, with small guests in real mode that reach their local APIC by its
// MSRs (a KVM that emulates delivers interrupts in no other mode), and their state on its way to our own.
#include <gtest/gtest.h>

#include <thread>

#include "chips.h"
#include "guests.h"
#include "transfer.h"

namespace ostler::accel {
namespace {

void move(Chips& from, Chips& to) {
  std::memcpy(to.rig.ram->host(), from.rig.ram->host(), kRamSize);
  state::Saver saver;
  from.state(saver);
  const auto saved = saver.take();
  state::Loader loader(saved);
  to.state(loader);
  const auto done = loader.finish();
  ASSERT_TRUE(done) << done.error().message();
}

class KernelIrqchip : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Here, KernelIrqchip, ::testing::ValuesIn(Rig::kvm_if_here()),
                         [](const auto& test) { return test.param; });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(KernelIrqchip);

// x2APIC on, software enable; %bp counts interrupts.
#define ENABLE_X2APIC                                                                                   \
  "mov $0x1b, %ecx; mov $0xfee00d00, %eax; xor %edx, %edx; wrmsr; mov $0x80f, %ecx; mov $0x1ff, %eax; " \
  "wrmsr\n"
GUEST(end16, ".code16", "inc %bp; mov $0x80b, %ecx; xor %eax, %eax; xor %edx, %edx; wrmsr; iret")
GUEST(count_only16, ".code16", "inc %bp; iret")

GUEST(self_ipi16, ".code16",
      ENABLE_X2APIC
      "mov $0x83f, %ecx; mov $0x50, %eax; wrmsr; mov %bp, %bx; sti; 1: test %bp, %bp; jz 1b; out %al, $0x80; "
      "hlt")
TEST_P(KernelIrqchip, SendsAnInterruptToItself) {
  for (const auto mode : {Irqchip::Mode::kSplit, Irqchip::Mode::kOn}) {
    Chips chips("kvm", mode);
    chips.start(self_ipi16(), end16());
    EXPECT_EQ(chips.rig.run(*chips.engine), VcpuExit::kStopped);
    EXPECT_EQ(chips.engine->cpu_state().gpr[x86::kRbx] & 0xffff, 0u) << "not before STI";
    EXPECT_EQ(chips.engine->cpu_state().gpr[x86::kRbp] & 0xffff, 1u);
  }
}

GUEST(halt_for_msi16, ".code16", ENABLE_X2APIC "out %al, $0x90; sti; hlt; out %al, $0x80; hlt")
TEST_P(KernelIrqchip, SleepsInTheKernelUntilAMessageComes) {
  for (const auto mode : {Irqchip::Mode::kSplit, Irqchip::Mode::kOn}) {
    Chips chips("kvm", mode);
    chips.start(halt_for_msi16(), end16());
    std::thread device;
    chips.rig.port.on_write = [&](uint64_t number, uint64_t) {
      if (number == kStopPort) chips.engine->kick();
      if (number == kDataPort) device = std::thread([&] { chips.bus.send_msi({0xfee00000}, kVector); });
    };
    EXPECT_EQ(chips.engine->run(), VcpuExit::kStopped);
    device.join();
    EXPECT_EQ(chips.engine->cpu_state().gpr[x86::kRbp] & 0xffff, 1u);
  }
}

// An interrupt that waits moves from the kernel's APIC to ours and back, with the task priority.
GUEST(pending16, ".code16",
      ENABLE_X2APIC
      "mov $0x808, %ecx; mov $0x30, %eax; wrmsr; mov $0x83f, %ecx; mov $0x50, %eax; wrmsr\n"
      "out %al, $0x80; sti; 1: test %bp, %bp; jz 1b; mov $0x808, %ecx; rdmsr; out %al, $0x80; hlt")
TEST_P(KernelIrqchip, AWaitingInterruptMovesWithTheVcpu) {
  constexpr std::optional<Irqchip::Mode> kOurs;
  const std::pair<const char*, std::optional<Irqchip::Mode>> kinds[] = {
      {"interp", kOurs}, {"kvm", kOurs}, {"kvm", Irqchip::Mode::kSplit}, {"kvm", Irqchip::Mode::kOn}};
  for (const auto& from : kinds)
    for (const auto& to : kinds) {
      Chips a(from.first, from.second), b(to.first, to.second);
      a.start(pending16(), end16());
      EXPECT_EQ(a.rig.run(*a.engine), VcpuExit::kStopped);
      move(a, b);
      b.rig.log.clear();
      EXPECT_EQ(b.rig.run(*b.engine), VcpuExit::kStopped);
      EXPECT_EQ(b.engine->cpu_state().gpr[x86::kRbp] & 0xffff, 1u);
      EXPECT_EQ(b.engine->cpu_state().gpr[x86::kRax] & 0xff, 0x30u) << "task priority";
    }
}

// What devices of a paused guest send is neither lost when it is saved nor when it goes on elsewhere.
GUEST(wait16, ".code16", ENABLE_X2APIC "out %al, $0x80; sti; 1: test %bp, %bp; jz 1b; out %al, $0x80; hlt")
TEST_P(KernelIrqchip, AMessageToAPausedVcpuIsKept) {
  enum class When { kBeforeSave, kAfterLoad, kBetweenLoadAndSave };
  for (const auto mode : {Irqchip::Mode::kSplit, Irqchip::Mode::kOn})
    for (const auto when : {When::kBeforeSave, When::kAfterLoad, When::kBetweenLoadAndSave}) {
      Chips a("kvm", mode), b("kvm", mode), c("kvm", mode);
      a.start(wait16(), end16());
      EXPECT_EQ(a.rig.run(*a.engine), VcpuExit::kStopped);
      if (when == When::kBeforeSave) a.bus.send_msi({0xfee00000}, kVector);
      move(a, b);
      if (when == When::kBetweenLoadAndSave) b.bus.send_msi({0xfee00000}, kVector);
      move(b, c);
      if (when == When::kAfterLoad) c.bus.send_msi({0xfee00000}, kVector);
      c.rig.log.clear();
      EXPECT_EQ(c.rig.run(*c.engine), VcpuExit::kStopped);
      EXPECT_EQ(c.engine->cpu_state().gpr[x86::kRbp] & 0xffff, 1u) << static_cast<int>(when);
    }
}

// Level-triggered: comes again after its end for as long as the wire is up.
GUEST(level16, ".code16",
      ENABLE_X2APIC "out %al, $0x90; sti; 1: cmp $2, %bp; jb 1b; cli; out %al, $0x92; out %al, $0x80; hlt")
TEST_P(KernelIrqchip, LevelsComeAgainAfterTheirEnd) {
  for (const auto mode : {Irqchip::Mode::kSplit, Irqchip::Mode::kOn}) {
    Chips chips("kvm", mode);
    chips.start(level16(), end16());
    chipset::IoApic::Image wired;
    wired.entries.fill(1u << 16);
    wired.entries[20] = kVector | 1u << 15;
    chips.rig.port.on_write = [&](uint64_t number, uint64_t) {
      if (number == kDataPort) {
        if (mode == Irqchip::Mode::kOn) {
          chips.io_apic.set_image(wired);
          machine::give_to_kernel(*chips.rig.vm->irqchip(), nullptr, chips.io_apic);
        } else {
          chips.io_apic.io_write(0, 4, 0x10 + 2 * 20);
          chips.io_apic.io_write(0x10, 4, kVector | 1u << 15);
        }
        chips.io_apic.set_irq(20, true);
      }
      if (number == 0x92) chips.io_apic.set_irq(20, false);
      if (number == kStopPort) chips.engine->kick();
    };
    VcpuExit exit = chips.engine->run();
    EXPECT_EQ(exit, VcpuExit::kStopped);
    EXPECT_GE(chips.engine->cpu_state().gpr[x86::kRbp] & 0xffff, 2u);
  }
}

// The 8259 by INTR: ours, or the kernel's, which the guest sets up and the machine's object then holds.
GUEST(pic16, ".code16",
      "mov $0x11, %al; out %al, $0x20; mov $0x50, %al; out %al, $0x21; mov $4, %al; out %al, $0x21\n"
      "mov $1, %al; out %al, $0x21; mov $0xfe, %al; out %al, $0x21; out %al, $0x90\n"
      "sti; 1: test %bp, %bp; jz 1b; out %al, $0x80; hlt")
TEST_P(KernelIrqchip, The8259Interrupts) {
  for (const auto mode : {Irqchip::Mode::kSplit, Irqchip::Mode::kOn}) {
    Chips chips("kvm", mode);
    memory::IoRegion ports("pic", chips.pic.master_ports(), 2, 1);
    {
      memory::Transaction change(chips.rig.ports);
      change.add(chips.rig.ports.root(), 0x20, ports, 1);
    }
    chips.start(pic16(), count_only16());
    chips.rig.port.on_write = [&](uint64_t number, uint64_t) {
      if (number == kDataPort) chips.pic.set_irq(0, true);
      if (number == kStopPort) chips.engine->kick();
    };
    EXPECT_EQ(chips.engine->run(), VcpuExit::kStopped);
    EXPECT_EQ(chips.engine->cpu_state().gpr[x86::kRbp] & 0xffff, 1u);
    machine::take_from_kernel(*chips.rig.vm->irqchip(), &chips.pic, chips.io_apic);
    const auto images = chips.pic.image();
    EXPECT_EQ(images[0].isr, 1u) << "in service";
    EXPECT_EQ(images[0].imr, 0xfeu);
    EXPECT_EQ(images[0].vector_base, kVector);
    memory::Transaction(chips.rig.ports).remove(ports);
  }
}

// There and back through the kernel's structures nothing is lost.
TEST_P(KernelIrqchip, ChipsKeepTheirStateInTheKernel) {
  Chips chips("kvm", Irqchip::Mode::kOn);
  chipset::PicImage first{.lines = 0x11,
                          .irr = 0x10,
                          .isr = 2,
                          .imr = 0xa5,
                          .level = 0x20,
                          .lowest = 3,
                          .vector_base = 0x50,
                          .auto_eoi = true,
                          .special_mask = true,
                          .read_isr = true};
  chipset::PicImage second{.imr = 0x5a, .lowest = 7, .vector_base = 0x70, .rotate_on_auto_eoi = true};
  chipset::IoApic::Image pins{.select = 0x12, .id = 3, .asserted = 0, .entries = {}};
  pins.entries.fill(1u << 16);
  pins.entries[5] = 0x0300000000010000 | kVector | 1u << 15;
  chips.pic.set_image({first, second});
  chips.io_apic.set_image(pins);
  machine::give_to_kernel(*chips.rig.vm->irqchip(), &chips.pic, chips.io_apic);
  chips.pic.set_image({});
  chips.io_apic.set_image({});
  machine::take_from_kernel(*chips.rig.vm->irqchip(), &chips.pic, chips.io_apic);
  EXPECT_EQ(chips.pic.image()[0], first);
  EXPECT_EQ(chips.pic.image()[1], second);
  EXPECT_EQ(chips.io_apic.image(), pins);
}

// The second processor sleeps in the kernel until the first sends INIT and SIPI.
GUEST(sipi16, ".code16",
      ENABLE_X2APIC
      "mov $0x830, %ecx; mov $1, %edx; mov $0x4500, %eax; wrmsr; mov $0x4604, %eax; wrmsr\n"
      "1: testb $1, 0x5000; jz 1b; out %al, $0x80; hlt")
GUEST(second16, ".code16", "movw $0, %ax; mov %ax, %ds; movb $1, 0x5000; 1: hlt; jmp 1b")
TEST_P(KernelIrqchip, ASecondProcessorStartsBySipi) {
  Chips chips("kvm", Irqchip::Mode::kSplit);
  chipset::LocalApic second_apic({.id = 1, .bootstrap = false}, chips.bus, chips.loop, chips.tsc);
  chips.rig.apic = &second_apic;
  chips.rig.apic_id = 1;
  const auto second = chips.rig.make("kvm");
  second->reset(false);
  second->cpu_state().activity = x86::Activity::kWaitForSipi;
  second->state_loaded();
  chips.rig.place(second16(), 0x4000);
  chips.start(sipi16(), end16());
  std::thread thread([&] { EXPECT_EQ(second->run(), VcpuExit::kStopped); });
  EXPECT_EQ(chips.rig.run(*chips.engine), VcpuExit::kStopped);
  second->kick();
  thread.join();
  EXPECT_EQ(second->cpu_state().seg[x86::kCs].selector, 0x400u);
  EXPECT_NE(second->cpu_state().activity, x86::Activity::kWaitForSipi);
}

}  // namespace
}  // namespace ostler::accel
