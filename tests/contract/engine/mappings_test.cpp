// Mappings that guest code changes and then announces by INVLPG: stale translations of code and data must not
// survive it (SDM Vol. 3A §4.10.4), and a page that was not there needs no announcement (§4.10.2.3).
#include "fixture.h"

namespace ostler::test {
namespace {

using interp::Exit;
using x86::kR12;
using x86::kR13;
using x86::kR8;
using x86::kR9;
using x86::kRax;
using x86::kRbp;
using x86::kRbx;
using x86::kRcx;
using x86::kRdx;

constexpr uint64_t kFirst = 0x800000, kSecond = 0x801000;  // physical pages
constexpr uint64_t kRounds = 100;                          // half of them see each page

class Mappings : public testing::Test {
 protected:
  Mappings() {
    machine.put(kFirst, Code().mov32(kRax, 1).ret());
    machine.put(kSecond, Code().mov32(kRax, 1000).ret());
    space.map(kFree, kFirst, flags);
    window = space.window(kFree);
  }
  // A loop that turns the page at kFree over, INVLPGs it and then executes `use`.
  Code turning(const Code& use) {
    Code code;
    code.mov(kR12, kFree).mov(kRbp, window).mov(kR8, kFirst | flags).mov(kR9, kFirst ^ kSecond);
    code.mov(kR13, kRounds).mov(kRbx, 0);
    const size_t top = code.size();
    code.raw({0x4d, 0x31, 0xc8}).store(kRbp, kR8).invlpg(kR12);  // xor r8, r9
    for (const uint8_t byte : use.bytes()) code.raw({byte});
    return std::move(code.loop(kR13, top).hlt());
  }

