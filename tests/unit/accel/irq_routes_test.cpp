// Interrupts whose source is another process: eventfds that the kernel turns into messages, by way of a PCI
// function's MSI-X table, and into levels of its I/O APIC's pins.
#include "accel/kvm/irq_routes.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "accel/kvm/intercept.h"
#include "base/fd.h"
#include "chips.h"
#include "devices/pci/msix.h"
#include "guests.h"

namespace ostler::accel {
namespace {

using kvm::IrqRoutes;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr uint8_t kOther = 0x61;  // a second vector

struct Event {
  Fd fd{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  int get() const { return fd.get(); }
  void signal() const {
    const uint64_t one = 1;
    ASSERT_EQ(::write(fd.get(), &one, sizeof one), ssize_t{sizeof one});
  }
  bool waits() const {
    pollfd waiting{.fd = fd.get(), .events = POLLIN, .revents = 0};
    return ::poll(&waiting, 1, 0) == 1;
  }
};

// ---- the host's kernel ----
// MSI-X with one vector and an eventfd behind it.
struct Source {
  explicit Source(Chips& chips) : bus(chips.bus) {
    msix.add_capability(config, 1);
    index = msix.add_source(event.get(), chips.rig.vm->irqchip()->message_fds());
    msix.assign_source(*index, 0);
    config.write(0x42, 2, 0x8000);
    msix.update(config, &bus);
  }
  void program(uint8_t vector, bool masked) {
    msix.io_write(0, 4, 0xfee00000);
    msix.io_write(4, 4, 0);
    msix.io_write(8, 4, vector);
    msix.io_write(12, 4, masked ? 1 : 0);
  }
  bool pending() { return (msix.io_read(2048, 8) & 1) != 0; }

  chipset::ApicBus& bus;
  Event event;
  pci::ConfigSpace config;
  pci::Msix msix{"msix", 1};
  std::optional<unsigned> index;
};

class KernelIrqRoutes : public ::testing::TestWithParam<std::tuple<const char*, Irqchip::Mode>> {
 protected:
  void SetUp() override {
    chips_.emplace(std::get<0>(GetParam()), std::get<1>(GetParam()));
    ASSERT_NE(chips_->engine, nullptr);
    source_.emplace(*chips_);
  }
  // `at_data_port` runs in the guest's first write there; then the guest waits for an interrupt.
  void run(const std::function<void()>& at_data_port) {
    chips_->rig.port.on_write = [this, at_data_port](uint64_t number, uint64_t) {
      if (number == kDataPort) at_data_port();
      if (number == kStopPort) chips_->engine->kick();
    };
    ASSERT_EQ(chips_->engine->run(), VcpuExit::kStopped);
  }
  uint64_t rbp() { return chips_->engine->cpu_state().gpr[x86::kRbp] & 0xffff; }

