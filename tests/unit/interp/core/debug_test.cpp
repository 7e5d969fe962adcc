// A debugger outside the guest: steps, breakpoints and watchpoints of the run loop, which the guest cannot
// notice.
#include "fixture.h"

namespace ostler::interp {
namespace {

using Reason = DebugStop::Reason;
namespace rflags = x86::rflags;

struct Debug : ::testing::Test {
  Board board;
  Vcpu cpu{board};

  void load(std::initializer_list<uint8_t> bytes) {
    board.code_at(kText, bytes);
    cpu.s.rip = kText;
  }
  void want(DebugRequest request) { cpu.interpreter.set_debug(std::move(request)); }
  Exit run() { return cpu.interpreter.run(1'000'000); }
  const DebugStop& stop() const { return cpu.interpreter.debug_stop(); }
  static mmu::Watch watch(uint64_t first, uint64_t size, bool reads, bool writes) {
    return {.first = first, .last = first + size - 1, .reads = reads, .writes = writes};
  }
  void expect_watch(uint64_t address, uint64_t rip) {
    EXPECT_EQ(stop().reason, Reason::kWatch);
    EXPECT_EQ(stop().address, address);
    EXPECT_EQ(cpu.s.rip, rip);
  }
};

// inc eax; inc eax; inc eax; hlt
#define THREE_INCREMENTS 0xff, 0xc0, 0xff, 0xc0, 0xff, 0xc0, 0xf4

TEST_F(Debug, AStepIsOneInstruction) {
  load({THREE_INCREMENTS});
  want({.step = true, .breakpoints = {}, .watches = {}});
  for (uint64_t done = 1; done <= 3; ++done) {
    ASSERT_EQ(run(), Exit::kDebug);
    EXPECT_EQ(stop().reason, Reason::kStep);
    EXPECT_EQ(cpu.s.gpr[x86::kRax], done);
    EXPECT_EQ(cpu.s.rip, kText + 2 * done);
    EXPECT_EQ(cpu.interpreter.retired(), done);
  }
}

TEST_F(Debug, AStepDoesNotShowInTheFlags) {
  load({0x9c, 0x58});  // pushf; pop rax
  want({.step = true, .breakpoints = {}, .watches = {}});
  ASSERT_EQ(run(), Exit::kDebug);
  ASSERT_EQ(run(), Exit::kDebug);
  EXPECT_EQ(cpu.s.gpr[x86::kRax] & rflags::kTf, 0u);
}

TEST_F(Debug, AStepHoldsInterruptsOff) {
  load({THREE_INCREMENTS});
  cpu.s.flags_rest |= rflags::kIf;
  cpu.world.interrupt = 0x40;
  cpu.interpreter.post(pending::kInterrupt);
  want({.step = true, .breakpoints = {}, .watches = {}});
  ASSERT_EQ(run(), Exit::kDebug);
  EXPECT_EQ(cpu.s.rip, kText + 2);
  want({});
  EXPECT_EQ(run(), Exit::kHalted);
  EXPECT_EQ(cpu.s.rip, kHandlers + 0x40 * 16 + 1);
}

TEST_F(Debug, AStepOfAHaltedProcessorIsTheInterruptThatWakesIt) {
  load({0xfb, 0xf4});  // sti; hlt
  want({.step = true, .breakpoints = {}, .watches = {}});
  ASSERT_EQ(run(), Exit::kDebug);
  ASSERT_EQ(run(), Exit::kDebug);
  EXPECT_EQ(cpu.s.activity, x86::Activity::kHalted);
  EXPECT_EQ(run(), Exit::kHalted);
  cpu.world.interrupt = 0x42;
  cpu.interpreter.post(pending::kInterrupt);
  ASSERT_EQ(run(), Exit::kDebug);
  EXPECT_EQ(cpu.s.rip, kHandlers + 0x42 * 16);
}

TEST_F(Debug, AStepThatFaultsEndsAtTheHandler) {
  load({0x0f, 0x0b});  // ud2
  want({.step = true, .breakpoints = {}, .watches = {}});
  ASSERT_EQ(run(), Exit::kDebug);
  EXPECT_EQ(cpu.s.rip, kHandlers + 6 * 16);
}

TEST_F(Debug, ABreakpointStopsBeforeItsInstruction) {
  load({THREE_INCREMENTS});
  want({.step = false, .breakpoints = {kText + 4}, .watches = {}});
  ASSERT_EQ(run(), Exit::kDebug);
  EXPECT_EQ(stop().reason, Reason::kBreakpoint);
  EXPECT_EQ(stop().address, kText + 4);
  EXPECT_EQ(cpu.s.rip, kText + 4);
  EXPECT_EQ(cpu.s.gpr[x86::kRax], 2u);
  EXPECT_EQ(cpu.interpreter.retired(), 2u);
  EXPECT_EQ(board.peek<uint8_t>(kText + 4), 0xff);  // the code is as it was
  ASSERT_EQ(run(), Exit::kDebug) << "it is met again until it is removed";
  want({});
  EXPECT_EQ(run(), Exit::kHalted);
  EXPECT_EQ(cpu.s.gpr[x86::kRax], 3u);
}

TEST_F(Debug, ABreakpointIsMetInALoopThatRunsAlready) {
  load({0xff, 0xc0, 0xff, 0xc1, 0xeb, 0xfa});  // 1: inc eax; inc ecx; jmp 1b
  EXPECT_EQ(cpu.interpreter.run(1000), Exit::kBudget);
  want({.step = false, .breakpoints = {kText + 2}, .watches = {}});
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(run(), Exit::kDebug);
    EXPECT_EQ(cpu.s.rip, kText + 2);
    want({.step = true, .breakpoints = {}, .watches = {}});
    ASSERT_EQ(run(), Exit::kDebug);
    EXPECT_EQ(cpu.s.gpr[x86::kRax], cpu.s.gpr[x86::kRcx]);
    want({.step = false, .breakpoints = {kText + 2}, .watches = {}});
  }
}

TEST_F(Debug, ABreakpointIsByLinearAddress) {
  load({THREE_INCREMENTS});
  want({.step = false, .breakpoints = {kAlias + kText + 2}, .watches = {}});
  EXPECT_EQ(run(), Exit::kHalted);
  cpu.s.rip = kAlias + kText;
  cpu.s.activity = x86::Activity::kRunning;
  ASSERT_EQ(run(), Exit::kDebug);
  EXPECT_EQ(cpu.s.rip, kAlias + kText + 2);
}

TEST_F(Debug, OutsideLongModeTheCodeSegmentsBaseCounts) {
  load({THREE_INCREMENTS});
  cpu.s.cr0 = x86::cr0::kPe;
  cpu.s.cr4 = cpu.s.msr.efer = 0;
  cpu.s.seg[x86::kCs] = {.base = kText - 0x100, .limit = ~0u, .attributes = 0xc09b, .selector = 8};
  cpu.s.rip = 0x100;
  cpu.interpreter.state_changed();
  want({.step = false, .breakpoints = {0x102, kText + 4}, .watches = {}});
  ASSERT_EQ(run(), Exit::kDebug);
  EXPECT_EQ(stop().address, kText + 4);
  EXPECT_EQ(cpu.s.rip, 0x104u);
}

TEST_F(Debug, ABreakpointBehindStiKeepsTheShadow) {
  load({0xfb, 0xf4});  // sti; hlt
  cpu.world.interrupt = 0x43;
  cpu.interpreter.post(pending::kInterrupt);
  want({.step = false, .breakpoints = {kText + 1}, .watches = {}});
  ASSERT_EQ(run(), Exit::kDebug);
  EXPECT_EQ(cpu.s.rip, kText + 1);
  want({});
  EXPECT_EQ(run(), Exit::kHalted);
  EXPECT_EQ(board.peek<uint64_t>(cpu.s.gpr[x86::kRsp]), kText + 2) << "the interrupt came before HLT";
}

TEST_F(Debug, TheGuestsOwnBreakpointInstructionIsTheGuests) {
  load({0xcc});
  want({.step = false, .breakpoints = {kText + 100}, .watches = {}});
  EXPECT_EQ(run(), Exit::kHalted);
  EXPECT_EQ(cpu.s.rip, kHandlers + 3 * 16 + 1);
}

TEST_F(Debug, AWatchedWriteStopsAfterItsInstruction) {
  // mov [kHeap], eax; inc eax; inc eax; hlt
  load({0x89, 0x04, 0x25, 0x00, 0x00, 0x03, 0x00, 0xff, 0xc0, 0xff, 0xc0, 0xf4});
  cpu.s.gpr[x86::kRax] = 7;
  want({.step = false, .breakpoints = {}, .watches = {watch(kHeap + 2, 1, false, true)}});
  ASSERT_EQ(run(), Exit::kDebug);
  expect_watch(kHeap + 2, kText + 7);
  EXPECT_EQ(board.peek<uint32_t>(kHeap), 7u);
  EXPECT_EQ(cpu.s.gpr[x86::kRax], 7u);
  EXPECT_EQ(cpu.interpreter.retired(), 1u);
  EXPECT_EQ(run(), Exit::kHalted);
  EXPECT_EQ(cpu.s.gpr[x86::kRax], 9u);
}

TEST_F(Debug, OnlyTheBytesAndTheKindOfAccessCount) {
  // mov eax, [kHeap]; mov [kHeap+4], eax; mov [kHeap-4], eax; hlt
  load({0x8b, 0x04, 0x25, 0x00, 0x00, 0x03, 0x00, 0x89, 0x04, 0x25, 0x04,
        0x00, 0x03, 0x00, 0x89, 0x04, 0x25, 0xfc, 0xff, 0x02, 0x00, 0xf4});
  want({.step = false, .breakpoints = {}, .watches = {watch(kHeap, 4, false, true)}});
  EXPECT_EQ(run(), Exit::kHalted);
  want({.step = false, .breakpoints = {}, .watches = {watch(kHeap, 4, true, false)}});
  cpu.s.rip = kText;
  cpu.s.activity = x86::Activity::kRunning;
  ASSERT_EQ(run(), Exit::kDebug);
  expect_watch(kHeap, kText + 7);
  EXPECT_EQ(run(), Exit::kHalted);
}

TEST_F(Debug, AnAccessAcrossPagesIsSeen) {
  load({0x89, 0x04, 0x25, 0xfe, 0x0f, 0x03, 0x00, 0xf4});  // mov [kHeap+0xffe], eax; hlt
  want({.step = false, .breakpoints = {}, .watches = {watch(kHeap + 0x1001, 1, false, true)}});
  ASSERT_EQ(run(), Exit::kDebug);
  expect_watch(kHeap + 0x1001, kText + 7);
}

TEST_F(Debug, AReadModifyWriteIsBoth) {
  for (const bool reads : {false, true}) {
    SCOPED_TRACE(reads);
    load({0xf0, 0xff, 0x04, 0x25, 0x00, 0x00, 0x03, 0x00, 0xf4});  // lock inc dword [kHeap]; hlt
    cpu.s.activity = x86::Activity::kRunning;
    want({.step = false, .breakpoints = {}, .watches = {watch(kHeap, 4, reads, !reads)}});
    ASSERT_EQ(run(), Exit::kDebug);
    expect_watch(kHeap, kText + 8);
  }
  EXPECT_EQ(board.peek<uint32_t>(kHeap), 2u);
}

TEST_F(Debug, AWatchedRepeatedInstructionStopsBetweenIterations) {
  load({0xf3, 0xaa, 0xf4});  // rep stosb; hlt
  cpu.s.gpr[x86::kRdi] = kHeap;
  cpu.s.gpr[x86::kRcx] = 100;
  want({.step = false, .breakpoints = {}, .watches = {watch(kHeap + 40, 1, false, true)}});
  ASSERT_EQ(run(), Exit::kDebug);
  expect_watch(kHeap + 40, kText);
  EXPECT_EQ(cpu.s.gpr[x86::kRcx], 59u);
  EXPECT_EQ(run(), Exit::kHalted);
  EXPECT_EQ(cpu.s.gpr[x86::kRcx], 0u);
}

TEST_F(Debug, WhatLeavesItsBlockIsSeenToo) {
  load({0xe8, 0x01, 0x00, 0x00, 0x00, 0xf4, 0xc3});  // call 1f; hlt; 1: ret
  want({.step = false, .breakpoints = {}, .watches = {watch(kStackTop - 8, 8, true, true)}});
  ASSERT_EQ(run(), Exit::kDebug);
  expect_watch(kStackTop - 8, kText + 6);
  ASSERT_EQ(run(), Exit::kDebug);
  expect_watch(kStackTop - 8, kText + 5);
  EXPECT_EQ(run(), Exit::kHalted);
}

TEST_F(Debug, TheDeliveryOfAnExceptionIsSeen) {
  load({0x0f, 0x0b});  // ud2
  want({.step = false, .breakpoints = {}, .watches = {watch(kStackTop - 16, 8, false, true)}});
  ASSERT_EQ(run(), Exit::kDebug);
  expect_watch(kStackTop - 16, kHandlers + 6 * 16);
}

TEST_F(Debug, AnInstructionThatFaultsHasAccessedNothing) {
  board.set_page(kHeap + 0x1000, 0);
  // movs: reads kHeap, writes where nothing is
  load({0xa4});
  cpu.s.gpr[x86::kRsi] = kHeap;
  cpu.s.gpr[x86::kRdi] = kHeap + 0x1000;
  want({.step = false, .breakpoints = {}, .watches = {watch(kHeap, 1, true, false)}});
  EXPECT_EQ(run(), Exit::kHalted);
  EXPECT_EQ(cpu.s.rip, kHandlers + 14 * 16 + 1);
}

TEST_F(Debug, TheGuestsDebugRegistersAreItsOwn) {
  load({0x89, 0x04, 0x25, 0x00, 0x00, 0x03, 0x00, 0xf4});  // mov [kHeap], eax; hlt
  cpu.s.dr[0] = kHeap;
  cpu.s.dr[7] = 0x400 | 2 | 0xd << 16;
  cpu.interpreter.state_changed();
  const auto before = cpu.s.dr;
  want({.step = false, .breakpoints = {kText + 7}, .watches = {watch(kHeap, 4, false, true)}});
  // The guest's #DB is delivered first; the watch is told at its handler.
  ASSERT_EQ(run(), Exit::kDebug);
  expect_watch(kHeap, kHandlers + 1 * 16);
  EXPECT_EQ(cpu.s.dr[0], before[0]);
  EXPECT_EQ(cpu.s.dr[7], before[7]);
  EXPECT_EQ(cpu.s.dr[6] & 1, 1u);
}

}  // namespace
}  // namespace ostler::interp
