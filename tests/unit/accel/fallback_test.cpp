// Instructions that KVM cannot run, and the interpreter then does. A KVM of the test's own can run none at
// all, so that each guest is the interpreter's from its first instruction to its last, with KVM between any
// two of them; where the kernel's KVM is, the same guests run on it. What is right, the other two engines
// tell.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "accel/kvm/fallback.h"
#include "accel/kvm/kvm_engine.h"
#include "fake_kvm.h"
#include "guests.h"
#include "rig.h"
#include "transfer.h"

namespace ostler::accel::kvm {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kHandler = 0x3000, kUserCode = 0x3300;

// The vector and the address that a fault pushed; then the end.
GUEST(tell_fault, ".code64", "inc %rbp; mov (%rsp), %r14; mov 8(%rsp), %r15; out %al, $0x80; hlt")
GUEST(fb_x87, ".code64",
      "fninit; fldpi; fld1; faddp; fsqrt; fstpl 0x20000; fld1; mov 0x20000, %rbx; out %al, $0x80; hlt")
GUEST(fb_cx16, ".code64",
      "mov $1, %ebx; mov $2, %ecx; lock cmpxchg16b 0x20000; setz %r8b; lock cmpxchg16b 0x20000; setz %r9b\n"
      "mov %rax, %r10; mov %rdx, %r11; out %al, $0x80; hlt")
GUEST(fb_sse, ".code64",
      "mov $0x1234567, %eax; movd %eax, %xmm1; pshufd $0x1b, %xmm1, %xmm2; paddd %xmm2, %xmm1\n"
      "cvtdq2ps %xmm1, %xmm3; sqrtps %xmm3, %xmm4; movups %xmm4, 0x20008; stmxcsr 0x20020\n"
      "out %al, $0x80; hlt")
GUEST(fb_fault, ".code64", "inc %rax; lock cmpxchg16b 0x20008; inc %rbx; out %al, $0x80; hlt")
GUEST(fb_page_fault, ".code64", "inc %rax; movups 0x40000000, %xmm0; inc %rbx; out %al, $0x80; hlt")
GUEST(fb_unaligned, ".code64", "inc %rax; movaps 0x20008, %xmm0; inc %rbx; out %al, $0x80; hlt")
GUEST(
    fb_device, ".code64",
    "mov $0x1234567, %eax; movd %eax, %xmm1; movups %xmm1, 0xd0010; movups 0xd0020, %xmm2; movd %xmm2, %ebx\n"
    "in $0x90, %al; out %ax, $0x90; out %al, $0x80; hlt")
GUEST(fb_interrupt, ".code64", "movd %eax, %xmm1; int $0x40; hlt")
GUEST(fb_trap, ".code64", "pushfq; orl $0x100, (%rsp); popfq; movd %eax, %xmm1; movd %eax, %xmm2; hlt")
GUEST(fb_stack, ".code64",
      "mov $0x10, %edx; mov %edx, %ss; movd %eax, %xmm1; mov $300, %ecx; 1: push %rcx; loop 1b\n"
      "mov $0x20000, %edi; mov $77, %ecx; rep stosl; out %al, $0x80; hlt")

struct Case {
  const char* name;
  std::span<const uint8_t> code;
};
std::vector<Case> cases() {
  return {{"x87", fb_x87()},       {"cmpxchg16b", fb_cx16()},       {"sse", fb_sse()},
          {"fault", fb_fault()},   {"page_fault", fb_page_fault()}, {"unaligned", fb_unaligned()},
          {"device", fb_device()}, {"interrupt", fb_interrupt()},   {"trap", fb_trap()},
          {"stack", fb_stack()}};
}

void gate(Rig& rig, unsigned vector, uint64_t handler) {
  rig.poke<uint64_t>(kIdt + 16 * vector, 0x00008e0000180000 | handler);
  rig.poke<uint64_t>(kIdt + 16 * vector + 8, 0);
}

void prepare(Rig& rig, Engine& engine, std::span<const uint8_t> code) {
  rig.place(code);
  rig.place(tell_fault(), kHandler);
  for (const unsigned vector : {1u, 6u, 13u, 14u, 0x40u}) gate(rig, vector, kHandler);
  rig.start(engine, Mode::kLong);
  engine.cpu_state().cr4 |= x86::cr4::kOsfxsr | x86::cr4::kOsxmmexcpt;
  engine.state_loaded();
}

// AMD's processors keep the x87's pointers only while an exception waits, and so does KVM on them.
std::vector<std::string> comparable(Engine& engine) {
  std::vector<std::string> out = fields_of(engine);
  std::erase_if(out, [](const std::string& line) {
    return line.starts_with("fip=") || line.starts_with("fdp=") || line.starts_with("fop=");
  });
  return out;
}

// The same guest on another engine, in a world of its own.
void expect_as(const char* name, const Case& test, Rig& rig, Engine& engine) {
  Rig other;
  other.model = rig.model;
  const auto reference = other.make(name);
  prepare(other, *reference, test.code);
  other.run(*reference);
  EXPECT_EQ(differences(comparable(engine), comparable(*reference)), "") << "not as on " << name;
  EXPECT_EQ(rig.log, other.log);
  EXPECT_EQ(std::memcmp(rig.ram->host(), other.ram->host(), kRamSize), 0) << "memory differs from " << name;
}

class NothingRuns : public ::testing::Test {
 protected:
  void build(std::optional<Irqchip::Mode> irqchip = std::nullopt) {
    const auto system = fake_.open();
    rig_.vm = *Vm::create(*system, rig_.memory, {.irqchip = irqchip});
    engine_ = *KvmEngine::create(rig_.engine_context());
    fake_.on_run = [this](kvm_run& run) {
      if (run.immediate_exit != 0) return -EINTR;
      ++failures_;
      if (on_failure_) on_failure_();
      run.exit_reason = KVM_EXIT_INTERNAL_ERROR;
      run.internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
      return 0;
    };
  }
  x86::CpuState& cpu() { return engine_->cpu_state(); }
  Rig rig_;
  FakeKvm fake_;
  std::unique_ptr<KvmEngine> engine_;
  unsigned failures_ = 0;
  std::function<void()> on_failure_;
};

class Fallbacks : public NothingRuns, public ::testing::WithParamInterface<Case> {};

TEST_P(Fallbacks, EndsAsOnTheOtherEngines) {
  build();
  prepare(rig_, *engine_, GetParam().code);
  rig_.run(*engine_);
  EXPECT_NE(failures_, 0u);
  expect_as("interp", GetParam(), rig_, *engine_);
  expect_as("bt", GetParam(), rig_, *engine_);
}

// Each step is one instruction, with KVM's failure before it.
TEST_P(Fallbacks, StepsAsTheInterpreterDoes) {
  build();
  prepare(rig_, *engine_, GetParam().code);
  Rig other;
  other.model = rig_.model;
  const auto reference = other.make("interp");
  prepare(other, *reference, GetParam().code);
  engine_->set_debug({.single_step = true, .breakpoints = {}});
  reference->set_debug({.single_step = true, .breakpoints = {}});
  for (int i = 0; i < 30; ++i) {
    if (reference->run() != VcpuExit::kDebug || cpu().activity != x86::Activity::kRunning) break;
    ASSERT_EQ(engine_->run(), VcpuExit::kDebug) << "step " << i;
    ASSERT_EQ(differences(comparable(*engine_), comparable(*reference)), "") << "step " << i;
  }
  EXPECT_EQ(rig_.log, other.log);
}

INSTANTIATE_TEST_SUITE_P(Guest, Fallbacks, ::testing::ValuesIn(cases()),
                         [](const auto& test) { return std::string(test.param.name); });

// The kernel's own, whatever of these it can run.
class FallbacksHere : public ::testing::TestWithParam<const char*> {};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(FallbacksHere);
TEST_P(FallbacksHere, EveryGuestEndsAsOnTheInterpreter) {
  for (const Case& test : cases()) {
    if (std::string_view(test.name) == "trap") continue;  // an emulating KVM has no TF
    SCOPED_TRACE(test.name);
    Rig rig;
    const auto engine = rig.make(GetParam());
    prepare(rig, *engine, test.code);
    rig.run(*engine);
    Rig other;
    other.model = rig.model;
    const auto reference = other.make("interp");
    prepare(other, *reference, test.code);
    other.run(*reference);
    EXPECT_EQ(engine->cpu_state().rip, reference->cpu_state().rip);
    EXPECT_EQ(engine->cpu_state().gpr, reference->cpu_state().gpr);
    EXPECT_EQ(std::memcmp(engine->cpu_state().vec, reference->cpu_state().vec, sizeof(x86::CpuState::vec)),
              0);
    EXPECT_EQ(std::memcmp(rig.ram->host() + kData, other.ram->host() + kData, 4096), 0);
  }
}
INSTANTIATE_TEST_SUITE_P(Engine, FallbacksHere, ::testing::ValuesIn(Rig::kvm_if_here()));

GUEST(fb_breakpoint, ".code64", "movd %eax, %xmm1; nop; nop; movups %xmm1, 0x20000; out %al, $0x80; hlt")
TEST_F(NothingRuns, BreakpointsAndWatchpointsStopTheInterpreterToo) {
  build();
  prepare(rig_, *engine_, fb_breakpoint());
  engine_->set_debug(
      {.single_step = false,
       .breakpoints = {{BreakpointKind::kHardware, kCode + 5, 1}, {BreakpointKind::kWrite, kData, 4}}});
  EXPECT_EQ(engine_->run(), VcpuExit::kDebug);
  EXPECT_EQ(cpu().rip, kCode + 5);
  EXPECT_EQ(engine_->debug_stop().hit, BreakpointKind::kHardware);
  engine_->set_debug({.single_step = false, .breakpoints = {{BreakpointKind::kWrite, kData, 4}}});
  EXPECT_EQ(engine_->run(), VcpuExit::kDebug);
  EXPECT_EQ(engine_->debug_stop().hit, BreakpointKind::kWrite);
  EXPECT_EQ(engine_->debug_stop().address, kData);
}

// 0F 04 is nobody's.
GUEST(fb_unknown, ".code64", ".byte 0x0f, 0x04; hlt")
TEST_F(NothingRuns, WhatNobodyKnowsShutsDownAndIsToldOnceASecond) {
  build();
  testing::internal::CaptureStderr();
  for (int i = 0; i < 50; ++i) {
    prepare(rig_, *engine_, fb_unknown());
    EXPECT_EQ(engine_->run(), VcpuExit::kShutdown);
    EXPECT_EQ(cpu().activity, x86::Activity::kShutdown);
  }
  const std::string told = testing::internal::GetCapturedStderr();
  EXPECT_THAT(told, HasSubstr("neither KVM nor the interpreter can run the instruction at 0x1000"));
  EXPECT_LT(std::count(told.begin(), told.end(), '\n'), 50);
}

TEST_F(NothingRuns, UserCodeOfThatKindGetsUd) {
  build();
  prepare(rig_, *engine_, fb_unknown());
  rig_.place(fb_unknown(), kUserCode);
  for (const uint64_t level : {0, 0x1000, 0x2000})
    rig_.poke<uint64_t>(kPageTables + level, rig_.peek<uint64_t>(kPageTables + level) | 4);
  // The stack of the handler, in a task state segment of zeros.
  rig_.poke<uint64_t>(kData + 4, kStack);
  cpu().tr = {.base = kData, .limit = 0x67, .attributes = 0x8b, .selector = 0x20};
  rig_.poke<uint64_t>(kGdt + 0x18, 0x00af9b000000ffff);
  cpu().seg[x86::kCs] = {.base = 0, .limit = 0xffffffff, .attributes = 0xa0fb, .selector = 0x1b};
  cpu().seg[x86::kSs] = {.base = 0, .limit = 0xffffffff, .attributes = 0xc0f3, .selector = 0x13};
  cpu().rip = kUserCode;
  engine_->state_loaded();
  EXPECT_EQ(rig_.run(*engine_), VcpuExit::kStopped);
  EXPECT_EQ(cpu().gpr[x86::kRbp], 1u) << "the handler of #UD has run";
  EXPECT_EQ(cpu().gpr[14], kUserCode);
}

GUEST(fb_halt, ".code64", "sti; movd %eax, %xmm1; hlt; inc %rbx; out %al, $0x80; hlt")
TEST_F(NothingRuns, AHaltIsOne) {
  build();
  prepare(rig_, *engine_, fb_halt());
  EXPECT_EQ(engine_->run(), VcpuExit::kHalted);
  EXPECT_EQ(cpu().activity, x86::Activity::kHalted);
  EXPECT_EQ(engine_->run(), VcpuExit::kHalted) << "until something comes";
}

// An interrupt is KVM's to deliver, and it is not kept waiting.
GUEST(fb_endless, ".code64", "sti; 1: movd %eax, %xmm1; out %al, $0x90; jmp 1b")
TEST_F(NothingRuns, AnInterruptEndsTheStretch) {
  build();
  prepare(rig_, *engine_, fb_endless());
  unsigned writes = 0;
  rig_.port.on_write = [&](uint64_t, uint64_t) {
    if (++writes != 1000) return;
    rig_.interrupts.vector = 0x40;
    engine_->interrupt_changed();
  };
  unsigned writes_then = 0;
  on_failure_ = [&] {
    if (fake_.count("KVM_INTERRUPT") == 0 || writes_then != 0) return;
    writes_then = writes;
    engine_->kick();
  };
  EXPECT_EQ(engine_->run(), VcpuExit::kStopped);
  EXPECT_EQ(fake_.count("KVM_INTERRUPT"), 1u);
  EXPECT_EQ(writes_then, 1000u);
}

// Others write under KVM, which tells nobody: nothing that was decoded may be kept.
GUEST(fb_changed, ".code64", "1: movd %eax, %xmm1; mov $1, %ebx; jmp 1b")
TEST_F(NothingRuns, CodeIsReadAnewEachTime) {
  build();
  prepare(rig_, *engine_, fb_changed());
  on_failure_ = [&] {
    if (failures_ == 20) std::memset(rig_.ram->host() + kCode + 5, 2, 1);
    if (failures_ == 40) engine_->kick();
  };
  EXPECT_EQ(engine_->run(), VcpuExit::kStopped);
  EXPECT_EQ(cpu().gpr[x86::kRbx], 2u);
}

TEST_F(NothingRuns, ItsWritesAreInTheDirtyLog) {
  build();
  prepare(rig_, *engine_, fb_sse());
  rig_.ram->start_dirty_log();
  rig_.run(*engine_);
  std::vector<uint64_t> bitmap;
  rig_.ram->collect_dirty(bitmap);
  EXPECT_EQ(bitmap[0] >> (kData >> 12) & 1, 1u);
  EXPECT_EQ(bitmap[0] >> (kCode >> 12) & 1, 0u) << "only read";
}

// Its registers are the kernel's, and the interpreter would not see them.
TEST_F(NothingRuns, OneInstructionAtATimeBesideTheKernelsApic) {
  build(Irqchip::Mode::kSplit);
  prepare(rig_, *engine_, fb_stack());
  rig_.run(*engine_);
  EXPECT_GE(failures_, 600u);
}

TEST_F(NothingRuns, FewerHandOversThanInstructions) {
  build();
  prepare(rig_, *engine_, fb_stack());
  rig_.run(*engine_);
  EXPECT_LT(failures_, 600u);
}

TEST(FallbackStretch, DoublesWhileKvmDoesNotRunForLong) {
  Stretch stretch;
  int64_t now = 5'000'000'000;
  EXPECT_EQ(stretch.next(now), 1);
  for (const int64_t wanted : {2, 4, 8, 16}) {
    stretch.ended(now);
    now += Stretch::kSoon - 1;
    EXPECT_EQ(stretch.next(now), wanted);
  }
  for (int i = 0; i < 40; ++i) {
    stretch.ended(now);
    EXPECT_LE(stretch.next(now), Stretch::kMost);
  }
  EXPECT_EQ(stretch.next(now), Stretch::kMost);
  stretch.ended(now);
  EXPECT_EQ(stretch.next(now + Stretch::kSoon), 1);
}

}  // namespace
}  // namespace ostler::accel::kvm
