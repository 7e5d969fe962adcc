// Rights of pages, for data and code: CR0.WP, SMEP, SMAP, NX, user and supervisor, and the accessed and dirty
// bits (SDM Vol. 3A §4.6, §4.8). Each right is used before it is taken away, so that a kept one would show.
#include "fixture.h"

namespace ostler::test {
namespace {

using interp::Exit;
using x86::kR11;
using x86::kR12;
using x86::kR13;
using x86::kRax;
using x86::kRbp;
using x86::kRbx;
using x86::kRcx;
using x86::kRdi;
using x86::kRsp;

constexpr uint64_t kPage = 0x800000;
constexpr int32_t kData = 0x100;
constexpr uint64_t kRounds = 50;

class Protection : public testing::Test {
 protected:
  Protection() { machine.put(kPage, Code().mov32(kRax, 1).ret()); }
  void map(uint64_t flags) { space.map(kFree, kPage, pte::kP | flags); }
  uint64_t entry() { return machine.peek<uint64_t>(space.entry(kFree)) & 0xfff; }

  // RAX, clobbered, takes a bit of a control register.
  static Code& set_bit(Code& code, unsigned cr, uint8_t bit) {
    return code.from_cr(kRax, cr).raw({0x48, 0x0f, 0xba, 0xe8, bit}).to_cr(cr, kRax);
  }
  static Code& clear_bit(Code& code, unsigned cr, uint8_t bit) {
    return code.from_cr(kRax, cr).raw({0x48, 0x0f, 0xba, 0xf0, bit}).to_cr(cr, kRax);
  }
  static Code& increment(Code& code) { return code.memory({0xff}, 0, kR12, kData); }

