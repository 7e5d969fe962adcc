// Each call of KVM that fails, and each exit that is rare, with a KVM of the test's own.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>

#include "accel/kvm/kvm_engine.h"
#include "fake_kvm.h"
#include "rig.h"

namespace ostler::accel::kvm {
namespace {

using ::testing::HasSubstr;

// One sentence that ends with what to do.
void expect_sentence(const std::string& message, const std::string& name) {
  EXPECT_THAT(message, HasSubstr(name));
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  EXPECT_GE(std::count(message.begin(), message.end(), ':'), 1) << message << ": no cure";
}

class Refusals : public ::testing::Test {
 protected:
  // As far as a machine gets with it.
  Result<std::unique_ptr<KvmEngine>> build(std::optional<Irqchip::Mode> irqchip = std::nullopt) {
    TRY_ASSIGN(const auto system, fake_.open());
    TRY_ASSIGN(const double speed, measure_speed(*system, [this] { return now_; }));
    static_cast<void>(speed);
    VmOptions options;
    options.irqchip = irqchip;
    options.dirty_ring_entries = dirty_ring_entries_;
    options.notify_exits = notify_exits_;
    TRY_ASSIGN(rig_.vm, Vm::create(system, rig_.memory, options));
    return KvmEngine::create(rig_.engine_context());
  }
  Rig rig_;
  FakeKvm fake_;
  uint32_t dirty_ring_entries_ = 0;
  NotifyExits notify_exits_ = NotifyExits::kGoOn;
  int64_t now_ = 0;
};

TEST_F(Refusals, EveryCallThatBuildsAMachineTellsItsCure) {
  for (const std::string name :
       {"KVM_GET_VCPU_MMAP_SIZE", "KVM_GET_SUPPORTED_CPUID", "KVM_CREATE_VM", "KVM_SET_USER_MEMORY_REGION",
        "KVM_CREATE_VCPU", "KVM_GET_SREGS2", "KVM_SET_SREGS2", "KVM_SET_REGS", "KVM_RUN",
        "KVM_SET_IDENTITY_MAP_ADDR", "KVM_SET_TSS_ADDR", "KVM_X86_SET_MSR_FILTER", "KVM_SET_CPUID2"})
    for (const int error : {EPERM, EINVAL, EBUSY, ENOMEM, EMFILE, ENODEV}) {
      fake_.refused = {{name, error}};
      const auto made = build();
      ASSERT_FALSE(made) << name;
      expect_sentence(made.error().message(), name);
      EXPECT_EQ(made.error().host_errno(), error);
    }
}

TEST_F(Refusals, EveryCallOfTheKernelsInterruptControllersToo) {
  for (const auto& [name, mode] : {std::pair("KVM_CREATE_IRQCHIP", Irqchip::Mode::kOn),
                                   std::pair("KVM_SET_GSI_ROUTING", Irqchip::Mode::kOn)}) {
    fake_.refused = {{name, EINVAL}};
    const auto made = build(mode);
    ASSERT_FALSE(made) << name;
    expect_sentence(made.error().message(), name);
  }
  for (const std::string name : {"KVM_CREATE_PIT2", "KVM_REINJECT_CONTROL", "KVM_GET_PIT2", "KVM_SET_PIT2"}) {
    fake_.refused.clear();
    ASSERT_TRUE(build(Irqchip::Mode::kOn));
    fake_.refused = {{name, EINVAL}};
    Irqchip& kernel = *rig_.vm->irqchip();
    auto done = kernel.create_pit();
    if (done) done = kernel.set_pit({});
    if (const auto state = kernel.pit(); done && !state) done = state.error();
    ASSERT_FALSE(done) << name;
    expect_sentence(done.error().message(), name);
  }
  fake_.refused = {{"KVM_ENABLE_CAP", EINVAL}};
  const auto split = build(Irqchip::Mode::kSplit);
  ASSERT_FALSE(split);
  expect_sentence(split.error().message(), "KVM_CAP_SPLIT_IRQCHIP");
}

TEST_F(Refusals, RingsOfWrittenPagesToo) {
  dirty_ring_entries_ = 4096;
  fake_.extensions = {{KVM_CAP_DIRTY_LOG_RING, 65536 * 16}};
  ASSERT_TRUE(build());
  fake_.refused = {{"KVM_ENABLE_CAP", EINVAL}};
  expect_sentence(build().error().message(), "KVM_CAP_DIRTY_LOG_RING");
  fake_.refused.clear();
  fake_.extensions = {{KVM_CAP_DIRTY_LOG_RING, 0}};
  expect_sentence(build().error().message(), "dirty-ring-size");
  fake_.extensions = {{KVM_CAP_DIRTY_LOG_RING, 2048 * 16}};
  expect_sentence(build().error().message(), "say dirty-ring-size=2048");
}

TEST_F(Refusals, ExitsOfGuestsThatKeepEventsAwayAreAskedForAndDoWithout) {
  const auto make = [&](NotifyExits exits) {
    VmOptions options;
    options.notify_exits = exits;
    options.notify_window = 7;
    return Vm::create(*fake_.open(), rig_.memory, options);
  };
  ASSERT_TRUE(make(NotifyExits::kGoOn));
  EXPECT_EQ(fake_.enabled[KVM_CAP_X86_NOTIFY_VMEXIT],
            uint64_t{7} << 32 | KVM_X86_NOTIFY_VMEXIT_ENABLED | KVM_X86_NOTIFY_VMEXIT_USER);
  fake_.enabled.clear();
  ASSERT_TRUE(make(NotifyExits::kOff));
  EXPECT_FALSE(fake_.enabled.contains(KVM_CAP_X86_NOTIFY_VMEXIT));
  fake_.extensions = {{KVM_CAP_X86_NOTIFY_VMEXIT, 0}};
  ASSERT_TRUE(make(NotifyExits::kStop));
  EXPECT_FALSE(fake_.enabled.contains(KVM_CAP_X86_NOTIFY_VMEXIT));
}

TEST_F(Refusals, AnOldKernelIsNamed) {
  fake_.refused = {{"KVM_GET_API_VERSION", ENOTTY}};
  EXPECT_THAT(fake_.open().error().message(), HasSubstr("is not KVM"));
  fake_.refused.clear();
  fake_.extensions = {{KVM_CAP_SREGS2, 0}};
  EXPECT_THAT(fake_.open().error().message(), HasSubstr("KVM_CAP_SREGS2: run Linux 5.16 or newer"));
}

// The probe: what a slow or a dead KVM may cost.
TEST_F(Refusals, TheProbeBeginsNoRoundAfterAMillisecond) {
  fake_.on_run = [&](kvm_run& run) {
    now_ += 400'000;
    run.exit_reason = KVM_EXIT_HLT;
    return 0;
  };
  const auto speed = measure_speed(**fake_.open(), [&] { return now_; });
  ASSERT_TRUE(speed);
  EXPECT_EQ(fake_.count("KVM_RUN"), 3u);
  EXPECT_LT(*speed, kLeastSpeed);
}

TEST_F(Refusals, TheProbeOfAFastKvmIsEightRounds) {
  fake_.on_run = [&](kvm_run& run) {
    now_ += 2'000;
    run.exit_reason = KVM_EXIT_HLT;
    return 0;
  };
  const auto speed = measure_speed(**fake_.open(), [&] { return now_; });
  ASSERT_TRUE(speed);
  EXPECT_EQ(fake_.count("KVM_RUN"), 8u);
  EXPECT_GT(*speed, kLeastSpeed);
}

TEST_F(Refusals, TheProbeGivesUpOnWhatDoesNotEnd) {
  fake_.on_run = [&](kvm_run&) {
    now_ += 2'000'000;  // when its own signal comes
    return -EINTR;
  };
  const auto speed = measure_speed(**fake_.open(), [&] { return now_; });
  ASSERT_TRUE(speed);
  EXPECT_EQ(fake_.count("KVM_RUN"), 1u);
  EXPECT_LT(*speed, kLeastSpeed);
}

// ---- exits ----
class FakeExits : public Refusals {
 protected:
  void SetUp() override {
    auto made = build();
    ASSERT_TRUE(made) << made.error().message();
    engine_ = *std::move(made);
    rig_.start(*engine_, Mode::kReal);
  }
  // Comes once; afterwards the vCPU is asked to stop.
  VcpuExit run_with(const std::function<void(kvm_run&)>& exit) {
    unsigned rounds = 0;
    fake_.on_run = [&, rounds](kvm_run& run) mutable {
      if (rounds++ != 0) {
        engine_->kick();
        return -EINTR;
      }
      exit(run);
      return 0;
    };
    return engine_->run();
  }
  std::unique_ptr<KvmEngine> engine_;
};

TEST_F(FakeExits, AHypercallIsAnswered) {
  uint64_t* answer = nullptr;
  EXPECT_EQ(run_with([&](kvm_run& run) {
              run.exit_reason = KVM_EXIT_HYPERCALL;
              run.hypercall.nr = 5;
              run.hypercall.ret = 77;
              answer = reinterpret_cast<uint64_t*>(&run.hypercall.ret);
            }),
            VcpuExit::kStopped);
  EXPECT_EQ(*answer, 0u) << "as FakeParavirt does";
}

TEST_F(FakeExits, ATripleFaultShutsDown) {
  EXPECT_EQ(run_with([](kvm_run& run) { run.exit_reason = KVM_EXIT_SHUTDOWN; }), VcpuExit::kShutdown);
  EXPECT_EQ(engine_->cpu_state().activity, x86::Activity::kShutdown);
}

// A guest can keep its processor from delivering anything; the host's interrupts wait as long (Intel SDM 3C,
// notify VM exit).
TEST_F(FakeExits, AGuestThatKeepsAllEventsAwayIsInterrupted) {
  EXPECT_EQ(run_with([](kvm_run& run) {
              run.exit_reason = KVM_EXIT_NOTIFY;
              run.notify.flags = 0;
            }),
            VcpuExit::kStopped)
      << "it went on";
}

TEST_F(FakeExits, AGuestThatKeepsAllEventsAwayShutsDownWhenAsked) {
  notify_exits_ = NotifyExits::kStop;
  engine_.reset();
  FakeExits::SetUp();
  EXPECT_EQ(run_with([](kvm_run& run) {
              run.exit_reason = KVM_EXIT_NOTIFY;
              run.notify.flags = 0;
            }),
            VcpuExit::kShutdown);
}

TEST_F(FakeExits, AGuestWhoseStateIsLostShutsDown) {
  EXPECT_EQ(run_with([](kvm_run& run) {
              run.exit_reason = KVM_EXIT_NOTIFY;
              run.notify.flags = KVM_NOTIFY_CONTEXT_INVALID;
            }),
            VcpuExit::kShutdown);
}

// What it cannot run is another matter: fallback_test.cpp.
TEST_F(FakeExits, AnEventThatKvmCannotDeliverShutsDown) {
  EXPECT_EQ(run_with([](kvm_run& run) {
              run.exit_reason = KVM_EXIT_INTERNAL_ERROR;
              run.internal.suberror = KVM_INTERNAL_ERROR_DELIVERY_EV;
            }),
            VcpuExit::kShutdown);
}

TEST_F(FakeExits, AStateThatTheProcessorRefusesShutsDown) {
  EXPECT_EQ(run_with([](kvm_run& run) {
              run.exit_reason = KVM_EXIT_FAIL_ENTRY;
              run.fail_entry.hardware_entry_failure_reason = 0x80000021;
            }),
            VcpuExit::kShutdown);
}

TEST_F(FakeExits, AnExitThatNobodyKnowsShutsDown) {
  EXPECT_EQ(run_with([](kvm_run& run) { run.exit_reason = 12345; }), VcpuExit::kShutdown);
}

TEST_F(FakeExits, ARunThatFailsShutsDown) {
  fake_.on_run = [](kvm_run&) { return -EFAULT; };
  EXPECT_EQ(engine_->run(), VcpuExit::kShutdown);
}

TEST_F(FakeExits, ABreakpointIsTold) {
  engine_->set_debug({.single_step = false, .breakpoints = {{BreakpointKind::kHardware, 0x1234, 1}}});
  EXPECT_EQ(run_with([](kvm_run& run) {
              run.exit_reason = KVM_EXIT_DEBUG;
              run.debug.arch.pc = 0x1234;
              run.debug.arch.dr6 = 1;
            }),
            VcpuExit::kDebug);
  EXPECT_EQ(engine_->debug_stop().address, 0x1234u);
}

// What the state is made of: a refusal ends the vCPU, and never goes on with half of it.
TEST_F(FakeExits, AStateThatCannotBeHandedOverShutsDown) {
  for (const std::string name : {"KVM_GET_SREGS2", "KVM_SET_SREGS2", "KVM_SET_REGS", "KVM_SET_XSAVE",
                                 "KVM_SET_DEBUGREGS", "KVM_SET_VCPU_EVENTS"}) {
    fake_.refused = {{name, EINVAL}};
    engine_->state_loaded();
    EXPECT_EQ(engine_->run(), VcpuExit::kShutdown) << name;
    fake_.refused.clear();
  }
  for (const std::string name :
       {"KVM_GET_REGS", "KVM_GET_XSAVE", "KVM_GET_DEBUGREGS", "KVM_GET_VCPU_EVENTS"}) {
    rig_.start(*engine_, Mode::kReal);
    fake_.refused = {{name, EINVAL}};
    engine_->kick();
    EXPECT_EQ(engine_->run(), VcpuExit::kShutdown) << name;
    fake_.refused.clear();
  }
}

}  // namespace
}  // namespace ostler::accel::kvm