  std::optional<Chips> chips_;
  std::optional<Source> source_;
};
INSTANTIATE_TEST_SUITE_P(Here, KernelIrqRoutes,
                         ::testing::Combine(::testing::ValuesIn(Rig::kvm_if_here()),
                                            ::testing::Values(Irqchip::Mode::kSplit, Irqchip::Mode::kOn)),
                         [](const auto& test) {
                           return std::get<1>(test.param) == Irqchip::Mode::kOn ? "on" : "split";
                         });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(KernelIrqRoutes);

GUEST(wait_for_irq16, ".code16",
      WITH_X2APIC "out %al, $0x90; sti; 1: test %bp, %bp; jz 1b; cli; out %al, $0x80; hlt")
GUEST(count_irq16, ".code16", "inc %bp; mov $0x80b, %ecx; xor %eax, %eax; xor %edx, %edx; wrmsr; iret")
GUEST(add_ten16, ".code16", "add $10, %bp; mov $0x80b, %ecx; xor %eax, %eax; xor %edx, %edx; wrmsr; iret")

TEST_P(KernelIrqRoutes, ASignalInterruptsTheGuest) {
  chips_->start(wait_for_irq16(), count_irq16());
  source_->program(kVector, false);
  run([this] { source_->event.signal(); });
  EXPECT_EQ(rbp(), 1u);
  EXPECT_FALSE(source_->pending());
}

TEST_P(KernelIrqRoutes, ASignalThatFindsTheVectorMaskedComesWhenItIsNot) {
  chips_->start(wait_for_irq16(), count_irq16());
  source_->program(kVector, true);
  run([this] {
    source_->event.signal();
    source_->event.signal();
    EXPECT_TRUE(source_->pending());
    source_->program(kVector, false);
  });
  EXPECT_EQ(rbp(), 1u) << "once";
}

TEST_P(KernelIrqRoutes, WhatWaitedIsSentOnceAndNotPendingAgain) {
  chips_->start(wait_for_irq16(), count_irq16());
  source_->program(kVector, true);
  run([this] {
    source_->event.signal();
    source_->program(kVector, false);
    EXPECT_FALSE(source_->event.waits()) << "KVM has it";
    source_->program(kVector, true);
    EXPECT_FALSE(source_->pending());
  });
  EXPECT_EQ(rbp(), 1u);
}

TEST_P(KernelIrqRoutes, AVectorThatIsProgrammedAnewIsTheOneThatComes) {
  chips_->start(wait_for_irq16(), count_irq16());
  constexpr uint64_t kOtherHandler = 0x3800;
  chips_->rig.place(add_ten16(), kOtherHandler);
  chips_->rig.poke<uint32_t>(4 * kOther, kOtherHandler);
  source_->program(kVector, false);
  run([this] {
    source_->program(kOther, false);
    source_->event.signal();
  });
  EXPECT_EQ(rbp(), 10u);
}

TEST_P(KernelIrqRoutes, WhatIsSignalledWhileNothingMayLeaveComesLater) {
  chips_->start(wait_for_irq16(), count_irq16());
  source_->program(kVector, false);
  run([this] {
    source_->msix.update(source_->config, nullptr);  // no bus master
    source_->event.signal();
    EXPECT_TRUE(source_->pending());
    source_->msix.update(source_->config, &chips_->bus);
  });
  EXPECT_EQ(rbp(), 1u);
}

TEST_P(KernelIrqRoutes, ASourceThatIsGoneLeavesTheEventfdAlone) {
  source_->program(kVector, false);
  source_->msix.remove_source(*source_->index);
  source_->event.signal();
  EXPECT_TRUE(source_->event.waits());
  EXPECT_FALSE(source_->pending());
  EXPECT_TRUE(source_->msix.add_source(source_->event.get(), chips_->rig.vm->irqchip()->message_fds()));
}

// A level stays up for as long as its source says so at each end.
GUEST(two_levels16, ".code16",
      WITH_X2APIC "out %al, $0x90; sti; 1: cmp $2, %bp; jb 1b; cli; out %al, $0x80; hlt")
class KernelLevels : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Here, KernelLevels, ::testing::ValuesIn(Rig::kvm_if_here()),
                         [](const auto& test) { return test.param; });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(KernelLevels);
TEST_P(KernelLevels, TheEndOfALevelIsTold) {
  constexpr unsigned kPin = 20;
  Chips chips(GetParam(), Irqchip::Mode::kOn);
  Irqchip& kernel = *chips.rig.vm->irqchip();
  Event raise, ended;
  chips.start(two_levels16(), count_irq16());
  const auto attached = kernel.attach_io_apic_pin(kPin, raise.get(), ended.get());
  ASSERT_TRUE(attached) << attached.error().message();
  chipset::IoApic::Image wired;
  wired.entries.fill(1u << 16);
  wired.entries[kPin] = kVector | 1u << 15;
  unsigned ends = 0;
  chips.rig.port.on_write = [&](uint64_t number, uint64_t) {
    if (number == kDataPort) {
      chips.io_apic.set_image(wired);
      machine::give_to_kernel(kernel, nullptr, chips.io_apic);
      raise.signal();
    }
    if (number == kStopPort) chips.engine->kick();
  };
  std::atomic<bool> done{false};
  std::thread device([&] {
    for (;;) {
      pollfd waiting{.fd = ended.get(), .events = POLLIN, .revents = 0};
      EXPECT_EQ(::poll(&waiting, 1, -1), 1);
      if (done) return;
      uint64_t count = 0;
      EXPECT_EQ(::read(ended.get(), &count, sizeof count), ssize_t{sizeof count});
      if (++ends == 1) raise.signal();  // it still wants something
    }
  });
  EXPECT_EQ(chips.engine->run(), VcpuExit::kStopped);
  done = true;
  ended.signal();
  device.join();
  EXPECT_EQ(chips.engine->cpu_state().gpr[x86::kRbp] & 0xffff, 2u)
      << "not for as long as nobody takes it down";
  EXPECT_GE(ends, 1u);
  kernel.detach_io_apic_pin(kPin, raise.get());
  raise.signal();
  EXPECT_TRUE(raise.waits());
}

// ---- a kernel that is scripted ----
class FakeIrqRoutes : public ::testing::Test {
 protected:
  FakeIrqRoutes() {
    kvm::set_intercept(
        [this](int, const kvm::Request& request, unsigned long argument) -> std::optional<int> {
          if (request.name == "KVM_SET_GSI_ROUTING") {
            if (refuses_routes) return -EINVAL;
            const auto* count = reinterpret_cast<const uint32_t*>(argument);
            const auto* entries = reinterpret_cast<const kvm_irq_routing_entry*>(count + 2);
            table.assign(entries, entries + *count);
            calls.emplace_back("table");
            return 0;
          }
          if (request.name != "KVM_IRQFD") return std::nullopt;
          const auto& irqfd = *reinterpret_cast<const kvm_irqfd*>(argument);
          const bool end = (irqfd.flags & KVM_IRQFD_FLAG_DEASSIGN) != 0;
          if (refuses_eventfds && !end) return -EBUSY;
          calls.push_back(fmt::format("{} {}", end ? "detach" : "attach", irqfd.gsi));
          return 0;
        });
  }
  ~FakeIrqRoutes() override { kvm::set_intercept({}); }

