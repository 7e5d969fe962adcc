// Decoded blocks follow the bytes they were made of: self- and cross-modifying code, aliases, instructions
// across pages.
#include "fixture.h"

namespace ostler::interp {
namespace {

using x86::Vector;

constexpr uint64_t kPageEnd = kText + kPageSize;

TEST(Blocks, LoopRunsToItsEnd) {
  Board board;
  Vcpu cpu(board);
  // mov ecx, 100; xor eax, eax; 1: add eax, ecx; dec ecx; jnz 1b; hlt
  EXPECT_EQ(cpu.run({0xb9, 100, 0, 0, 0, 0x31, 0xc0, 0x01, 0xc8, 0xff, 0xc9, 0x75, 0xfa, 0xf4}),
            Exit::kHalted);
  EXPECT_EQ(cpu.s.gpr[x86::kRax], 5050u);
  EXPECT_EQ(cpu.interpreter.retired(), 303u);
}

TEST(Blocks, BudgetEndsAnEndlessLoop) {
  Board board;
  Vcpu cpu(board);
  EXPECT_EQ(cpu.run({0xeb, 0xfe}, 1000), Exit::kBudget);
  EXPECT_EQ(cpu.s.rip, kText);
}

TEST(Blocks, AStoreIntoTheRunningBlockTakesEffectAtTheNextInstruction) {
  Board board;
  Vcpu cpu(board);
  // mov byte [rip+2], 7 (the immediate of the next one); mov cl, 1; hlt
  EXPECT_EQ(cpu.run({0xc6, 0x05, 0x01, 0, 0, 0, 7, 0xb1, 1, 0xf4}), Exit::kHalted);
  EXPECT_EQ(cpu.s.gpr[x86::kRcx], 7u);
}

TEST(Blocks, AStoreThroughAnAliasIsSeen) {
  Board board;
  Vcpu cpu(board);
  cpu.s.gpr[x86::kRbx] = kAlias + kText + 10;
  cpu.run({0xc6, 0x03, 9, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0xb1, 1, 0xf4});
  EXPECT_EQ(cpu.s.gpr[x86::kRcx], 9u);
}

TEST(Blocks, ARewrittenLoopBodyRunsAsWritten) {
  Board board;
  Vcpu cpu(board);
  // 1: inc byte [rip + imm of add]; add eax, 0; dec ecx; jnz 1b; hlt: adds 1, 2, 3
  cpu.s.gpr[x86::kRcx] = 3;
  EXPECT_EQ(cpu.run({0xfe, 0x05, 0x02, 0, 0, 0, 0x83, 0xc0, 0, 0xff, 0xc9, 0x75, 0xf3, 0xf4}), Exit::kHalted);
  EXPECT_EQ(cpu.s.gpr[x86::kRax], 6u);
}

TEST(Blocks, WritesByDmaAreSeen) {
  Board board;
  Vcpu cpu(board);
  cpu.run({0xb1, 1, 0xf4});
  EXPECT_EQ(cpu.s.gpr[x86::kRcx], 1u);
  cpu.run({0xb1, 2, 0xf4});
  EXPECT_EQ(cpu.s.gpr[x86::kRcx], 2u);
}

TEST(Blocks, AnInstructionAcrossPagesRunsAndFollowsItsSecondPage) {
  Board board;
  Vcpu cpu(board);
  board.code_at(kPageEnd - 2, {0xb8, 1, 2, 3, 4, 0xf4});  // mov eax, 0x04030201; hlt
  cpu.s.rip = kPageEnd - 2;
  EXPECT_EQ(cpu.interpreter.run(), Exit::kHalted);
  EXPECT_EQ(cpu.s.gpr[x86::kRax], 0x04030201u);
  board.poke<uint8_t>(kPageEnd, 0x22);
  cpu.s.rip = kPageEnd - 2;
  cpu.s.activity = x86::Activity::kRunning;
  EXPECT_EQ(cpu.interpreter.run(), Exit::kHalted);
  EXPECT_EQ(cpu.s.gpr[x86::kRax], 0x04032201u);
}

TEST(Blocks, AMissingSecondPageFaultsAtItsFirstByte) {
  Board board;
  Vcpu cpu(board);
  cpu.interpreter.stop_on_exceptions(true);
  board.set_page(kPageEnd, 0);
  board.code_at(kPageEnd - 3, {0x90, 0xb8, 1});
  cpu.s.rip = kPageEnd - 3;
  EXPECT_EQ(cpu.interpreter.run(), Exit::kException);
  EXPECT_EQ(cpu.exception().vector, Vector::kPf);
  EXPECT_EQ(cpu.exception().cr2, kPageEnd);
  EXPECT_EQ(cpu.s.rip, kPageEnd - 2);
}

TEST(Blocks, ARemappedSecondPageIsFetchedFromItsNewPlace) {
  Board board;
  Vcpu cpu(board);
  board.code_at(kPageEnd - 1, {0xb1, 5, 0xf4});
  board.code_at(kHeap, {6, 0xf4});
  cpu.s.rip = kPageEnd - 1;
  cpu.interpreter.run();
  EXPECT_EQ(cpu.s.gpr[x86::kRcx], 5u);
  board.set_page(kPageEnd, kHeap | 3);
  cpu.mmu.invlpg(kPageEnd);
  cpu.s.rip = kPageEnd - 1;
  cpu.s.activity = x86::Activity::kRunning;
  cpu.interpreter.run();
  EXPECT_EQ(cpu.s.gpr[x86::kRcx], 6u);
}

TEST(Blocks, ACacheTooSmallForTheCodeStillRunsIt) {
  Board board;
  Vcpu cpu(board, 64 * 1024);
  // 4000 blocks of "inc eax; jmp +0", around again and again, so that halves are evicted and all is flushed.
  uint64_t at = 0x40000;
  for (unsigned i = 0; i < 4000; ++i, at += 4) board.code_at(at, {0xff, 0xc0, 0xeb, 0});
  board.code_at(at, {0xf4});
  for (unsigned round = 1; round <= 4; ++round) {
    cpu.s.rip = 0x40000;
    cpu.s.activity = x86::Activity::kRunning;
    EXPECT_EQ(cpu.interpreter.run(), Exit::kHalted);
    EXPECT_EQ(cpu.s.gpr[x86::kRax], 4000u * round);
  }
  if (!test::engine_choice().translate) {
    EXPECT_GT(cpu.interpreter.cache().statistics().turns, 16u);
  }
}

TEST(Blocks, InvalidBytesRaiseWhenTheyAreReached) {
  Board board;
  Vcpu cpu(board);
  cpu.interpreter.stop_on_exceptions(true);
  EXPECT_EQ(cpu.run({0xff, 0xc0, 0x06}), Exit::kException);
  EXPECT_EQ(cpu.exception().vector, Vector::kUd);
  EXPECT_EQ(cpu.s.rip, kText + 2);
  EXPECT_EQ(cpu.s.gpr[x86::kRax], 1u);
}

constexpr std::initializer_list<uint8_t> kAndn = {0xc4, 0xe2, 0x70,
                                                  0xf2, 0xc2, 0xf4};  // andn eax, ecx, edx; hlt

TEST(Vex, IntegerInstructionsRunIn64BitMode) {
  Board board;
  Vcpu cpu(board);
  cpu.s.gpr[x86::kRcx] = 0x0f;
  cpu.s.gpr[x86::kRdx] = 0xff;
  EXPECT_EQ(cpu.run(kAndn), Exit::kHalted);
  EXPECT_EQ(cpu.s.gpr[x86::kRax], 0xf0u);
}

// SDM Vol. 2 §2.3.1: VEX encodings are #UD in real-address mode, whatever the instruction.
TEST(Vex, IntegerInstructionsAreUndefinedInRealMode) {
  constexpr uint16_t kHandler = 0x7000, kCode = 0x6000;
  Board board;
  Vcpu cpu(board);
  cpu.s.reset(false);
  cpu.s.seg[x86::kCs].selector = 0;
  cpu.s.seg[x86::kCs].base = 0;
  cpu.s.gpr[x86::kRsp] = 0x5000;
  cpu.interpreter.state_changed();
  board.poke<uint32_t>(6 * 4, kHandler);
  board.code_at(kHandler, {0xf4});
  board.code_at(kCode, kAndn);
  cpu.s.rip = kCode;
  EXPECT_EQ(cpu.interpreter.run(1000), Exit::kHalted);
  EXPECT_EQ(cpu.s.rip, kHandler + 1u);
}

}  // namespace
}  // namespace ostler::interp
