// Code that its own vCPU changes: whatever writes it, wherever it lies, the next time it is reached it runs
// as written (SDM Vol. 3A §8.1.3, §11.6; processors follow at once, and programs rely on it).
#include "fixture.h"

namespace ostler::test {
namespace {

using interp::Exit;
using x86::kR12;
using x86::kR13;
using x86::kR14;
using x86::kRax;
using x86::kRbp;
using x86::kRbx;
using x86::kRcx;
using x86::kRdi;
using x86::kRsi;
using x86::kRsp;

constexpr uint64_t kFunction = 0x18000;  // mov eax, imm32; ret
constexpr uint32_t kRounds = 200, kSum = kRounds * (kRounds + 1) / 2;

Code function(uint32_t value) {
  return Code().mov32(kRax, value).ret();
}

struct Way {
  const char* name;
  // Makes the function at R12 return R13D. May use RAX, RCX, RSI, RDI, R14 and kHeap.
  void (*write)(Code&);
};
void PrintTo(const Way& way, std::ostream* out) {
  *out << way.name;
}

// RAX = the function's first eight bytes, shifted up by `skip` bytes.
void whole_function(Code& code, unsigned skip) {
  code.move(kRax, kR13).raw({0x48, 0xc1, 0xe0, static_cast<uint8_t>(8 * (skip + 1))});  // shl
  code.mov(kR14, 0xb8ull << 8 * skip | (skip == 0 ? 0xc3ull << 40 : 0))
      .raw({0x4c, 0x09, 0xf0});  // or rax, r14
}

const Way kWays[] = {
    {"store", [](Code& c) { c.store32(kR12, kR13, 1); }},
    {"bytes",
     [](Code& c) {
       c.move(kRax, kR13);
       for (int i = 1; i <= 4; ++i)
         c.memory({0x88}, kRax, kR12, i).raw({0xc1, 0xe8, 8});  // mov [r12+i], al; shr eax, 8
     }},
    {"exchange", [](Code& c) { c.move(kRax, kR13).memory({0x87}, kRax, kR12, 1, false); }},
    {"read_modify_write",
     [](Code& c) {
       c.move(kRax, kR13).memory({0x2b}, kRax, kR12, 1, false);  // sub eax, [r12+1]
       c.memory({0x01}, kRax, kR12, 1, false);                   // add [r12+1], eax
     }},
    {"locked",
     [](Code& c) {
       c.move(kRax, kR13).memory({0x2b}, kRax, kR12, 1, false);
       c.raw({0xf0}).memory({0x0f, 0xc1}, kRax, kR12, 1, false);  // lock xadd
     }},
    {"compare_exchange",
     [](Code& c) {
       c.memory({0x8b}, kRax, kR12, 1, false).move(kRcx, kR13);
       c.raw({0xf0}).memory({0x0f, 0xb1}, kRcx, kR12, 1, false);
     }},
    {"string_move",
     [](Code& c) {
       c.mov(kRsi, kHeap).store(kRsi, kR13).raw({0x49, 0x8d, 0x7c, 0x24, 1});  // lea rdi, [r12+1]
       c.mov(kRcx, 4).raw({0xf3, 0xa4});
     }},
    {"string_store",
     [](Code& c) {
       c.raw({0x49, 0x8d, 0x7c, 0x24, 1}).move(kRax, kR13).mov(kRcx, 1).raw({0xf3, 0xab});
     }},
    {"vector",
     [](Code& c) {
       c.raw({0x66, 0x41, 0x0f, 0x6e, 0xc5}).raw({0x66}).memory({0x0f, 0x7e}, 0, kR12, 1, false);
     }},
    {"vector_block",
     [](Code& c) {
       whole_function(c, 0);
       c.mov(kRsi, kHeap).store(kRsi, kRax).memory({0x0f, 0x10}, 0, kRsi, 0, false);
       c.memory({0x0f, 0x11}, 0, kR12, 0, false);  // movups
     }},
    {"x87",
     [](Code& c) {
       c.mov(kRsi, kHeap).store(kRsi, kR13).memory({0xdb}, 0, kRsi, 0, false);
       c.memory({0xdb}, 3, kR12, 1, false);  // fistp dword
     }},
    {"non_temporal",
     [](Code& c) {
       c.memory({0x0f, 0xc3}, kR13, kR12, 1, false);
     }},
    {"push",
     [](Code& c) {
       whole_function(c, 0);
       c.move(kRsi, kRsp).raw({0x49, 0x8d, 0x64, 0x24, 8}).raw({0x50});  // lea rsp, [r12+8]; push rax
       c.move(kRsp, kRsi);
     }},
    {"across_pages", [](Code& c) { whole_function(c, 3), c.store(kR12, kRax, -3); }},
};

class WrittenBy : public testing::TestWithParam<Way> {};

// A guest that makes code: writes a function and calls it, again and again.
TEST_P(WrittenBy, TheFunctionReturnsWhatWasWritten) {
  Machine machine;
  Space space(machine);
  Vcpu cpu(machine, space);
  machine.put(kFunction, function(0));
  Code code;
  code.mov(kR12, kFunction).mov(kR13, kRounds).mov(kRbx, 0);
  const size_t top = code.size();
  GetParam().write(code);
  code.call(kR12).add(kRbx, kRax).loop(kR13, top).hlt();
  cpu.finish(code);
  EXPECT_EQ(cpu.reg(kRbx), kSum);
}
INSTANTIATE_TEST_SUITE_P(CodeChanges, WrittenBy, testing::ValuesIn(kWays),
                         [](const auto& param) { return param.param.name; });

// The same with the function elsewhere: `at` is where.
uint64_t sum_of_rewritten_function(uint64_t at) {
  Machine machine;
  Space space(machine);
  Vcpu cpu(machine, space);
  machine.put(at, function(0));
  Code code;
  code.mov(kR12, at).mov(kR13, kRounds).mov(kRbx, 0);
  const size_t top = code.size();
  code.store32(kR12, kR13, 1).call(kR12).add(kRbx, kRax).loop(kR13, top).hlt();
  EXPECT_LT(code.size(), 64u);
  cpu.finish(code);
  return cpu.reg(kRbx);
}
TEST(CodeChanges, AFunctionOnThePageOfItsWriter) {
  EXPECT_EQ(sum_of_rewritten_function(kText + 0x800), kSum);
}
TEST(CodeChanges, AFunctionBesideItsWriter) {
  EXPECT_EQ(sum_of_rewritten_function(kText + 64), kSum);
}
TEST(CodeChanges, AFunctionAcrossPages) {
  for (uint64_t before = 1; before < 6; ++before)
    EXPECT_EQ(sum_of_rewritten_function(kFunction - before), kSum) << before;
}

// A function on the stack, as trampolines of nested functions are.
TEST(CodeChanges, AFunctionOnTheStack) {
  Machine machine;
  Space space(machine);
  Vcpu cpu(machine, space);
  Code code;
  code.mov(kR13, kRounds).mov(kRbx, 0).mov(kRbp, 0);
  const size_t top = code.size();
  whole_function(code, 0);
  code.raw({0x50}).call(kRsp).add(kRbx, kRax);     // push rax; call rsp
  code.raw({0x48, 0xff, 0xc5});                    // inc rbp: now and then the stack grows
  code.raw({0x40, 0xf6, 0xc5, 1, 0x74, 1, 0x59});  // test bpl, 1; jz +1; pop rcx
  code.loop(kR13, top).hlt();
  cpu.finish(code);
  EXPECT_EQ(cpu.reg(kRbx), kSum);
}

// ---- writing ahead ----

TEST(CodeChanges, AnInstructionAheadRunsAsWrittenAtAnyDistance) {
  for (const size_t distance : {0, 1, 2, 7, 30, 63, 64, 100, 300}) {
    Machine machine;
    Space space(machine);
    Vcpu cpu(machine, space);
    for (const uint8_t value : {uint8_t{7}, uint8_t{9}}) {
      Code code;
      code.mov(kRbx, kText);
      const size_t target = code.size() + 8 + distance + 1;
      code.store8(kRbx, value, static_cast<int32_t>(target)).nops(distance).mov32(kRcx, 1).hlt();
      ASSERT_EQ(code.bytes()[target], 1);
      cpu.finish(code);
      EXPECT_EQ(cpu.reg(kRcx), value) << distance;
      // As it was, without being told of a change: the write above has left 'value' there.
      EXPECT_EQ(cpu.go(kText), Exit::kHalted);
      EXPECT_EQ(cpu.reg(kRcx), value) << distance;
    }
  }
}

TEST(CodeChanges, AnInstructionAheadThatWasRunBeforeInALoop) {
  Machine machine;
  Space space(machine);
  Vcpu cpu(machine, space);
  Code code;
  code.mov(kRbx, kText).mov(kR13, 100).mov(kRax, 0);
  const size_t top = code.size();
  // inc byte [the immediate of the add]; add eax, imm8
  const size_t target = top + 7 + 2;
  code.memory({0xfe}, 0, kRbx, static_cast<int32_t>(target), false);
  code.raw({0x83, 0xc0, 0}).loop(kR13, top).hlt();
  ASSERT_EQ(code.bytes()[target], 0);
  cpu.finish(code);
  EXPECT_EQ(cpu.reg(kRax), 100u * 101 / 2);
}

TEST(CodeChanges, ARepeatedStoreOverWhatFollowsIt) {
  Machine machine;
  Space space(machine);
  Vcpu cpu(machine, space);
  Code code;
  code.mov(kRdi, 0).mov(kRcx, 16).mov(kRax, 0x90).mov(kRbx, 0);
  code.raw({0xf3, 0xaa});  // rep stosb
  const size_t after = code.size();
  for (unsigned i = 0; i < 16; ++i) code.raw({0xf4});
  code.inc(kRbx).hlt();
  Code with_address;
  with_address.mov(kRdi, kText + after);
  std::vector<uint8_t> bytes = code.bytes();
  machine.put(kText, code);
  machine.put(kText, with_address);
  EXPECT_EQ(cpu.go(kText), Exit::kHalted);
  EXPECT_EQ(cpu.reg(kRbx), 1u);
}

// The target of a jump that has been taken often.
TEST(CodeChanges, ABranchFollowsItsNewDisplacement) {
  Machine machine;
  Space space(machine);
  Vcpu cpu(machine, space);
  Code code;
  code.mov(kR12, kText).mov(kRax, 0).mov(kRbx, 0).mov(kRbp, 20);
  const size_t outer = code.size();
  code.mov(kR13, 50);
  const size_t inner = code.size();
  const size_t displacement = code.size() + 1;
  code.raw({0xeb, 0});            // jmp +0 or +5
  code.inc(kRax).raw({0xeb, 3});  // rax counts; jmp over
  code.inc(kRbx);                 // rbx counts
  code.loop(kR13, inner);
  code.memory({0x80}, 6, kR12, static_cast<int32_t>(displacement), false).raw({5});  // xor byte, 5
  code.loop(kRbp, outer).hlt();
  cpu.finish(code);
  EXPECT_EQ(cpu.reg(kRax), 500u);
  EXPECT_EQ(cpu.reg(kRbx), 500u);
}

// ---- aliases ----

TEST(CodeChanges, AWriteThroughAnotherAddressIsSeenThroughAll) {
  Machine machine;
  Space space(machine);
  Vcpu cpu(machine, space);
  for (const uint64_t alias : {kFree, kFree + 0x1000}) space.map(alias, kFunction, pte::kP | pte::kW);
  machine.put(kFunction, function(0));
  Code code;
  code.mov(kR12, kFree).mov(kRsi, kFunction).mov(kRdi, kFree + 0x1000).mov(kR13, kRounds).mov(kRbx, 0);
  code.mov(kRbp, 0);
  const size_t top = code.size();
  code.store32(kR12, kR13, 1).call(kRsi).add(kRbx, kRax).call(kRdi).add(kRbp, kRax);
  code.loop(kR13, top).hlt();
  cpu.finish(code);
  EXPECT_EQ(cpu.reg(kRbx), kSum);
  EXPECT_EQ(cpu.reg(kRbp), kSum);
}

TEST(CodeChanges, AWriteAheadThroughAnotherAddress) {
  Machine machine;
  Space space(machine);
  Vcpu cpu(machine, space);
  space.map(kFree, kText, pte::kP | pte::kW);
  Code code;
  code.mov(kRbx, kFree);
  const size_t target = code.size() + 8 + 4 + 1;
  code.store8(kRbx, 5, static_cast<int32_t>(target)).nops(4).mov32(kRcx, 1).hlt();
  cpu.finish(code);
  EXPECT_EQ(cpu.reg(kRcx), 5u);
}

// ---- code and data together ----

TEST(CodeChanges, DataOnThePageOfItsCodeIsCounted) {
  for (const uint64_t distance : {64, 128, 0x900}) {
    Machine machine;
    Space space(machine);
    Vcpu cpu(machine, space);
    Code code;
    code.mov(kRbx, kText + distance).mov(kRcx, 20'000);
    const size_t top = code.size();
    code.memory({0xff}, 0, kRbx).loop(kRcx, top).hlt();
    EXPECT_LT(code.size(), distance);
    cpu.finish(code);
    EXPECT_EQ(machine.peek<uint64_t>(kText + distance), 20'000u);
  }
}

TEST(CodeChanges, DataInTheMiddleOfCode) {
  Machine machine;
  Space space(machine);
  Vcpu cpu(machine, space);
  Code code;
  code.mov(kRbx, kText).mov(kRcx, 5'000);
  const size_t top = code.size();
  const size_t data = top + 7 + 2;
  code.memory({0xff}, 0, kRbx, static_cast<int32_t>(data)).raw({0xeb, 8, 0, 0, 0, 0, 0, 0, 0, 0});
  code.loop(kRcx, top).hlt();
  cpu.finish(code);
  EXPECT_EQ(machine.peek<uint64_t>(kText + data), 5'000u);
}

// A page that held one program and then holds another, as page caches do.
TEST(CodeChanges, APageCopiedOverRunsItsNewCode) {
  constexpr uint64_t kImages = 0x100000;
  Machine machine;
  Space space(machine);
  Vcpu cpu(machine, space);
  for (uint32_t image = 0; image < 4; ++image)
    for (uint64_t at = 0; at < 4096; at += 256)
      machine.put(kImages + image * 4096 + at, function(image * 1000 + static_cast<uint32_t>(at)));
  for (unsigned round = 0; round < 12; ++round) {
    const unsigned image = round % 4;
    Code code;
    code.mov(kRsi, kImages + image * 4096).mov(kRdi, kFunction).mov(kRcx, 512).raw({0xf3, 0x48, 0xa5});
    code.mov(kRbx, 0);
    for (uint64_t at = 0; at < 4096; at += 1024) code.mov(kRbp, kFunction + at).call(kRbp).add(kRbx, kRax);
    code.hlt();
    cpu.finish(code);
    EXPECT_EQ(cpu.reg(kRbx), image * 4000u + 6144);
  }
}

TEST(CodeChanges, APageClearedRunsAsZeroes) {
  Machine machine;
  Space space(machine);
  Vcpu cpu(machine, space);
  machine.put(kFunction, function(1));
  Code code;
  code.mov(kRbp, kFunction).call(kRbp).mov(kRdi, kFunction).mov(kRcx, 512).mov(kRax, 0);
  code.raw({0xf3, 0x48, 0xab}).mov(kRax, kFree).call(kRbp).hlt();  // add [rax], al: nothing is mapped there
  EXPECT_EQ(cpu.run(code), Exit::kException);
  EXPECT_EQ(cpu.s.rip, kFunction);
  expect_page_fault(cpu, kFree, pf::kW);
}

// ---- with faults ----

TEST(CodeChanges, AFaultAfterAWriteAheadLeavesTheNewCode) {
  Machine machine;
  Space space(machine);
  Vcpu cpu(machine, space);
  Code code;
  code.mov(kRbx, kText).mov(kRbp, kFree);
  const size_t target = code.size() + 8 + 7 + 1;
  code.store8(kRbx, 5, static_cast<int32_t>(target)).load(kRax, kRbp).mov32(kRcx, 1).hlt();
  EXPECT_EQ(cpu.run(code), Exit::kException);
  expect_page_fault(cpu, kFree, 0);
  EXPECT_EQ(cpu.s.rip, kText + target - 8);
  space.map(kFree, kHeap, pte::kP);
  EXPECT_EQ(cpu.again(), Exit::kHalted);
  EXPECT_EQ(cpu.reg(kRcx), 5u);
}

// A store over the end of a page of code into a page that is not there: nothing is written.
TEST(CodeChanges, AStoreThatFaultsOnItsSecondPageChangesNothing) {
  Machine machine;
  Space space(machine);
  Vcpu cpu(machine, space);
  space.map(kFree, kFunction, pte::kP | pte::kW);
  machine.put(kFunction + 4096 - 6, function(3));
  Code call;
  call.mov(kRbx, kFree + 4096 - 6).call(kRbx).hlt();
  cpu.finish(call);
  EXPECT_EQ(cpu.reg(kRax), 3u);
  Code code;
  code.mov(kRbx, kFree + 4096 - 4).mov(kRcx, ~uint64_t{0}).store(kRbx, kRcx).hlt();
  EXPECT_EQ(cpu.run(code), Exit::kException);
  expect_page_fault(cpu, kFree + 4096, pf::kW);
  cpu.reg(kRax) = 0;
  cpu.finish(call);
  EXPECT_EQ(cpu.reg(kRax), 3u);
}

}  // namespace
}  // namespace ostler::test
