// Where indirect branches and returns lead that no code can be: addresses that are not canonical, and the
// very last one. Whatever an engine adds to addresses to tell modes apart, such a branch faults, in whatever
// mode the code that it names by mistake has run before.
#include "fixture.h"

namespace ostler::test {
namespace {

using interp::Exit;
using x86::kRax;
using x86::kRbx;
using x86::kRcx;
using x86::kRsp;

constexpr uint64_t kFlags = pte::kP | pte::kW | pte::kA | pte::kD;
constexpr uint64_t kFunction = kFree + 0x10;
constexpr uint64_t kJump = kText, kCaller = kText + 0x100, kDoesReturn = kText + 0x200;

struct Modes {
  const char* name;
  unsigned cpl;
  bool avx;
};

class BranchTargets : public testing::TestWithParam<Modes> {
 protected:
  BranchTargets() {
    for (const uint64_t page : {kText, kStackTop - 4096})
      space.map(page, page, kFlags | pte::kU);  // also without SMAP
    space.map(kFree, 0x800000, kFlags | (GetParam().cpl == 3 ? pte::kU : 0));
    // Of the same meaning in 32-bit code: MOV EAX, 7; HLT. With SSE: MOVD ECX, XMM0.
    machine.put(0x800010, Code().raw({0xb8, 7, 0, 0, 0, 0xf4}));
    machine.put(0x800020, Code().raw({0x66, 0x0f, 0x7e, 0xc1, 0xf4}));
    machine.put(kJump, Code().raw({0xff, 0xe0}));                                     // JMP RAX
    machine.put(kCaller, Code().raw({0xe8, 0xfb, 0, 0, 0, 0xb8, 7, 0, 0, 0, 0xf4}));  // CALL; MOV EAX, 7; HLT
    machine.put(kDoesReturn, Code().raw({0x48, 0x31, 0x1c, 0x24, 0xc3}));             // XOR [RSP], RBX; RET
    if (GetParam().avx) {
      cpu.s.cr4 |= x86::cr4::kOsxsave;
      cpu.s.xcr0 = 7;
    }
    cpu.interpreter.state_changed();
    plain();
  }
  void plain() {
    cpu.s.cr0 &= ~x86::cr0::kTs;
    cpu.set_cpl(GetParam().cpl);
    cpu.reg(kRsp) = kStackTop;
  }
  void without_fpu() {
    plain();
    cpu.s.cr0 |= x86::cr0::kTs;
    cpu.interpreter.cpu().mode_changed();
  }
  void bits32() {
    plain();
    cpu.s.seg[x86::kCs].attributes = GetParam().cpl == 3 ? 0xc0fb : 0xc09b;
    cpu.interpreter.cpu().mode_changed();
  }
  // Until the HLT, which faults for users.
  void jump_to(uint64_t target) {
    cpu.reg(kRax) = target;
    cpu.go(kJump, 1000);
  }
  void expect_fault(uint64_t rip, uint64_t bits) {
    EXPECT_EQ(static_cast<int>(cpu.exception().vector), static_cast<int>(x86::Vector::kGp));
    EXPECT_EQ(cpu.s.rip, rip) << std::hex << bits;
    EXPECT_NE(static_cast<uint32_t>(cpu.reg(kRax)), 7u) << std::hex << bits;
  }
  Machine machine;
  Space space{machine};
  Vcpu cpu{machine, space};
};

TEST_P(BranchTargets, JumpsThatAreNotCanonicalFault) {
  for (unsigned round = 0; round < 2; ++round) {
    bits32();
    jump_to(kFunction);
    ASSERT_EQ(cpu.reg(kRax), 7u);
    without_fpu();
    jump_to(kFunction);
    ASSERT_EQ(cpu.reg(kRax), 7u);
    plain();
    jump_to(kFunction);
    ASSERT_EQ(cpu.reg(kRax), 7u);
    for (const bool fpu : {true, false}) {
      for (uint64_t bits = 1; bits < 256; ++bits) {
        fpu ? plain() : without_fpu();
        jump_to(kFunction ^ bits << 56);
        expect_fault(kJump, bits);
      }
    }
  }
}

TEST_P(BranchTargets, ReturnsThatAreNotCanonicalFault) {
  for (const bool fpu : {true, false}) {
    for (uint64_t bits = 0; bits < 256; ++bits) {
      fpu ? plain() : without_fpu();
      cpu.reg(kRax) = 0;
      cpu.reg(kRbx) = bits << 56;
      cpu.go(kCaller, 1000);
      if (bits == 0)
        EXPECT_EQ(cpu.reg(kRax), 7u);
      else
        expect_fault(kDoesReturn + 4, bits);
    }
  }
}

// SSE code that another process was allowed to run.
TEST_P(BranchTargets, TheOwnerOfTheFpuIsNotFoundByAnotherName) {
  plain();
  cpu.s.vec[0][0] = 0x55;
  cpu.reg(kRcx) = 0;
  jump_to(kFree + 0x20);
  ASSERT_EQ(cpu.reg(kRcx) & 0xff, 0x55u);
  for (uint64_t bits = 0; bits < 256; ++bits) {
    without_fpu();
    cpu.reg(kRcx) = 0;
    jump_to((kFree + 0x20) ^ bits << 56);
    EXPECT_EQ(cpu.reg(kRcx), 0u) << bits;
  }
}

// The code at the end of a page goes away, and comes back.
TEST_P(BranchTargets, TheLastAddressIsNoOtherCodes) {
  constexpr uint64_t kEnd = kFree + 0xffff;
  space.map(kEnd & ~uint64_t{4095}, 0x801000, kFlags | pte::kU);
  machine.put(0x801000, Code().raw({0xb8, 1, 0, 0, 0, 0xf4}));
  machine.put(0x801fff, Code().raw({0xf4}));
  for (unsigned round = 0; round < 3; ++round) {
    plain();
    jump_to(kEnd);
    jump_to(kEnd);
    machine.poke<uint64_t>(space.entry(kEnd), 0);
    cpu.interpreter.cpu().mmu.invlpg(kEnd);
    jump_to(kEnd);
    EXPECT_EQ(cpu.exception().cr2, kEnd);
    space.map(kEnd & ~uint64_t{4095}, 0x801000, kFlags | pte::kU);
    jump_to(kEnd & ~uint64_t{4095});
    ASSERT_EQ(cpu.reg(kRax), 1u);
    jump_to(~uint64_t{0});
    EXPECT_EQ(static_cast<int>(cpu.exception().vector), static_cast<int>(x86::Vector::kPf));
    EXPECT_EQ(cpu.exception().cr2, ~uint64_t{0});
    EXPECT_EQ(cpu.s.rip, ~uint64_t{0});
  }
}

INSTANTIATE_TEST_SUITE_P(Privileges, BranchTargets,
                         testing::Values(Modes{"kernel", 0, false}, Modes{"user", 3, false},
                                         Modes{"kernel_avx", 0, true}, Modes{"user_avx", 3, true}),
                         [](const auto& one) { return std::string(one.param.name); });

}  // namespace
}  // namespace ostler::test
