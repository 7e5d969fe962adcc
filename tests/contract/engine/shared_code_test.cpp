// One physical page of user code at several linear addresses, as a library is in the processes of a system:
// an engine that shares what it makes of it must still tell the places apart.
#include "fixture.h"

namespace ostler::test {
namespace {

using interp::Exit;
using x86::kR12;
using x86::kRax;
using x86::kRbx;
using x86::kRcx;
using x86::kRdx;
using x86::kRsp;

constexpr uint64_t kPhys = 0x800000;  // two pages, one behind the other
constexpr uint64_t kFlags = pte::kP | pte::kW | pte::kU | pte::kA | pte::kD;
constexpr uint64_t kPlaces[] = {kFree, kFree + 0x1234'5000, kFree + 0x7fff'0000'0000 - 2 * kFree,
                                kFree + 0x10'0000};
constexpr uint64_t kStack = kFree + 0x1000'0000;
constexpr uint32_t kFunction = 0x20, kData = 0x400, kOther = 0x1010;  // from kPhys

class SharedCode : public testing::Test {
 protected:
  SharedCode() {
    for (const uint64_t place : kPlaces) map(place);
    space.map(kStack, 0x900000, kFlags);
    machine.poke<uint64_t>(kPhys + kData, 0x1122'3344'5566'7788);
    put(0, Code().raw({0xe8}), kFunction).put_byte(0xf4);
    put(kFunction, Code().raw({0x48, 0x8d, 0x05}), kFunction + 7);  // LEA RAX, [next]
    append(Code().raw({0x48, 0x8b, 0x15}), kData);                  // MOV RDX, [data]
    append(Code().raw({0xe8}), kOther).put_byte(0xc3);
    put(kOther, Code().raw({0x48, 0x8d, 0x0d}), kOther + 7).put_byte(0xc3);  // LEA RCX, [next]
    // Programs may use AVX: other user code is not shared.
    cpu.s.cr4 |= x86::cr4::kOsfxsr | x86::cr4::kOsxsave;
    cpu.s.xcr0 = 7;
    cpu.interpreter.state_changed();
    cpu.set_cpl(3);
  }
  void map(uint64_t place) {
    space.map(place, kPhys, kFlags);
    space.map(place + 4096, kPhys + 4096, kFlags);
  }
  // Code that ends with a 32-bit distance to `target`.
  SharedCode& put(uint64_t at, const Code& code, uint64_t target) {
    machine.put(kPhys + at, code);
    machine.poke<uint32_t>(kPhys + at + code.size(), static_cast<uint32_t>(target - (at + code.size() + 4)));
    end_ = at + code.size() + 4;
    return *this;
  }
  SharedCode& append(const Code& code, uint64_t target) { return put(end_, code, target); }
  void put_byte(uint8_t byte) { machine.poke<uint8_t>(kPhys + end_++, byte); }

  Exit go(uint64_t rip) {
    cpu.reg(kRsp) = kStack + 0x800;
    return cpu.go(rip);
  }
  // User code may not HLT.
  void expect_end(uint64_t rip) {
    EXPECT_EQ(static_cast<int>(cpu.exception().vector), static_cast<int>(x86::Vector::kGp));
    EXPECT_EQ(cpu.s.rip, rip);
  }

  Machine machine;
  Space space{machine};
  Vcpu cpu{machine, space};
  uint64_t end_ = 0;
};

TEST_F(SharedCode, KnowsWhereItRuns) {
  for (unsigned round = 0; round < 3; ++round) {
    for (const uint64_t place : kPlaces) {
      EXPECT_EQ(go(place), Exit::kException);
      expect_end(place + 5);
      EXPECT_EQ(cpu.reg(kRax), place + kFunction + 7);
      EXPECT_EQ(cpu.reg(kRcx), place + kOther + 7);
      EXPECT_EQ(cpu.reg(kRdx), 0x1122'3344'5566'7788u);
      EXPECT_EQ(cpu.reg(kRsp), kStack + 0x800);
    }
  }
}

TEST_F(SharedCode, CallsOfOnePlaceFromAnother) {
  // CALL R12, which is the function at another place.
  machine.put(kPhys + 0x80, Code().call(kR12).raw({0xf4}));
  for (unsigned round = 0; round < 3; ++round) {
    for (const uint64_t from : kPlaces) {
      for (const uint64_t to : kPlaces) {
        cpu.reg(kR12) = to + kFunction;
        go(from + 0x80);
        expect_end(from + 0x83);
        EXPECT_EQ(cpu.reg(kRax), to + kFunction + 7);
        EXPECT_EQ(cpu.reg(kRcx), to + kOther + 7);
      }
    }
  }
}

TEST_F(SharedCode, ReturnsWhereTheStackSays) {
  // The callee moves its return address by R12, to the same place in another copy.
  machine.put(kPhys + 0x80, Code().raw({0xe8, 0x0b, 0, 0, 0, 0xf4}));
  machine.put(kPhys + 0x90, Code().raw({0x4c, 0x01, 0x24, 0x24}).ret());  // ADD [RSP], R12
  for (unsigned round = 0; round < 3; ++round) {
    for (const uint64_t from : kPlaces) {
      for (const uint64_t to : kPlaces) {
        cpu.reg(kR12) = to - from;
        go(from + 0x80);
        expect_end(to + 0x85);
      }
    }
  }
}

TEST_F(SharedCode, FaultsWhereItRuns) {
  machine.put(kPhys + 0x80, Code().nops(3).load(kRax, kRbx));
  machine.put(kPhys + 0xc0, Code().nops(1).raw({0x48, 0xf7, 0xf1}));  // DIV RCX
  for (const uint64_t place : kPlaces) {
    cpu.reg(kRbx) = 0x123000;
    EXPECT_EQ(go(place + 0x80), Exit::kException);
    expect_page_fault(cpu, 0x123000, pf::kP | pf::kU);
    EXPECT_EQ(cpu.s.rip, place + 0x83);
    cpu.reg(kRcx) = 0;
    EXPECT_EQ(go(place + 0xc0), Exit::kException);
    EXPECT_EQ(static_cast<int>(cpu.exception().vector), static_cast<int>(x86::Vector::kDe));
    EXPECT_EQ(cpu.s.rip, place + 0xc1);
  }
}

TEST_F(SharedCode, BranchesToNowhereFaultWhereTheyAre) {
  machine.put(kPhys + 0x80, Code().raw({0xe8, 0x0b, 0, 0, 0, 0xf4}));
  machine.put(kPhys + 0x90, Code().raw({0x4c, 0x89, 0x24, 0x24}).ret());  // MOV [RSP], R12
  machine.put(kPhys + 0xa0, Code().jump(kR12));
  for (const uint64_t place : kPlaces) {
    cpu.reg(kR12) = uint64_t{1} << 62;
    go(place + 0x80);
    EXPECT_EQ(static_cast<int>(cpu.exception().vector), static_cast<int>(x86::Vector::kGp));
    EXPECT_EQ(cpu.s.rip, place + 0x94);
    go(place + 0xa0);
    EXPECT_EQ(static_cast<int>(cpu.exception().vector), static_cast<int>(x86::Vector::kGp));
    EXPECT_EQ(cpu.s.rip, place + 0xa0);
  }
}

// The second page of one of the places is another than that of the others.
TEST_F(SharedCode, NeighboursMayDiffer) {
  machine.put(0x810000 + (kOther & 0xfff), Code().mov32(kRcx, 77).ret());
  space.map(kPlaces[2] + 4096, 0x810000, kFlags);
  for (unsigned round = 0; round < 3; ++round) {
    for (const uint64_t place : kPlaces) {
      go(place);
      expect_end(place + 5);
      EXPECT_EQ(cpu.reg(kRcx), place == kPlaces[2] ? 77u : place + kOther + 7);
    }
  }
}

TEST_F(SharedCode, ItIsForgottenWhenItsPageIsWritten) {
  for (const uint64_t place : kPlaces) go(place);
  machine.put(kPhys + kOther, Code().mov32(kRcx, 78).ret());
  for (const uint64_t place : kPlaces) {
    go(place);
    EXPECT_EQ(cpu.reg(kRcx), 78u);
  }
}

TEST_F(SharedCode, ItIsNotRunWhereItsPageIsNotAnyMore) {
  for (const uint64_t place : kPlaces) go(place);
  machine.put(0x810000, Code().mov32(kRcx, 79).raw({0xf4}));
  for (const uint64_t place : kPlaces) {
    space.map(place, 0x810000, kFlags);
    cpu.interpreter.cpu().mmu.invlpg(place);
    go(place);
    EXPECT_EQ(cpu.reg(kRcx), 79u);
  }
}

// Stack accesses on both sides of a page's boundary, at the place that was first, too, after another one has
// run the code.
TEST_F(SharedCode, StacksMayCrossPages) {
  space.map(kStack + 4096, 0x901000, kFlags);
  // PUSH RAX; PUSH RBX; POP RAX; POP RBX; HLT
  machine.put(kPhys + 0x80, Code().raw({0x50, 0x53, 0x58, 0x5b, 0xf4}));
  go(kPlaces[0]);
  go(kPlaces[1] + 0x80);
  for (const uint64_t top : {0x800, 0x1004, 0x1008}) {
    for (unsigned round = 0; round < 3; ++round) {
      for (const uint64_t place : kPlaces) {
        cpu.reg(kRax) = 11;
        cpu.reg(kRbx) = 22;
        cpu.reg(kRsp) = kStack + top;
        ASSERT_EQ(cpu.go(place + 0x80, 1000), Exit::kException);
        expect_end(place + 0x84);
        EXPECT_EQ(cpu.reg(kRax), 22u);
        EXPECT_EQ(cpu.reg(kRbx), 11u);
      }
    }
  }
}

// Deep calls, more than any stack of return addresses that an engine may keep.
TEST_F(SharedCode, DeepRecursion) {
  constexpr uint64_t kDepth = 60'000;
  for (uint64_t page = 0; page < 0x80'000; page += 4096)
    space.map(kStack + 0x10'0000 + page, 0xa00000 + page % 0x100'000, kFlags);
  // DEC R12; JZ over; CALL self; RET
  machine.put(kPhys + 0x80, Code().raw({0x49, 0xff, 0xcc, 0x74, 0x05, 0xe8, 0xf6, 0xff, 0xff, 0xff, 0xc3}));
  machine.put(kPhys + 0xa0, Code().raw({0xe8, 0xdb, 0xff, 0xff, 0xff, 0xf4}));
  for (unsigned round = 0; round < 2; ++round) {
    for (const uint64_t place : kPlaces) {
      cpu.reg(kR12) = kDepth;
      cpu.reg(kRsp) = kStack + 0x18'0000;
      cpu.go(place + 0xa0);
      expect_end(place + 0xa5);
      EXPECT_EQ(cpu.reg(kRsp), kStack + 0x18'0000);
    }
  }
}

// The stack overflows between two words that belong together, as it may when other code's calls, of which an
// odd number lies below, take one word each; and returns come back to where it began.
TEST_F(SharedCode, CallsAfterAnOverflow) {
  constexpr uint64_t kDepth = 60'000, kOwn = kFree + 0x2000'0000, kTop = kStack + 0x18'0000;
  for (uint64_t page = 0; page < 0x80'000; page += 4096)
    space.map(kStack + 0x10'0000 + page, 0xa00000 + page % 0x100'000, kFlags);
  // DEC R12; JZ over; CALL self; CALL leaf; RET
  machine.put(kPhys + 0x80, Code().raw({0x49, 0xff, 0xcc, 0x74, 0x0a, 0xe8, 0xf6, 0xff, 0xff, 0xff}));
  machine.put(kPhys + 0x8a, Code().raw({0xe8, 0x01, 0, 0, 0, 0xc3, 0xc3}));
  space.map(kOwn, 0xb00000, kFlags);
  // From two places of code that nobody shares: CALL R13, behind none or one other.
  machine.put(0xb00000, Code().raw({0x41, 0xff, 0xd5, 0xf4}));
  machine.put(0xb00010, Code().raw({0xe8, 0xeb, 0xff, 0xff, 0xff, 0xf4}));
  machine.put(0xb00020, Code().raw({0xe8, 0xeb, 0xff, 0xff, 0xff, 0xf4}));
  for (unsigned round = 0; round < 3; ++round) {
    for (const uint64_t place : kPlaces) {
      for (const uint64_t start : {0x00, 0x10, 0x20}) {
        cpu.reg(kR12) = kDepth;
        cpu.reg(x86::kR13) = place + 0x80;
        cpu.reg(kRsp) = kTop;
        cpu.go(kOwn + start);
        expect_end(kOwn + 3);
        EXPECT_EQ(cpu.reg(kRsp), kTop - start / 2);
      }
    }
  }
}

}  // namespace
}  // namespace ostler::test