  Machine machine;
  Space space{machine};
  Vcpu cpu{machine, space};
};

TEST_F(Protection, WriteProtectionBindsTheSupervisorWhileWpIsSet) {
  map(0);
  Code code;
  code.mov(kR12, kFree).mov(kR13, kRounds);
  const size_t top = code.size();
  clear_bit(code, 0, 16);
  increment(code);
  set_bit(code, 0, 16).load(kRbx, kR12, kData).loop(kR13, top);
  increment(code).hlt();
  EXPECT_EQ(cpu.run(code), Exit::kException);
  expect_page_fault(cpu, kFree + kData, pf::kP | pf::kW);
  EXPECT_EQ(cpu.reg(kRbx), kRounds);
  EXPECT_EQ(cpu.reg(kR13), 0u);
}

TEST_F(Protection, SmepForbidsTheSupervisorUserCode) {
  map(pte::kU | pte::kW);
  Code code;
  code.mov(kR12, kFree).mov(kR13, kRounds);
  const size_t top = code.size();
  code.call(kR12).loop(kR13, top);
  set_bit(code, 4, 20).load(kRbx, kR12, kData).call(kR12).hlt();
  EXPECT_EQ(cpu.run(code), Exit::kException);
  expect_page_fault(cpu, kFree, pf::kP | pf::kI);
  EXPECT_EQ(cpu.s.rip, kFree);
  EXPECT_EQ(cpu.reg(kR13), 0u);
  Code allowed;
  allowed.mov(kR12, kFree);
  clear_bit(allowed, 4, 20).call(kR12).hlt();
  cpu.finish(allowed);
}

TEST_F(Protection, SmapForbidsTheSupervisorUserDataUnlessAcIsSet) {
  map(pte::kU | pte::kW);
  Code code;
  code.mov(kR12, kFree).mov(kR13, kRounds).load(kRbx, kR12, kData);
  set_bit(code, 4, 21);
  const size_t top = code.size();
  code.stac();
  increment(code).load(kRbx, kR12, kData).clac().loop(kR13, top).load(kRbx, kR12, kData).hlt();
  EXPECT_EQ(cpu.run(code), Exit::kException);
  expect_page_fault(cpu, kFree + kData, pf::kP);
  EXPECT_EQ(cpu.reg(kR13), 0u);
  Code write;
  write.mov(kR12, kFree).stac();
  increment(write).clac();
  increment(write).hlt();
  EXPECT_EQ(cpu.run(write), Exit::kException);
  expect_page_fault(cpu, kFree + kData, pf::kP | pf::kW);
  EXPECT_EQ(machine.peek<uint64_t>(kPage + kData), kRounds + 1);
}

TEST_F(Protection, NxForbidsFetchingAndNothingElse) {
  map(pte::kW);
  Code code;
  code.mov(kR12, kFree).mov(kRbp, space.window(kFree)).mov(kR13, kRounds);
  const size_t top = code.size();
  code.call(kR12).loop(kR13, top).load(kRax, kRbp).raw({0x48, 0x0f, 0xba, 0xe8, 63});  // bts rax, 63
  code.store(kRbp, kRax).invlpg(kR12);
  increment(code).load(kRbx, kR12, kData).call(kR12).hlt();
  EXPECT_EQ(cpu.run(code), Exit::kException);
  expect_page_fault(cpu, kFree, pf::kP | pf::kI);
  EXPECT_EQ(cpu.reg(kRbx), 1u);
}

TEST_F(Protection, NxIsReservedWithoutNxe) {
  map(pte::kW | pte::kNx);
  Code code;
  code.mov(kR12, kFree).load(kRbx, kR12, kData).mov(kRcx, 0xc0000080).raw({0x0f, 0x32});  // rdmsr
  code.raw({0x25, 0xff, 0xf7, 0xff, 0xff, 0x0f, 0x30}).load(kRbx, kR12, kData).hlt();     // and; wrmsr
  EXPECT_EQ(cpu.run(code), Exit::kException);
  expect_page_fault(cpu, kFree + kData, pf::kP | pf::kRsvd);
}

TEST_F(Protection, APageMadeReadOnlyIsNotWrittenThroughAKeptRight) {
  map(pte::kW);
  Code code;
  code.mov(kR12, kFree).mov(kRbp, space.window(kFree));
  increment(code).load(kRax, kRbp).raw({0x48, 0x0f, 0xba, 0xf0, 1}).store(kRbp, kRax).invlpg(kR12);
  code.load(kRbx, kR12, kData);
  increment(code).hlt();
  EXPECT_EQ(cpu.run(code), Exit::kException);
  expect_page_fault(cpu, kFree + kData, pf::kP | pf::kW);
  EXPECT_EQ(cpu.reg(kRbx), 1u);
}

// ---- the user ----

class User : public Protection {
 protected:
  static constexpr uint64_t kUserText = kFree + 0x10000, kUserPhys = 0x810000;
  User() { space.map(kUserText, kUserPhys, pte::kP | pte::kU); }
  // Runs `code` at CPL 3.
  Exit run_user(const Code& code) {
    machine.put(kUserPhys, code);
    cpu.set_cpl(3);
    const Exit exit = cpu.go(kUserText);
    cpu.set_cpl(0);
    return exit;
  }
};

TEST_F(User, MayNotTouchWhatTheSupervisorJustTouched) {
  map(pte::kW);
  Code warm;
  warm.mov(kR12, kFree).call(kR12).load(kRax, kR12, kData).store(kR12, kRax, kData).hlt();
  const struct {
    Code code;
    uint64_t address;
    uint32_t error;
  } uses[] = {{Code().mov(kR12, kFree).load(kRax, kR12, kData), kFree + kData, pf::kP | pf::kU},
              {Code().mov(kR12, kFree).store(kR12, kRax, kData), kFree + kData, pf::kP | pf::kU | pf::kW},
              {Code().mov(kR12, kFree).jump(kR12), kFree, pf::kP | pf::kU | pf::kI}};
  for (const auto& use : uses) {
    cpu.finish(warm);
    EXPECT_EQ(run_user(use.code), Exit::kException);
    expect_page_fault(cpu, use.address, use.error);
  }
}

TEST_F(User, MayNotWriteWhatTheSupervisorMayWithoutWp) {
  map(pte::kU);
  Code code;
  code.mov(kR12, kFree);
  clear_bit(code, 0, 16);
  increment(code).hlt();
  cpu.finish(code);
  Code user;
  user.mov(kR12, kFree).load(kRbx, kR12, kData);
  EXPECT_EQ(run_user(std::move(increment(user))), Exit::kException);
  expect_page_fault(cpu, kFree + kData, pf::kP | pf::kU | pf::kW);
  EXPECT_EQ(cpu.reg(kRbx), 1u);
}

TEST_F(User, CodeOfBothRunsForBoth) {
  map(pte::kU);
  Code user;
  user.mov(kR12, kFree).mov(kRsp, kFree + 0x21000).mov(kR13, 20).mov(kRbx, 0);
  space.map(kFree + 0x20000, 0x820000, pte::kP | pte::kW | pte::kU);
  const size_t top = user.size();
  user.call(kR12).add(kRbx, kRax).loop(kR13, top).hlt();
  for (unsigned i = 0; i < 3; ++i) {
    Code code;
    code.mov(kRsp, kStackTop).mov(kR12, kFree).call(kR12).hlt();
    cpu.finish(code);
    EXPECT_EQ(run_user(user), Exit::kException);  // HLT is not for the user
    EXPECT_EQ(cpu.exception().vector, x86::Vector::kGp);
    EXPECT_EQ(cpu.reg(kRbx), 20u);
  }
}

// A kernel that goes to the user by SYSRET and comes back by SYSCALL, with a page that only it may touch.
TEST_F(User, GoesToTheKernelAndBack) {
  map(pte::kW);
  const auto star = (uint64_t{kUserData - 8} | 3) << 48 | uint64_t{kKernelCode} << 32;
  cpu.s.msr.star = star;
  cpu.s.msr.lstar = kText + 0x100;
  Code user;
  user.mov(kR13, kRounds).mov(kRbx, 0);
  const size_t top = user.size();
  user.inc(kRbx).raw({0x0f, 0x05}).loop(kR13, top).mov(kR12, kFree).load(kRax, kR12, kData);
  machine.put(kUserPhys, user);
  Code kernel;  // counts on its page
  kernel.mov(kR12, kFree);
  increment(kernel).raw({0x48, 0x0f, 0x07});  // sysretq
  machine.put(kText + 0x100, kernel);
  Code start;
  start.mov(kRcx, kUserText).mov(kR11, 2).raw({0x48, 0x0f, 0x07});
  EXPECT_EQ(cpu.run(start), Exit::kException);
  expect_page_fault(cpu, kFree + kData, pf::kP | pf::kU);
  EXPECT_EQ(cpu.reg(kRbx), kRounds);
  EXPECT_EQ(machine.peek<uint64_t>(kPage + kData), kRounds);
}

// ---- accessed and dirty ----

class AccessedDirty : public Protection {
 protected:
  // The bits that `use` of the page at R12 sets, when it has been mapped anew.
  uint64_t bits_after(const Code& use) {
    map(pte::kW);
    Code code;
    code.mov(kR12, kFree).mov(kRax, 0).mov(kRcx, 1).invlpg(kR12);
    for (const uint8_t byte : use.bytes()) code.raw({byte});
    cpu.finish(code.hlt());
    return entry() & (pte::kA | pte::kD);
  }
};

TEST_F(AccessedDirty, EachUseSetsItsBits) {
  EXPECT_EQ(bits_after(Code()), 0u);
  EXPECT_EQ(bits_after(Code().load(kRbx, kR12, kData)), pte::kA);
  EXPECT_EQ(bits_after(Code().call(kR12)), pte::kA);
  EXPECT_EQ(bits_after(Code().store(kR12, kRbx, kData)), pte::kA | pte::kD);
  EXPECT_EQ(bits_after(Code().memory({0x01}, kRbx, kR12, kData)), pte::kA | pte::kD);
  EXPECT_EQ(bits_after(Code().raw({0xf0}).memory({0x01}, kRbx, kR12, kData)), pte::kA | pte::kD);
  EXPECT_EQ(bits_after(Code().memory({0x87}, kRbx, kR12, kData)), pte::kA | pte::kD);
  EXPECT_EQ(bits_after(Code().memory({0x0f, 0x11}, 0, kR12, kData)), pte::kA | pte::kD);
  EXPECT_EQ(bits_after(Code().memory({0x0f, 0x10}, 0, kR12, kData)), pte::kA);
  EXPECT_EQ(bits_after(Code().memory({0x39}, kRbx, kR12, kData)), pte::kA);  // cmp
  EXPECT_EQ(bits_after(Code().mov(kRdi, kFree + kData).raw({0xf3, 0xaa})), pte::kA | pte::kD);
}

TEST_F(AccessedDirty, AWriteAfterAReadSetsDirty) {
  EXPECT_EQ(bits_after(Code().load(kRbx, kR12, kData).load(kRbx, kR12, kData).store(kR12, kRbx, kData)),
            pte::kA | pte::kD);
}

TEST_F(AccessedDirty, AreSetAgainAfterTheyWereClearedAndInvalidated) {
  map(pte::kW);
  Code code;
  code.mov(kR12, kFree).mov(kRbp, space.window(kFree)).mov(kR13, 20).mov(kRbx, 0).mov(kRcx, kPage | 3);
  const size_t top = code.size();
  code.store(kRbp, kRcx).invlpg(kR12);
  increment(code).load(kRax, kRbp).raw({0x83, 0xe0, 0x60}).add(kRbx, kRax);  // and eax, A | D
  code.store(kRbp, kRcx).invlpg(kR12).load(kRax, kR12, kData).load(kRax, kRbp).raw({0x83, 0xe0, 0x60});
  code.add(kRbx, kRax).loop(kR13, top).hlt();
  cpu.finish(code);
  EXPECT_EQ(cpu.reg(kRbx), 20u * (0x60 + 0x20));
}

TEST_F(AccessedDirty, AWriteThatFaultsDoesNotSetDirty) {
  map(0);
  Code code;
  code.mov(kR12, kFree).load(kRbx, kR12, kData);
  EXPECT_EQ(cpu.run(std::move(increment(code))), Exit::kException);
  EXPECT_EQ(entry() & pte::kD, 0u);
}

// A page of page tables that also holds code: setting accessed bits writes to it.
TEST_F(AccessedDirty, BitsOnAPageThatHoldsCode) {
  const uint64_t table = space.entry(kFree) & ~uint64_t{4095};
  space.map(kFree + (1 << 20), table, pte::kP | pte::kW);
  map(pte::kW);
  const uint64_t linear = kFree + (1 << 20) + 0xe00;  // entries that nobody uses
  Code code;
  code.mov(kR12, kFree).mov(kRax, 0x800003).mov(kRbp, kFree + (1 << 20)).mov(kR13, 20);
  const size_t top = code.size();
  code.store(kRbp, kRax).invlpg(kR12);
  increment(code).load(kRbx, kR12, kData).loop(kR13, top).hlt();
  machine.put(table + 0xe00, code);
  EXPECT_EQ(cpu.go(linear), Exit::kHalted);
  EXPECT_EQ(cpu.reg(kRbx), 20u);
  EXPECT_EQ(entry() & (pte::kA | pte::kD), pte::kA | pte::kD);
}

}  // namespace
}  // namespace ostler::test
