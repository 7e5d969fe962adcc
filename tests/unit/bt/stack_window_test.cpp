// What plan_window() puts under one check, and that the window is no way around the page tables.
#include <vector>

#include "rig.h"

namespace ostler::bt {
namespace {

TEST(StackWindow, OneCheckCoversThePushesOfAPrologue) {
  // push rbp; push rbx; sub rsp, 24; mov [rsp + 8], rax; hlt
  const GuestCode code = read_block({0x55, 0x53, 0x48, 0x83, 0xec, 0x18, 0x48, 0x89, 0x44, 0x24, 0x08, 0xf4});
  ASSERT_GE(code.count, 4u);
  EXPECT_TRUE(code.insns[0].window_here);
  EXPECT_TRUE(code.insns[0].in_window && code.insns[1].in_window && code.insns[3].in_window);
  EXPECT_FALSE(code.insns[1].window_here || code.insns[2].window_here || code.insns[3].window_here);
  EXPECT_EQ(code.insns[0].window_from, -32);
  EXPECT_EQ(code.insns[0].window_size, 32);
}

TEST(StackWindow, ReturnAddressesOfIndirectCallsAreCovered) {
  // push rax; call [rbx]
  const GuestCode code = read_block({0x50, 0xff, 0x13});
  ASSERT_EQ(code.count, 2u);
  EXPECT_TRUE(code.insns[1].in_window);
  EXPECT_EQ(code.insns[0].window_size, 16);
}

TEST(StackWindow, NothingIsCoveredBehindAStackPointerFromElsewhere) {
  // push rax; mov rsp, rbx; push rax; hlt
  const GuestCode code = read_block({0x50, 0x48, 0x89, 0xdc, 0x50, 0xf4});
  ASSERT_GE(code.count, 3u);
  EXPECT_TRUE(code.insns[0].in_window);
  EXPECT_FALSE(code.insns[2].in_window);
}

TEST(StackWindow, EveryWriteToTheStackPointerEndsIt) {
  const std::vector<std::vector<uint8_t>> writes = {
      {0x48, 0x0f, 0xcc},                          // bswap rsp
      {0x66, 0xbc, 0x00, 0x01},                    // mov sp, 256
      {0x83, 0xc4, 0x08},                          // add esp, 8
      {0x48, 0x21, 0xc4},                          // and rsp, rax
      {0x48, 0x94},                                // xchg rax, rsp
      {0x48, 0x0f, 0xc1, 0xe0},                    // xadd rax, rsp
      {0x48, 0x0f, 0x44, 0xe0},                    // cmovz rsp, rax
      {0x40, 0x0f, 0x94, 0xc4},                    // setz spl
      {0x66, 0x48, 0x0f, 0x7e, 0xc4},              // movq rsp, xmm0
      {0xf2, 0x48, 0x0f, 0x2d, 0xe0},              // cvtsd2si rsp, xmm0
      {0x0f, 0x50, 0xe0},                          // movmskps esp, xmm0
      {0x66, 0x0f, 0xc5, 0xe0, 0x00},              // pextrw esp, xmm0, 0
      {0x66, 0x48, 0x0f, 0x3a, 0x16, 0xc4, 0x00},  // pextrq rsp, xmm0, 0
      {0xc4, 0xe2, 0xdb, 0xf6, 0xc0},              // mulx rax, rsp, rax
      {0x48, 0x8d, 0x24, 0x84},                    // lea rsp, [rsp + rax * 4]
      {0x8d, 0x64, 0x24, 0x08},                    // lea esp, [rsp + 8]
      {0x48, 0x0f, 0xbc, 0xe0},                    // bsf rsp, rax
      {0x48, 0xd1, 0xe4},                          // shl rsp, 1
      {0x5c},                                      // pop rsp
      {0xc9},                                      // leave
      {0xf3, 0x48, 0x0f, 0xae, 0xc4},              // rdfsbase rsp
      {0xf3, 0x0f, 0xae, 0xcc},                    // rdgsbase esp
      {0x0f, 0x20, 0xd4},                          // mov rsp, cr2
  };
  for (const auto& write : writes) {
    Rig rig({.cache_bytes = size_t{4} << 20});
    rig.map();
    rig.start(0);
    rig.code_at(kText, {0x50});
    uint64_t at = kText + 1;
    for (const uint8_t byte : write) rig.code_at(at++, {byte});
    rig.code_at(at, {0x50, 0xf4});
    GuestCode code;
    read_guest_code(*rig.mmu, rig.model, kText, kText, mode::kSupervisor | mode::kCpl0, {}, code);
    for (unsigned i = 2; i < code.count; ++i)
      EXPECT_FALSE(code.insns[i].in_window) << x86::mnemonic(code.insns[1].insn.opcode);
    ASSERT_GE(code.count, 2u);
    EXPECT_EQ(code.insns[1].at, 1);
  }
}

TEST(StackWindow, FlagsThatArePushedMoveTheStackPointer) {
  // push rbx; pushf; pop rax; push rcx; hlt
  const GuestCode code = read_block({0x53, 0x9c, 0x58, 0x51, 0xf4});
  ASSERT_GE(code.count, 4u);
  EXPECT_TRUE(code.insns[0].in_window && code.insns[2].in_window && code.insns[3].in_window);
  EXPECT_EQ(code.insns[0].window_from, -16);
  EXPECT_EQ(code.insns[0].window_size, 16);
}

// Wherever a page ends among the words that a block pushes and pops: the page below is another one.
TEST(StackWindow, PushesAndPopsAcrossAPageReachTheRightOne) {
  constexpr uint64_t kBoundary = 0x20000, kBelow = 0x150000;  // linear; physical
  for (uint64_t rsp = kBoundary - 64; rsp <= kBoundary + 64; rsp += 8) {
    Rig rig({.cache_bytes = size_t{4} << 20});
    rig.map();
    store_le<uint64_t>(rig.at(kTables + 3 * kPageSize) + 8 * (kBoundary / kPageSize - 1), kBelow | 7);
    rig.start(0);
    // again: push rbx; pushf; pushf; pop rax; push rcx; pop rdx; pop rdi; push rsi; dec ebp; jz done;
    //        pop r8; pop r8; jmp again; done: hlt
    rig.code_at(kText, {0x53, 0x9c, 0x9c, 0x58, 0x51, 0x5a, 0x5f, 0x56, 0xff, 0xcd, 0x74, 0x06, 0x41, 0x58,
                        0x41, 0x58, 0xeb, 0xee, 0xf4});
    x86::CpuState& s = rig.state();
    s.gpr[x86::kRsp] = rsp;
    s.gpr[x86::kRbx] = 0x1111;
    s.gpr[x86::kRcx] = 0x2222;
    s.gpr[x86::kRsi] = 0x3333;
    s.gpr[x86::kRbp] = 3;  // at first nothing is in the TLB
    EXPECT_EQ(rig.interpreter->run(1000), interp::Exit::kHalted) << rsp;
    EXPECT_EQ(s.gpr[x86::kRsp], rsp - 16);
    EXPECT_EQ(s.gpr[x86::kRdx], 0x2222u) << std::hex << rsp;
    EXPECT_EQ(s.gpr[x86::kRax] & ~x86::rflags::kArithmetic, x86::rflags::kFixed1) << std::hex << rsp;
    EXPECT_EQ(s.gpr[x86::kRdi] & ~x86::rflags::kArithmetic, x86::rflags::kFixed1) << std::hex << rsp;
    const auto word_at = [&](uint64_t linear) {
      const uint64_t phys = linear < kBoundary ? linear - (kBoundary - kPageSize) + kBelow : linear;
      return load_le<uint64_t>(rig.at(phys));
    };
    EXPECT_EQ(word_at(rsp - 8), 0x1111u) << std::hex << rsp;
    EXPECT_EQ(word_at(rsp - 16), 0x3333u) << std::hex << rsp;
    // What lies below the boundary in physical memory, and above the other page, is no stack.
    for (const uint64_t page : {kBoundary - kPageSize, kBelow + kPageSize})
      EXPECT_TRUE(
          std::all_of(rig.at(page), rig.at(page + kPageSize), [](std::byte b) { return b == std::byte{}; }))
          << std::hex << rsp;
  }
}

TEST(StackWindow, WideRangesAreLeftOut) {
  // push rax; mov [rsp + 1000], rax; mov [rsp - 1000], rax; hlt
  const GuestCode code = read_block({0x50, 0x48, 0x89, 0x84, 0x24, 0xe8, 0x03, 0x00, 0x00, 0x48, 0x89, 0x84,
                                     0x24, 0x18, 0xfc, 0xff, 0xff, 0xf4});
  ASSERT_GE(code.count, 3u);
  EXPECT_TRUE(code.insns[1].in_window);
  EXPECT_FALSE(code.insns[2].in_window);
}

// A check that nothing has filled must not pass with the distance of an earlier window.
TEST(StackWindow, AnEarlierWindowIsNoWayToPagesThatAreNotThere) {
  for (const uint64_t rsp : {uint64_t{0x100}, uint64_t{0x800}, uint64_t{0}, ~uint64_t{0}, uint64_t{1} << 63,
                             (uint64_t{1} << 63) + 0x100}) {
    Rig rig({.cache_bytes = size_t{4} << 20});
    rig.map();
    rig.start(0);
    // again: push rax; pop rax; dec ecx; jnz again; mov rsp, rbx; cpuid; push rax; hlt
    rig.code_at(kText, {0x50, 0x58, 0xff, 0xc9, 0x75, 0xfa, 0x48, 0x89, 0xdc, 0x0f, 0xa2, 0x50, 0xf4});
    rig.state().gpr[x86::kRcx] = 5;  // the page must be in the TLB first
    rig.state().gpr[x86::kRbx] = rsp;
    EXPECT_EQ(rig.interpreter->run(1000), interp::Exit::kShutdown) << rsp;
    EXPECT_NE(rig.window->hot().cpu.gpr[x86::kRcx], 5u);
    EXPECT_TRUE(std::all_of(rig.at(0), rig.at(kPageSize), [](std::byte b) { return b == std::byte{}; }));
  }
}

}  // namespace
}  // namespace ostler::bt
