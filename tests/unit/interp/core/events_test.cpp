// What happens between instructions: interrupts and their shadow, halting, single-stepping, breakpoints, and
// repeated instructions that are left in the middle.
#include "fixture.h"

namespace ostler::interp {
namespace {

using x86::Vector;
namespace rflags = x86::rflags;

TEST(Events, AnInterruptWaitsForTheInstructionAfterSti) {
  Board board;
  Vcpu cpu(board);
  cpu.world.interrupt = 0x40;
  cpu.interpreter.post(pending::kInterrupt);
  // sti; inc eax; inc eax; hlt
  EXPECT_EQ(cpu.run({0xfb, 0xff, 0xc0, 0xff, 0xc0, 0xf4}), Exit::kHalted);
  EXPECT_EQ(cpu.s.rip, kHandlers + 0x40 * 16 + 1);
  EXPECT_EQ(cpu.s.gpr[x86::kRax], 1u);
  EXPECT_EQ(board.peek<uint64_t>(cpu.s.gpr[x86::kRsp]), kText + 3);  // where it returns to
}

TEST(Events, AMaskedInterruptIsNotLost) {
  Board board;
  Vcpu cpu(board);
  cpu.world.interrupt = 0x41;
  cpu.interpreter.post(pending::kInterrupt);
  EXPECT_EQ(cpu.run({0xeb, 0xfe}, 1000), Exit::kBudget);
  EXPECT_EQ(cpu.s.rip, kText);
  EXPECT_EQ(cpu.run({0xfb, 0xeb, 0xfe}, 1000), Exit::kHalted);
  EXPECT_EQ(cpu.s.rip, kHandlers + 0x41 * 16 + 1);
}

TEST(Events, AnInterruptEndsHalt) {
  Board board;
  Vcpu cpu(board);
  EXPECT_EQ(cpu.run({0xfb, 0xf4}), Exit::kHalted);
  EXPECT_FALSE(cpu.interpreter.wants_wakeup());
  cpu.world.interrupt = 0x42;
  cpu.interpreter.post(pending::kInterrupt);
  EXPECT_TRUE(cpu.interpreter.wants_wakeup());
  EXPECT_EQ(cpu.interpreter.run(), Exit::kHalted);
  EXPECT_EQ(cpu.s.rip, kHandlers + 0x42 * 16 + 1);
}

TEST(Events, AnNmiIsDeliveredWithInterruptsOffAndBlocksTheNext) {
  Board board;
  Vcpu cpu(board);
  cpu.interpreter.post(pending::kNmi);
  EXPECT_EQ(cpu.run({0xeb, 0xfe}), Exit::kHalted);
  EXPECT_EQ(cpu.s.rip, kHandlers + 2 * 16 + 1);
  EXPECT_TRUE(cpu.s.nmi_blocked);
  cpu.interpreter.post(pending::kNmi);
  EXPECT_FALSE(cpu.interpreter.wants_wakeup());
}

TEST(Events, TheTrapFlagTrapsAfterTheNextInstruction) {
  Board board;
  Vcpu cpu(board);
  cpu.interpreter.stop_on_exceptions(true);
  // push 0x102; popf; nop; hlt
  EXPECT_EQ(cpu.run({0x68, 0x02, 1, 0, 0, 0x9d, 0x90, 0xf4}), Exit::kException);
  EXPECT_EQ(cpu.exception().vector, Vector::kDb);
  EXPECT_EQ(cpu.exception().dr6_bits, 1u << 14);
  EXPECT_EQ(cpu.s.rip, kText + 7);
}

TEST(Events, ASingleSteppedRepStopsAfterEachIteration) {
  Board board;
  Vcpu cpu(board);
  cpu.interpreter.stop_on_exceptions(true);
  cpu.s.flags_rest |= rflags::kTf;
  cpu.s.gpr[x86::kRcx] = 3;
  cpu.s.gpr[x86::kRdi] = kHeap;
  EXPECT_EQ(cpu.run({0xf3, 0xaa, 0xf4}), Exit::kException);
  EXPECT_EQ(cpu.s.gpr[x86::kRcx], 2u);
  EXPECT_EQ(cpu.s.rip, kText);
}

TEST(Events, AnInstructionBreakpointStopsBeforeItAndRfPassesIt) {
  Board board;
  Vcpu cpu(board);
  cpu.interpreter.stop_on_exceptions(true);
  cpu.s.dr[0] = kText + 2;
  cpu.s.dr[7] = 0x401;
  cpu.interpreter.state_changed();
  EXPECT_EQ(cpu.run({0xff, 0xc0, 0xff, 0xc0, 0xf4}), Exit::kException);
  EXPECT_EQ(cpu.exception().vector, Vector::kDb);
  EXPECT_EQ(cpu.exception().dr6_bits, 1u);
  EXPECT_EQ(cpu.s.rip, kText + 2);
  EXPECT_EQ(cpu.s.gpr[x86::kRax], 1u);
  cpu.s.flags_rest |= rflags::kRf;
  EXPECT_EQ(cpu.interpreter.run(), Exit::kHalted);
  EXPECT_EQ(cpu.s.gpr[x86::kRax], 2u);
}

TEST(Events, ADataBreakpointTrapsAfterTheWrite) {
  Board board;
  Vcpu cpu(board);
  cpu.interpreter.stop_on_exceptions(true);
  cpu.s.dr[1] = kHeap + 4;
  cpu.s.dr[7] = 0x00d00404;  // DR1: writes of 4 bytes
  cpu.s.gpr[x86::kRdi] = kHeap;
  cpu.interpreter.state_changed();
  // mov eax, [rdi+4] (a read: no trap); mov [rdi+6], al; hlt
  EXPECT_EQ(cpu.run({0x8b, 0x47, 4, 0x88, 0x47, 6, 0xf4}), Exit::kException);
  EXPECT_EQ(cpu.exception().vector, Vector::kDb);
  EXPECT_EQ(cpu.exception().dr6_bits, 2u);
  EXPECT_EQ(cpu.s.rip, kText + 6);
}

TEST(Events, ARepeatedInstructionIsLeftBetweenIterationsAndGoesOn) {
  Board board;
  Vcpu cpu(board);
  unsigned reads = 0;
  cpu.world.on_port_read = [&] {
    if (++reads == 3) cpu.interpreter.request_exit();
  };
  cpu.s.gpr[x86::kRcx] = 10;
  cpu.s.gpr[x86::kRdi] = kHeap;
  EXPECT_EQ(cpu.run({0xf3, 0x6c, 0xf4}), Exit::kStop);  // rep insb
  EXPECT_EQ(cpu.s.gpr[x86::kRcx], 7u);
  EXPECT_EQ(cpu.s.gpr[x86::kRdi], kHeap + 3);
  EXPECT_EQ(cpu.s.rip, kText);
  EXPECT_EQ(cpu.interpreter.run(), Exit::kHalted);
  EXPECT_EQ(reads, 10u);
  EXPECT_EQ(board.peek<uint8_t>(kHeap + 9), 0x5a);
}

TEST(Events, AFaultInARepeatedInstructionKeepsWhatWasDone) {
  Board board;
  Vcpu cpu(board);
  cpu.interpreter.stop_on_exceptions(true);
  board.set_page(kHeap + kPageSize, 0);
  cpu.s.gpr[x86::kRcx] = 100;
  cpu.s.gpr[x86::kRdi] = kHeap + kPageSize - 16;
  EXPECT_EQ(cpu.run({0xf3, 0x48, 0xab, 0xf4}), Exit::kException);  // rep stosq
  EXPECT_EQ(cpu.exception().vector, Vector::kPf);
  EXPECT_EQ(cpu.exception().cr2, kHeap + kPageSize);
  EXPECT_EQ(cpu.s.gpr[x86::kRcx], 98u);
  EXPECT_EQ(cpu.s.gpr[x86::kRdi], kHeap + kPageSize);
}

TEST(Events, AFaultIsDeliveredThroughTheIdt) {
  Board board;
  Vcpu cpu(board);
  cpu.s.gpr[x86::kRbx] = 0x3000'0000;
  EXPECT_EQ(cpu.run({0x50, 0x8b, 0x03, 0xf4}), Exit::kHalted);  // push rax; mov eax, [rbx]
  EXPECT_EQ(cpu.s.rip, kHandlers + 14 * 16 + 1);
  EXPECT_EQ(cpu.s.cr2, 0x3000'0000u);
  EXPECT_EQ(board.peek<uint64_t>(cpu.s.gpr[x86::kRsp] + 8), kText + 1);
}

TEST(Events, AFaultWithoutAnIdtShutsDown) {
  Board board;
  Vcpu cpu(board);
  cpu.s.idtr.limit = 0;
  EXPECT_EQ(cpu.run({0x0f, 0x0b}), Exit::kShutdown);
}

}  // namespace
}  // namespace ostler::interp