  static constexpr uint64_t flags = pte::kP | pte::kW | pte::kA | pte::kD;
  Machine machine;
  Space space{machine};
  Vcpu cpu{machine, space};
  uint64_t window;  // where the guest sees the entry of kFree
};

TEST_F(Mappings, ARemappedFunctionIsFetchedFromItsNewPage) {
  cpu.finish(turning(Code().call(kR12).add(kRbx, kRax)));
  EXPECT_EQ(cpu.reg(kRbx), kRounds / 2 * 1001);
}

TEST_F(Mappings, RemappedDataIsReadFromItsNewPage) {
  machine.poke<uint64_t>(kFirst + 0x100, 1);
  machine.poke<uint64_t>(kSecond + 0x100, 1000);
  cpu.finish(turning(Code().load(kRax, kR12, 0x100).add(kRbx, kRax)));
  EXPECT_EQ(cpu.reg(kRbx), kRounds / 2 * 1001);
}

TEST_F(Mappings, RemappedDataIsWrittenToItsNewPage) {
  machine.poke<uint64_t>(kFirst + 0x100, 0);
  machine.poke<uint64_t>(kSecond + 0x100, 0);
  cpu.finish(turning(Code().memory({0xff}, 0, kR12, 0x100)));  // inc
  EXPECT_EQ(machine.peek<uint64_t>(kFirst + 0x100), kRounds / 2);
  EXPECT_EQ(machine.peek<uint64_t>(kSecond + 0x100), kRounds / 2);
}

TEST_F(Mappings, ARemappedStackIsTheNewOne) {
  const Code use = Code().raw({0x49, 0x8d, 0xa4, 0x24, 0, 8, 0, 0}).raw({0x68, 1, 0, 0, 0}).raw({0x58});
  cpu.finish(turning(use));  // lea rsp, [r12+0x800]; push 1; pop rax
  EXPECT_EQ(machine.peek<uint64_t>(kFirst + 0x7f8), 1u);
  EXPECT_EQ(machine.peek<uint64_t>(kSecond + 0x7f8), 1u);
}

// The code that turns the page over runs on the page beside it, and falls into it.
TEST_F(Mappings, ExecutionThatFallsIntoARemappedPage) {
  constexpr uint64_t kBefore = 0x802000;
  space.map(kFree - 4096, kBefore, flags);
  machine.put(kBefore + 4090, Code().nops(6));
  const Code use = Code().raw({0x49, 0x8d, 0x84, 0x24, 0xfa, 0xff, 0xff, 0xff}).call(kRax).add(kRbx, kRax);
  cpu.finish(turning(use));  // lea rax, [r12-6]; call rax
  EXPECT_EQ(cpu.reg(kRbx), kRounds / 2 * 1001);
}

// A direct jump from one page to another, taken often.
TEST_F(Mappings, AJumpIntoARemappedPage) {
  constexpr uint64_t kBefore = 0x802000;
  space.map(kFree - 4096, kBefore, flags);
  machine.put(kBefore, Code().raw({0xe9, 0xfb, 0x0f, 0, 0}));  // jmp kFree
  const Code use = Code().raw({0x49, 0x8d, 0x84, 0x24, 0, 0xf0, 0xff, 0xff}).call(kRax).add(kRbx, kRax);
  cpu.finish(turning(use));
  EXPECT_EQ(cpu.reg(kRbx), kRounds / 2 * 1001);
}

TEST_F(Mappings, APageTakenAwayFaultsInEveryWay) {
  Code warm;
  warm.mov(kR12, kFree).call(kR12).load(kRax, kR12, 0x200).store(kR12, kRax, 0x200).hlt();
  cpu.finish(warm);
  Code code;
  code.mov(kR12, kFree).mov(kRbp, window).mov(kRcx, 0).store(kRbp, kRcx).invlpg(kR12);
  struct Use {
    Code code;
    uint64_t address;
    uint32_t error;
  };
  const Use uses[] = {
      {Code().load(kRax, kR12, 0x200), kFree + 0x200, 0},
      {Code().store(kR12, kRax, 0x200), kFree + 0x200, pf::kW},
      {Code().memory({0x01}, kRax, kR12, 0x200), kFree + 0x200, pf::kW},
      {Code().call(kR12), kFree, pf::kI},
      {Code().memory({0xff}, 6, kR12, 0x200), kFree + 0x200, 0},  // push
  };
  for (const Use& use : uses) {
    machine.poke<uint64_t>(space.entry(kFree), kFirst | flags);
    cpu.finish(warm);
    Code all = code;
    for (const uint8_t byte : use.code.bytes()) all.raw({byte});
    EXPECT_EQ(cpu.run(all.hlt()), Exit::kException);
    expect_page_fault(cpu, use.address, use.error);
  }
}

TEST_F(Mappings, APageThatAppearsNeedsNoInvalidation) {
  machine.poke<uint64_t>(kFirst + 0x200, 77);
  const Code uses[] = {Code().mov(kR12, kFree).load(kRax, kR12, 0x200).hlt(),
                       Code().mov(kR12, kFree).store(kR12, kRax, 0x200).hlt(),
                       Code().mov(kR12, kFree).call(kR12).hlt()};
  for (const Code& use : uses) {
    Code away;
    away.mov(kR12, kFree).mov(kRbp, window).mov(kRcx, 0).store(kRbp, kRcx).invlpg(kR12).hlt();
    cpu.finish(away);
    EXPECT_EQ(cpu.run(use), Exit::kException);
    EXPECT_EQ(cpu.exception().vector, x86::Vector::kPf);
    machine.poke<uint64_t>(space.entry(kFree), kFirst | flags);
    EXPECT_EQ(cpu.again(), Exit::kHalted);
  }
}

TEST_F(Mappings, ALargePageIsForgottenByAnyAddressInIt) {
  constexpr uint64_t kLarge = 0xa00000, kLinear = kFree + (4 << 20);
  for (uint64_t page = 0; page < 8; ++page) {
    machine.poke<uint64_t>(kLarge + page * 4096, page);
    machine.poke<uint64_t>(kFirst + page * 4096, 100 + page);
  }
  // A table with small pages to put in its place.
  Space other(machine);
  for (uint64_t page = 0; page < 8; ++page) other.map(kLinear + page * 4096, kFirst + page * 4096, flags);
  const uint64_t small = machine.peek<uint64_t>(other.entry(kLinear, 2));
  const uint64_t large = kLarge | flags | pte::kPs;
  for (unsigned round = 0; round < 3; ++round) {
    space.map(kLinear, kLarge, flags | pte::kPs, 2);
    Code code;
    code.mov(kRbp, space.window(kLinear, 2)).mov(kR12, kLinear);
    const auto sum = [&](unsigned to) {
      code.mov(to, 0);
      for (int32_t page = 0; page < 8; ++page) code.load(kRax, kR12, page * 4096).add(to, kRax);
    };
    code.mov(kRcx, large).store(kRbp, kRcx).invlpg(kR12);
    sum(kRbx);
    code.mov(kRcx, small).store(kRbp, kRcx).mov(kRdx, kLinear + 0x5000).invlpg(kRdx);
    sum(kR13);
    code.hlt();
    cpu.finish(code);
    EXPECT_EQ(cpu.reg(kRbx), 28u);
    EXPECT_EQ(cpu.reg(kR13), 828u);
  }
}

// The walk for an instruction's other page sets its accessed bit, on a page where code lies too.
TEST_F(Mappings, ACrossingInstructionWhosePageTablesAreCode) {
  constexpr uint64_t kOther = kFree + 4096;
  // MOV EAX, 5, of which two bytes lie on the first page; RET
  machine.put(kFirst + 4094, Code().raw({0xb8, 5}));
  machine.put(kSecond, Code().raw({0, 0, 0, 0xc3}));
  space.map(kOther, kSecond, flags);
  const uint64_t entry = space.entry(kOther), in_tables = space.window(kFree + 4 * 4096);
  machine.put(space.entry(kFree + 4 * 4096), Code().ret());
  const Code cross = Code().mov(kR12, kFree + 4094).call(kR12).hlt();
  for (unsigned round = 0; round < 12; ++round) {
    cpu.finish(cross);
    machine.poke<uint64_t>(entry, machine.peek<uint64_t>(entry) & ~pte::kA);
    cpu.finish(Code().mov(kR12, in_tables).call(kR12).hlt());
    cpu.interpreter.cpu().mmu.invlpg(kOther);
    cpu.reg(kRax) = 0;
    cpu.finish(cross);
    EXPECT_EQ(cpu.reg(kRax), 5u);
    EXPECT_NE(machine.peek<uint64_t>(entry) & pte::kA, 0u);
  }
}

}  // namespace
}  // namespace ostler::test
