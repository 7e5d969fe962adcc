// 32-bit code in compatibility mode: flat segments, which a translator may take for granted, and the moment
// when they are not.
#include "fixture.h"

namespace ostler::test {
namespace {

using interp::Exit;
using x86::kRax;
using x86::kRbp;
using x86::kRbx;
using x86::kRcx;
using x86::kRdi;
using x86::kRdx;
using x86::kRsi;
using x86::kRsp;

constexpr uint64_t kTop = 0xffff'f000, kTopPhys = 0x900000;
constexpr uint64_t kBytes = 0x111'2222'3333'4444;

class Flat32 : public testing::Test {
 protected:
  Flat32() {
    space.map(kTop, kTopPhys, pte::kP | pte::kW);
    cpu.s.seg[x86::kCs].attributes = 0xc09b;
    cpu.interpreter.cpu().mode_changed();
  }
  // Until HLT, from an ESP that is kStackTop unless the test has set another.
  void finish(const Code& code) {
    EXPECT_EQ(cpu.run(code), Exit::kHalted)
        << "exception " << static_cast<int>(cpu.exception().vector) << " at " << std::hex << cpu.s.rip;
  }
  uint32_t low(unsigned reg) { return static_cast<uint32_t>(cpu.reg(reg)); }
  // A data segment, as descriptor `index` of the GDT.
  uint16_t segment(unsigned index, uint32_t base, uint32_t limit, bool pages, unsigned type = 0x93) {
    const uint64_t low = uint64_t{base & 0xffffff} << 16 | (limit & 0xffff);
    const uint64_t high =
        uint64_t{base >> 24} << 24 | (pages ? 0xc0u : 0x40u) << 16 | (limit & 0xf0000) | type << 8;
    machine.poke<uint64_t>(kGdt + 8 * index, high << 32 | low);
    cpu.s.gdtr.limit = static_cast<uint16_t>(std::max<unsigned>(cpu.s.gdtr.limit, 8 * index + 7));
    return static_cast<uint16_t>(8 * index);
  }
  Machine machine;
  Space space{machine};
  Vcpu cpu{machine, space};
};

TEST_F(Flat32, ALoopComputes) {
  // xor eax, eax; mov ecx, 1000; again: add eax, ecx; dec ecx; jnz again; inc edi; hlt
  finish(Code().raw({0x31, 0xc0, 0xb9, 0xe8, 3, 0, 0, 0x01, 0xc8, 0x49, 0x75, 0xfb, 0x47, 0xf4}));
  EXPECT_EQ(cpu.reg(kRax), 500500u);
  EXPECT_EQ(cpu.reg(kRcx), 0u);
  EXPECT_EQ(low(kRdi), 1u);
}

TEST_F(Flat32, UpperHalvesOfRegistersDoNotCount) {
  for (unsigned i = 0; i < 8; ++i) cpu.reg(i) |= 0x5a5a'0000'0000'0000;
  cpu.reg(kRbx) = 0xffff'ffff'0000'0000 | kHeap;
  cpu.reg(kRcx) = 0x1'0000'0000;
  machine.poke<uint32_t>(kHeap + 8, 77);
  // push ebx; pop edx; mov eax, [ebx + 8]; jecxz over; ud2; over: call f; hlt; f: mov esi, [esp]; ret
  finish(Code().raw(
      {0x53, 0x5a, 0x8b, 0x43, 8, 0xe3, 2, 0x0f, 0x0b, 0xe8, 1, 0, 0, 0, 0xf4, 0x8b, 0x34, 0x24, 0xc3}));
  EXPECT_EQ(low(kRax), 77u);
  EXPECT_EQ(low(kRdx), kHeap);
  EXPECT_EQ(low(kRsi), kText + 14);
  EXPECT_EQ(low(kRsp), kStackTop);
}

TEST_F(Flat32, RegistersThatOnly64BitCodeHasStayAsTheyWere) {
  for (unsigned i = 8; i < 16; ++i) cpu.reg(i) = kBytes * i;
  finish(Code().raw({0xb8, 1, 0, 0, 0, 0x50, 0x5b, 0xf4}));
  for (unsigned i = 8; i < 16; ++i) EXPECT_EQ(cpu.reg(i), kBytes * i) << i;
}

TEST_F(Flat32, StackOperandsHaveFourBytes) {
  machine.poke<uint32_t>(kStackTop, 0xabababab);
  // push -2; push 0x12345678; pop eax; push [esp]; pop ebx; push esp; pop ecx; enter 8, 0; leave; pop edx;
  // hlt
  finish(Code().raw({0x6a, 0xfe, 0x68, 0x78, 0x56, 0x34, 0x12, 0x58, 0xff, 0x34, 0x24,
                     0x5b, 0x54, 0x59, 0xc8, 8,    0,    0,    0xc9, 0x5a, 0xf4}));
  EXPECT_EQ(low(kRax), 0x12345678u);
  EXPECT_EQ(low(kRbx), 0xfffffffeu);
  EXPECT_EQ(low(kRcx), kStackTop - 4);
  EXPECT_EQ(low(kRdx), 0xfffffffeu);
  EXPECT_EQ(low(kRsp), kStackTop);
  EXPECT_EQ(machine.peek<uint32_t>(kStackTop), 0xabababab);
}

TEST_F(Flat32, CallsReturnWhereTheStackSays) {
  // call f; inc eax; hlt; nop; f: add dword [esp], 1; ret 8   (over the INC)
  finish(Code().raw({0x31, 0xc0, 0xe8, 3, 0, 0, 0, 0x40, 0xf4, 0x90, 0x83, 0x04, 0x24, 1, 0xc2, 8, 0}));
  EXPECT_EQ(low(kRax), 0u);
  EXPECT_EQ(low(kRsp), kStackTop + 8);
  // mov ebx, f; call ebx; hlt; f: ret
  finish(Code().raw({0xbb, 8, 0, 1, 0, 0xff, 0xd3, 0xf4, 0xc3}));
  EXPECT_EQ(low(kRsp), kStackTop + 8);
}

TEST_F(Flat32, EncodingsOfTheirOwn) {
  machine.poke<uint32_t>(kHeap, 41);
  // mov eax, [kHeap]; inc eax; mov [kHeap + 4], eax; mov al, [kHeap]; dec esp; inc esp; add bl, 3 by 82; hlt
  finish(Code().raw({0x31, 0xdb, 0xa1, 0, 0, 3,    0,    0x40, 0xa3, 4, 0,    3,    0,
                     0xa0, 0,    0,    3, 0, 0x4c, 0x44, 0x82, 0xc3, 3, 0x66, 0x4b, 0xf4}));
  EXPECT_EQ(machine.peek<uint32_t>(kHeap + 4), 42u);
  EXPECT_EQ(low(kRax), 41u);
  EXPECT_EQ(low(kRbx), 2u);
  EXPECT_EQ(low(kRsp), kStackTop);
}

// ---- 4 GiB ----

TEST_F(Flat32, AddressesWrap) {
  machine.poke<uint32_t>(kHeap, 0x600d);
  machine.poke<uint32_t>(kTopPhys + 0xffc, 0x700d);
  cpu.reg(kRbx) = 0xffff'fff0;
  cpu.reg(kRcx) = kHeap / 4;
  // mov eax, [ebx + ecx * 4 + 16]; mov edx, [ebx + 12]; lea esi, [ebx + ebx]; mov edi, [-4]; hlt
  finish(Code().raw(
      {0x8b, 0x44, 0x8b, 16, 0x8b, 0x53, 12, 0x8d, 0x34, 0x1b, 0x8b, 0x3d, 0xfc, 0xff, 0xff, 0xff, 0xf4}));
  EXPECT_EQ(cpu.reg(kRax), 0x600du);
  EXPECT_EQ(cpu.reg(kRdx), 0x700du);
  EXPECT_EQ(cpu.reg(kRsi), 0xffff'ffe0u);
  EXPECT_EQ(cpu.reg(kRdi), 0x700du);
}

TEST_F(Flat32, TheStackPointerWraps) {
  cpu.reg(kRsp) = 0x100;
  // push 1; sub esp, 0x200; mov dword [esp + 0x240], 2; add esp, 0x200; pop eax; hlt
  finish(Code().raw({0x6a, 1, 0x81, 0xec, 0, 2,    0,    0, 0xc7, 0x84, 0x24, 0x40, 2,   0,
                     0,    2, 0,    0,    0, 0x81, 0xc4, 0, 2,    0,    0,    0x58, 0xf4}));
  EXPECT_EQ(machine.peek<uint32_t>(0x100 - 4 + 0x40), 2u);
  EXPECT_EQ(low(kRax), 1u);
  EXPECT_EQ(cpu.reg(kRsp), 0x100u);

  cpu.reg(kRsp) = 0;
  // push 3; pop ebx; push 4; hlt
  finish(Code().raw({0x6a, 3, 0x5b, 0x6a, 4, 0xf4}));
  EXPECT_EQ(low(kRbx), 3u);
  EXPECT_EQ(machine.peek<uint32_t>(kTopPhys + 0xffc), 4u);
  EXPECT_EQ(cpu.reg(kRsp), 0xffff'fffcu);

  // pop ecx; mov edx, [esp - 4]; add esp, 0x400; push 5; hlt
  finish(Code().raw({0x59, 0x8b, 0x54, 0x24, 0xfc, 0x81, 0xc4, 0, 4, 0, 0, 0x6a, 5, 0xf4}));
  EXPECT_EQ(low(kRcx), 4u);
  EXPECT_EQ(low(kRdx), 4u);
  EXPECT_EQ(machine.peek<uint32_t>(0x3fc), 5u);
  EXPECT_EQ(cpu.reg(kRsp), 0x3fcu);
}

TEST_F(Flat32, AccessesNearEachOtherWrap) {
  machine.poke<uint32_t>(kTopPhys + 0xff8, 1);
  machine.poke<uint32_t>(kTopPhys + 0xffc, 2);
  machine.poke<uint32_t>(4, 3);
  cpu.reg(kRbx) = 0xffff'fff8;
  for (unsigned round = 0; round < 3; ++round) {
    // xor ecx, ecx; mov eax, [ebx]; add eax, [ebx + 4]; add eax, [ebx + 12]; mov [ebx + 16], eax; hlt
    finish(Code().raw({0x31, 0xc9, 0x8b, 0x03, 0x03, 0x43, 4, 0x03, 0x43, 12, 0x89, 0x43, 16, 0xf4}));
    EXPECT_EQ(low(kRax), 6u);
    EXPECT_EQ(machine.peek<uint32_t>(8), 6u);
  }
}

TEST_F(Flat32, AccessesThatWrapAreNotTo64BitAddresses) {
  constexpr uint64_t kAbove = uint64_t{1} << 32, kAbovePhys = 0x901000;
  space.map(kAbove, kAbovePhys, pte::kP | pte::kW);
  cpu.s.seg[x86::kCs].attributes = 0xa09b;
  cpu.interpreter.cpu().mode_changed();
  cpu.reg(kRbx) = kAbove;
  finish(Code().load(kRax, kRbx).hlt());
  cpu.s.seg[x86::kCs].attributes = 0xc09b;
  cpu.interpreter.cpu().mode_changed();
  machine.poke<uint32_t>(4, 3);
  machine.poke<uint32_t>(8, 4);
  cpu.reg(kRbx) = 0xffff'fff8;
  // xor ecx, ecx; mov eax, [ebx + 12]; add eax, [ebx + 16]; hlt
  finish(Code().raw({0x31, 0xc9, 0x8b, 0x43, 12, 0x03, 0x43, 16, 0xf4}));
  EXPECT_EQ(low(kRax), 7u);
}

TEST_F(Flat32, AReadAcrossTheLimitFaultsWhateverLiesBeyond) {
  space.map(uint64_t{1} << 32, 0x901000, pte::kP | pte::kW);
  cpu.reg(kRbx) = 0xffff'fffe;
  EXPECT_EQ(cpu.run(Code().raw({0x8b, 0x03, 0xf4})), Exit::kException);  // mov eax, [ebx]
  EXPECT_EQ(cpu.exception().vector, x86::Vector::kGp);
}

// The sum of ESP and a distance is in 32 bits when it is looked up, too: 64-bit code may have used an address
// 4 GiB further on.
TEST_F(Flat32, TheStackPointerWrapsBesideAnAddressOf64BitCode) {
  constexpr uint64_t kAbove = uint64_t{1} << 32, kAbovePhys = 0x901000;
  space.map(kAbove, kAbovePhys, pte::kP | pte::kW);
  cpu.s.seg[x86::kCs].attributes = 0xa09b;
  cpu.interpreter.cpu().mode_changed();
  cpu.reg(kRbx) = kAbove;
  finish(Code().store(kRbx, kRbx).hlt());
  cpu.s.seg[x86::kCs].attributes = 0xc09b;
  cpu.interpreter.cpu().mode_changed();
  for (unsigned round = 0; round < 2; ++round) {
    cpu.reg(kRsp) = 0xffff'fff0;
    // add esp, 0x100; push 7; pop eax; push 8; hlt
    finish(Code().raw({0x81, 0xc4, 0, 1, 0, 0, 0x6a, 7, 0x58, 0x6a, 8, 0xf4}));
    EXPECT_EQ(low(kRax), 7u);
    EXPECT_EQ(cpu.reg(kRsp), 0xecu);
    EXPECT_EQ(machine.peek<uint32_t>(0xec), 8u);
    EXPECT_EQ(machine.peek<uint32_t>(kAbovePhys + 0xec), 0u);
  }
}

TEST_F(Flat32, BranchesWrap) {
  // At 0: hlt. At the end of 4 GiB: jmp 0, by a distance that leads beyond.
  machine.put(0, Code().hlt());
  machine.put(kTopPhys + 0xffe - 6, Code().raw({0x90, 0xe9, 0x2, 0, 0, 0}));
  EXPECT_EQ(cpu.go(0xffff'fff8), Exit::kHalted);
  EXPECT_EQ(cpu.s.rip, 1u);
  // call -16, from 0x800
  machine.put(0x800, Code().raw({0xe8, 0xeb, 0xf7, 0xff, 0xff}));
  machine.put(kTopPhys + 0xff0, Code().raw({0x5d, 0xf4}));
  EXPECT_EQ(cpu.go(0x800), Exit::kHalted);
  EXPECT_EQ(cpu.s.rip, 0xffff'fff2u);
  EXPECT_EQ(low(kRbp), 0x805u);
}

TEST_F(Flat32, AnInstructionAcrossTheLimitFaults) {
  machine.put(kTopPhys + 0xffe, Code().raw({0xb8, 1}));
  EXPECT_EQ(cpu.go(0xffff'fffe), Exit::kException);
  EXPECT_EQ(cpu.exception().vector, x86::Vector::kGp);
}

// ---- segments ----

TEST_F(Flat32, ALimitThatComesBetweenTwoRunsOfABlockCounts) {
  const uint16_t small = segment(6, 0, kHeap + 3, false);
  machine.poke<uint32_t>(kHeap + 0x10, 5);
  // again: mov eax, [ebx]; add edx, eax; dec ecx; jnz again; hlt; load: mov ds, esi; jmp again
  machine.put(kText, Code().raw({0x8b, 0x03, 0x01, 0xc2, 0x49, 0x75, 0xf9, 0xf4, 0x8e, 0xde, 0xeb, 0xf4}));
  const auto run = [&](uint64_t at, uint64_t address, uint64_t selector) {
    cpu.reg(kRbx) = address;
    cpu.reg(kRcx) = 3;
    cpu.reg(kRdx) = 0;
    cpu.reg(kRsi) = selector;
    return cpu.go(at);
  };
  EXPECT_EQ(run(kText, kHeap + 0x10, 0), Exit::kHalted);
  EXPECT_EQ(low(kRdx), 15u);
  EXPECT_EQ(run(kText + 8, kHeap + 0x10, small), Exit::kException);
  EXPECT_EQ(cpu.exception().vector, x86::Vector::kGp);
  EXPECT_EQ(low(kRdx), 0u);
  EXPECT_EQ(run(kText, kHeap, small), Exit::kHalted);
  EXPECT_EQ(run(kText + 8, kHeap + 0x10, kKernelData), Exit::kHalted);
  EXPECT_EQ(low(kRdx), 15u);
}

TEST_F(Flat32, BasesAndReadOnlySegmentsCount) {
  const uint16_t based = segment(6, 0x10, 0xfffff, true), constant = segment(7, 0, 0xfffff, true, 0x91);
  machine.poke<uint32_t>(kHeap, 1);
  machine.poke<uint32_t>(kHeap + 0x10, 2);
  // mov ds, esi; mov eax, [ebx]; mov [ebx], ecx; hlt
  const Code code = Code().raw({0x8e, 0xde, 0x8b, 0x03, 0x89, 0x0b, 0xf4});
  cpu.reg(kRbx) = kHeap;
  cpu.reg(kRcx) = 9;
  cpu.reg(kRsi) = kKernelData;
  finish(code);
  EXPECT_EQ(low(kRax), 1u);
  cpu.reg(kRsi) = based;
  finish(code);
  EXPECT_EQ(low(kRax), 2u);
  EXPECT_EQ(machine.peek<uint32_t>(kHeap + 0x10), 9u);
  cpu.reg(kRsi) = constant;
  EXPECT_EQ(cpu.run(code), Exit::kException);
  EXPECT_EQ(cpu.exception().vector, x86::Vector::kGp);
  EXPECT_EQ(low(kRax), 9u);
}

TEST_F(Flat32, GsHasABaseThatWraps) {
  const uint16_t thread = segment(6, kHeap + 0x1000, 0xfffff, true);
  machine.poke<uint32_t>(kHeap + 0x1008, 3);
  machine.poke<uint32_t>(kHeap + 0xff0, 4);
  // mov gs, esi; mov eax, gs:[8]; mov ecx, gs:[-16]; add ecx, gs:[ebx + edx * 4]; lea edi, gs:[ebx]; hlt
  cpu.reg(kRsi) = thread;
  cpu.reg(kRbx) = 0xffff'fff8;
  cpu.reg(kRdx) = 4;
  finish(Code().raw({0x8e, 0xee, 0x65, 0xa1, 8,    0,    0,    0,    0x65, 0x8b, 0x0d, 0xf0,
                     0xff, 0xff, 0xff, 0x65, 0x03, 0x0c, 0x93, 0x65, 0x8d, 0x3b, 0xf4}));
  EXPECT_EQ(low(kRax), 3u);
  EXPECT_EQ(low(kRcx), 7u);
  EXPECT_EQ(low(kRdi), 0xffff'fff8u);
}

TEST_F(Flat32, GsMayBeNullOrLimitedOrConstant) {
  const uint16_t small = segment(6, kHeap, 7, false), constant = segment(7, kHeap, 0xfffff, true, 0x91);
  // mov gs, esi; mov eax, gs:[ebx]; mov gs:[ebx], eax; hlt
  const Code code = Code().raw({0x8e, 0xee, 0x65, 0x8b, 0x03, 0x65, 0x89, 0x03, 0xf4});
  const auto run = [&](uint64_t selector, uint64_t offset) {
    cpu.reg(kRsi) = selector;
    cpu.reg(kRbx) = offset;
    return cpu.run(code);
  };
  EXPECT_EQ(run(kKernelData, kHeap), Exit::kHalted);
  EXPECT_EQ(run(small, 4), Exit::kHalted);
  EXPECT_EQ(run(small, 5), Exit::kException);
  EXPECT_EQ(cpu.s.rip, kText + 2);
  EXPECT_EQ(run(0, kHeap), Exit::kException);
  EXPECT_EQ(cpu.s.rip, kText + 2);
  EXPECT_EQ(run(constant, 0), Exit::kException);
  EXPECT_EQ(cpu.s.rip, kText + 5);
}

TEST_F(Flat32, CodeMayNotBeWrittenThroughCs) {
  // mov eax, cs:[ebx]; mov cs:[ebx], eax; hlt
  cpu.reg(kRbx) = kHeap;
  EXPECT_EQ(cpu.run(Code().raw({0x2e, 0x8b, 0x03, 0x2e, 0x89, 0x03, 0xf4})), Exit::kException);
  EXPECT_EQ(cpu.exception().vector, x86::Vector::kGp);
  EXPECT_EQ(cpu.s.rip, kText + 3);
}

TEST_F(Flat32, ASixteenBitStackSegmentUsesSp) {
  const uint16_t sixteen = segment(6, 0, 0xfffff, true);
  machine.poke<uint8_t>(kGdt + 6 * 8 + 6, 0x8f);  // without B
  cpu.reg(kRsi) = sixteen;
  cpu.reg(kRsp) = 0x20000;
  // mov ss, esi; push 1; push 2; hlt
  finish(Code().raw({0x8e, 0xd6, 0x6a, 1, 0x6a, 2, 0xf4}));
  EXPECT_EQ(low(kRsp), 0x2fff8u);
  EXPECT_EQ(machine.peek<uint32_t>(0xfff8), 2u);
}

// ---- faults and changes of code ----

TEST_F(Flat32, AFaultShowsTheAddressAndChangesNothing) {
  space.map(kHeap + 4096, 0, 0);
  cpu.interpreter.cpu().mmu.flush_all();
  cpu.reg(kRbx) = kHeap + 4096 - 2;
  cpu.reg(kRsp) = kHeap + 4096 + 4;
  cpu.reg(kRax) = 1;
  EXPECT_EQ(cpu.run(Code().raw({0x40, 0x01, 0x03, 0xf4})), Exit::kException);  // inc eax; add [ebx], eax
  expect_page_fault(cpu, kHeap + 4096, pf::kW);
  EXPECT_EQ(cpu.s.rip, kText + 1);
  EXPECT_EQ(low(kRax), 2u);
  EXPECT_EQ(cpu.run(Code().raw({0x90, 0x50, 0x50, 0xf4})), Exit::kException);  // push eax; push eax
  EXPECT_EQ(cpu.s.rip, kText + 1);
  EXPECT_EQ(low(kRsp), kHeap + 4096 + 4);
}

TEST_F(Flat32, CodeThatRewritesItselfRunsAsWritten) {
  // mov ecx, 50; again: mov [value], ecx; call f; add edx, eax; dec ecx; jnz again; hlt; f: mov eax, 0; ret
  cpu.reg(kRdx) = 0;
  finish(Code().raw({0xb9, 50,   0,    0,    0,    0x89, 0x0d, 0x19, 0,    1,    0, 0xe8, 0x08, 0, 0,
                     0,    0x01, 0xc2, 0x49, 0x75, 0xf0, 0xf4, 0x90, 0x90, 0xb8, 0, 0,    0,    0, 0xc3}));
  EXPECT_EQ(low(kRdx), 50u * 51 / 2);
}

TEST_F(Flat32, RepeatedStringsGoUpToTheEnd) {
  for (unsigned i = 0; i < 16; ++i) machine.poke<uint32_t>(kHeap + 4 * i, i);
  cpu.reg(kRsi) = 0x7'0000'0000 | kHeap;
  cpu.reg(kRdi) = 0xffff'ffc0;
  cpu.reg(kRcx) = 0x8'0000'0010;
  finish(Code().raw({0xfc, 0xf3, 0xa5, 0xf4}));  // rep movsd
  for (unsigned i = 0; i < 16; ++i) EXPECT_EQ(machine.peek<uint32_t>(kTopPhys + 0xfc0 + 4 * i), i);
  EXPECT_EQ(low(kRdi), 0u);
  EXPECT_EQ(low(kRsi), kHeap + 0x40);
  EXPECT_EQ(low(kRcx), 0u);
}

}  // namespace
}  // namespace ostler::test
