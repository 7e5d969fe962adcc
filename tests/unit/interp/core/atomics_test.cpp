// Locked instructions are atomic between vCPU threads, also where an operand crosses a page; code that
// another vCPU changes is followed.
#include <thread>
#include <vector>

#include "fixture.h"

namespace ostler::interp {
namespace {

// Two vCPUs run the code at kText with RDI = `operand`, RBX the vCPU's number and RCX = `rounds`.
void run_two(Board& board, uint64_t operand, uint64_t rounds) {
  std::vector<std::thread> threads;
  for (uint64_t n = 0; n < 2; ++n)
    threads.emplace_back([&board, operand, rounds, n] {
      Vcpu cpu(board);
      cpu.s.gpr[x86::kRdi] = operand;
      cpu.s.gpr[x86::kRcx] = rounds;
      cpu.s.gpr[x86::kRbx] = n;
      cpu.s.gpr[x86::kRsp] = kStackTop + n * 0x1000;
      cpu.s.rip = kText;
      EXPECT_EQ(cpu.interpreter.run(), Exit::kHalted);
    });
  for (auto& thread : threads) thread.join();
}

TEST(Atomics, LockedIncrementsOfTwoVcpusAllCount) {
  Board board;
  // 1: lock inc qword [rdi]; loop 1b; hlt
  board.code_at(kText, {0xf0, 0x48, 0xff, 0x07, 0xe2, 0xfa, 0xf4});
  run_two(board, kHeap, 50'000);
  EXPECT_EQ(board.peek<uint64_t>(kHeap), 100'000u);
}

TEST(Atomics, LockedIncrementsAcrossAPageAllCount) {
  Board board;
  board.code_at(kText, {0xf0, 0x48, 0xff, 0x07, 0xe2, 0xfa, 0xf4});
  run_two(board, kHeap + kPageSize - 3, 500);
  EXPECT_EQ(board.peek<uint64_t>(kHeap + kPageSize - 3), 1000u);
}

TEST(Atomics, CompareExchangeLoopsLoseNothing) {
  Board board;
  // 1: mov rax, [rdi]; 2: lea rdx, [rax+1]; lock cmpxchg [rdi], rdx; jnz 2b; loop 1b; hlt
  board.code_at(kText, {0x48, 0x8b, 0x07, 0x48, 0x8d, 0x50, 0x01, 0xf0, 0x48, 0x0f, 0xb1, 0x17, 0x75, 0xf5,
                        0xe2, 0xf0, 0xf4});
  run_two(board, kHeap, 20'000);
  EXPECT_EQ(board.peek<uint64_t>(kHeap), 40'000u);
}

TEST(Atomics, AnotherVcpusChangeOfCodeIsFollowed) {
  Board board;
  Vcpu first(board);
  // 1: jmp 1b, until the other vCPU writes HLT over it.
  board.code_at(kText, {0xeb, 0xfe});
  board.code_at(kText + 0x2000, {0xc6, 0x07, 0xf4, 0xf4});  // mov byte [rdi], 0xf4; hlt
  std::thread other([&board] {
    Vcpu second(board);
    second.s.gpr[x86::kRdi] = kText;
    second.s.rip = kText + 0x2000;
    EXPECT_EQ(second.interpreter.run(), Exit::kHalted);
  });
  first.s.rip = kText;
  EXPECT_EQ(first.interpreter.run(), Exit::kHalted);
  other.join();
}

}  // namespace
}  // namespace ostler::interp