  bool refuses_routes = false, refuses_eventfds = false;
  std::vector<kvm_irq_routing_entry> table;
  std::vector<std::string> calls;
  IrqRoutes routes{-1};
  Event event;
};

TEST_F(FakeIrqRoutes, AMessageIsToldOnce) {
  const auto source = routes.take(event.get());
  source->send({0xfee00000}, 0x41);
  source->send({0xfee00000}, 0x41);
  EXPECT_THAT(calls, ElementsAre("table", "attach 64"));
  ASSERT_EQ(table.size(), 1u);
  EXPECT_EQ(table[0].gsi, 64u);
  EXPECT_EQ(table[0].type, uint32_t{KVM_IRQ_ROUTING_MSI});
  EXPECT_EQ(table[0].u.msi.address_lo, 0xfee00000u);
  EXPECT_EQ(table[0].u.msi.data, 0x41u);
}

TEST_F(FakeIrqRoutes, SeveralMessagesChangeTheTableOnce) {
  Event second_event, third_event;
  const auto first = routes.take(event.get()), second = routes.take(second_event.get()),
             third = routes.take(third_event.get());
  std::vector<bus::MessageFds::Sending> all = {
      {first.get(), {0xfee00000}, 0x41}, {second.get(), {0xfee00000}, 0x42}, {third.get(), {0x1000}, 0x43}};
  routes.send(all);
  EXPECT_THAT(calls, ElementsAre("table", "attach 64", "attach 65")) << "the third is to no APIC";
  EXPECT_EQ(table.size(), 2u);
  calls.clear();
  routes.send(all);
  EXPECT_THAT(calls, IsEmpty());
  all[0].data = 0x51;
  all[2].address = {0xfee00000};
  routes.send(all);
  EXPECT_THAT(calls, ElementsAre("table", "attach 66"));
}

TEST_F(FakeIrqRoutes, SeveralMessagesThatAreRefusedAreHeld) {
  Event second_event;
  const auto first = routes.take(event.get()), second = routes.take(second_event.get());
  routes.send(std::vector<bus::MessageFds::Sending>{{first.get(), {0xfee00000}, 0x41}});
  const std::vector<bus::MessageFds::Sending> all = {{first.get(), {0xfee00000}, 0x41},
                                                     {second.get(), {0xfee00000}, 0x42}};
  refuses_routes = true;
  calls.clear();
  routes.send(all);
  EXPECT_THAT(calls, IsEmpty()) << "the first is as it was";
  refuses_routes = false;
  routes.send(all);
  EXPECT_THAT(calls, ElementsAre("table", "attach 65"));
}

TEST_F(FakeIrqRoutes, WhatWaitsStaysWhenTheEventfdIsRefused) {
  const auto source = routes.take(event.get());
  event.signal();
  refuses_eventfds = true;
  source->send({0xfee00000}, 0x41);
  EXPECT_TRUE(event.waits());
}

// A guest masks its vectors around each change, and often without one.
TEST_F(FakeIrqRoutes, AMaskLeavesTheTableAsItIs) {
  const auto source = routes.take(event.get());
  source->send({0xfee00000}, 0x41);
  calls.clear();
  source->hold();
  source->hold();
  source->send({0xfee00000}, 0x41);
  EXPECT_THAT(calls, ElementsAre("detach 64", "attach 64"));
  source->send({0xfee01000}, 0x42);
  EXPECT_EQ(calls.back(), "table");
  EXPECT_EQ(table[0].u.msi.address_lo, 0xfee01000u);
}

TEST_F(FakeIrqRoutes, TheChipsPinsStayInTheTable) {
  kvm_irq_routing_entry pin{};
  pin.gsi = 3;
  pin.type = KVM_IRQ_ROUTING_IRQCHIP;
  ASSERT_TRUE(routes.set_pins({pin}));
  const auto source = routes.take(event.get());
  source->send({0xfee00000}, 0x41);
  ASSERT_EQ(table.size(), 2u);
  EXPECT_EQ(table[0].gsi, 3u);
}

TEST_F(FakeIrqRoutes, WhatIsNoMessageForAnApicIsHeld) {
  const auto source = routes.take(event.get());
  source->send({0x1000}, 0x41);
  source->send({0x1fee00000}, 0x41);
  EXPECT_THAT(calls, IsEmpty());
  source->send({0xfee00000}, 0x41);
  source->send({0x1000}, 0x41);
  EXPECT_EQ(calls.back(), "detach 64");
}

TEST_F(FakeIrqRoutes, WhatTheKernelRefusesIsHeldAndTriedAgain) {
  const auto source = routes.take(event.get());
  refuses_routes = true;
  source->send({0xfee00000}, 0x41);
  EXPECT_THAT(calls, IsEmpty());
  refuses_routes = false;
  refuses_eventfds = true;
  source->send({0xfee00000}, 0x41);
  EXPECT_THAT(calls, ElementsAre("table"));
  refuses_eventfds = false;
  source->send({0xfee00000}, 0x41);
  EXPECT_THAT(calls, ElementsAre("table", "attach 64"));
}

TEST_F(FakeIrqRoutes, AnInterruptThatChangesUnderARefusalIsNotTheOldOne) {
  const auto source = routes.take(event.get());
  source->send({0xfee00000}, 0x41);
  refuses_routes = true;
  source->send({0xfee00000}, 0x42);
  EXPECT_EQ(calls.back(), "detach 64");
  refuses_routes = false;
  source->send({0xfee00000}, 0x41);
  EXPECT_EQ(calls.back(), "attach 64");
  EXPECT_EQ(table[0].u.msi.data, 0x41u);
}

TEST_F(FakeIrqRoutes, ThereAreAsManyAsTheTableHolds) {
  std::vector<std::unique_ptr<bus::MessageFd>> sources;
  for (uint32_t gsi = IrqRoutes::kFirstFree; gsi < IrqRoutes::kEnd; ++gsi) {
    sources.push_back(routes.take(event.get()));
    ASSERT_NE(sources.back(), nullptr);
  }
  EXPECT_EQ(routes.take(event.get()), nullptr);
  sources.front()->send({0xfee00000}, 0x41);
  sources.erase(sources.begin());
  EXPECT_EQ(calls.back(), "detach 64");
  sources.front()->send({0xfee00000}, 0x42);
  EXPECT_EQ(table.size(), 1u) << "the last one's message is gone";
  EXPECT_NE(routes.take(event.get()), nullptr);
}

TEST_F(FakeIrqRoutes, ALevelThatIsRefusedIsTold) {
  refuses_eventfds = true;
  const auto done = routes.attach_level(36, event.get(), event.get());
  ASSERT_FALSE(done);
  EXPECT_NE(done.error().message().find("KVM_IRQFD"), std::string::npos);
}

}  // namespace
}  // namespace ostler::accel
