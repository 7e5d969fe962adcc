// The ends of pages: instructions and accesses that cross them, code that stops just before them.
#include "fixture.h"

namespace ostler::test {
namespace {

using interp::Exit;
using x86::kR12;
using x86::kR13;
using x86::kRax;
using x86::kRbx;
using x86::kRcx;
using x86::kRsp;

// Two pages that follow each other, and do not in physical memory.
constexpr uint64_t kFirst = 0x900000, kSecond = 0x800000, kBoundary = kFree + 4096;
constexpr uint64_t kFlags = pte::kP | pte::kW;

class PageEdges : public testing::Test {
 protected:
  PageEdges() {
    map(kFree, kFirst, kFlags);
    map(kBoundary, kSecond, kFlags);
  }
  void map(uint64_t linear, uint64_t phys, uint64_t flags) {
    space.map(linear, phys, flags);
    Code code;
    code.mov(kRax, linear).invlpg(kRax).hlt();
    cpu.finish(code);
  }
  // Puts the code at kFree + `offset`, over both pages as it comes.
  void put(uint64_t offset, const Code& code) {
    for (const uint8_t byte : code.bytes()) {
      machine.poke(offset < 4096 ? kFirst + offset : kSecond + offset - 4096, byte);
      ++offset;
    }
  }
  Machine machine;
  Space space{machine};
  Vcpu cpu{machine, space};
};

// ---- code ----

TEST_F(PageEdges, AnInstructionRunsAcrossThem) {
  Code code;
  code.mov(kRbx, 0x1122334455667788).hlt();
  for (uint64_t before = 1; before < 10; ++before) {
    put(4096 - before, code);
    cpu.reg(kRbx) = 0;
    EXPECT_EQ(cpu.go(kBoundary - before), Exit::kHalted);
    EXPECT_EQ(cpu.reg(kRbx), 0x1122334455667788u) << before;
  }
}

TEST_F(PageEdges, AnInstructionWhoseEndIsMissingFaultsWhereItIsMissing) {
  Code code;
  code.nops(2).mov(kRbx, 0x1122334455667788).hlt();
  for (uint64_t before = 1; before < 10; ++before) {
    put(4096 - 2 - before, code);
    map(kBoundary, 0, 0);
    cpu.reg(kRbx) = 0;
    EXPECT_EQ(cpu.go(kBoundary - 2 - before), Exit::kException);
    expect_page_fault(cpu, kBoundary, pf::kI);
    EXPECT_EQ(cpu.s.rip, kBoundary - before);
    EXPECT_EQ(cpu.reg(kRbx), 0u);
    const uint64_t rip = cpu.s.rip;
    map(kBoundary, kSecond, kFlags);
    EXPECT_EQ(cpu.go(rip), Exit::kHalted);
    EXPECT_EQ(cpu.reg(kRbx), 0x1122334455667788u);
  }
}

TEST_F(PageEdges, AnInstructionWhoseEndIsRemappedIsFetchedAnew) {
  constexpr uint64_t kOther = 0x880000;
  machine.put(kOther, Code().raw({0x22, 0, 0, 0}).ret());
  put(4095, Code().mov32(kRax, 0x11).ret());
  machine.poke<uint8_t>(kFirst + 4095, 0xb8);
  Code code;
  code.mov(kRcx, space.window(kBoundary)).mov(kR12, kBoundary).mov(kR13, 50).mov(kRbx, 0);
  code.mov(x86::kR8, kSecond | kFlags).mov(x86::kR9, kSecond ^ kOther).mov(x86::kRdi, kBoundary - 1);
  const size_t top = code.size();
  code.raw({0x4d, 0x31, 0xc8}).store(kRcx, x86::kR8).invlpg(kR12).call(x86::kRdi).add(kRbx, kRax);
  code.loop(kR13, top).hlt();
  cpu.finish(code);
  EXPECT_EQ(cpu.reg(kRbx), 25u * 0x33);
}

TEST_F(PageEdges, ALoopThatEndsItsPageDoesNotNeedTheNext) {
  map(kBoundary, 0, 0);
  // 1: inc rbx; cmp rbx, rcx; je 2f; jmp 1b (the page ends here); 2 is before 1: hlt
  Code code;
  code.hlt();
  const size_t top = code.size();
  code.inc(kRbx).compare(kRbx, kRcx).jcc(4, 0);
  code.raw({0xeb, static_cast<uint8_t>(top - (code.size() + 2))});
  put(4096 - code.size(), code);
  cpu.reg(kRbx) = 0;
  cpu.reg(kRcx) = 500;
  EXPECT_EQ(cpu.go(kBoundary - code.size() + top), Exit::kHalted);
  EXPECT_EQ(cpu.reg(kRbx), 500u);
}

TEST_F(PageEdges, ExecutionThatLeavesItsPageFaultsAtTheNext) {
  map(kBoundary, 0, 0);
  Code code;
  code.inc(kRbx).inc(kRbx).inc(kRbx);
  put(4096 - code.size(), code);
  for (uint64_t round = 1; round < 5; ++round) {
    EXPECT_EQ(cpu.go(kBoundary - code.size()), Exit::kException);
    expect_page_fault(cpu, kBoundary, pf::kI);
    EXPECT_EQ(cpu.s.rip, kBoundary);
    EXPECT_EQ(cpu.reg(kRbx), 3 * round);
  }
}

// A conditional jump whose other way leads off the page.
TEST_F(PageEdges, AConditionalJumpAtTheEndTakesTheWayThatIsThere) {
  map(kBoundary, 0, 0);
  Code code;
  const size_t top = code.size();
  code.nops(4).loop(kRcx, top);
  put(4096 - code.size(), code);
  cpu.reg(kRcx) = 100;
  EXPECT_EQ(cpu.go(kBoundary - code.size()), Exit::kException);
  expect_page_fault(cpu, kBoundary, pf::kI);
  EXPECT_EQ(cpu.s.rip, kBoundary);
  EXPECT_EQ(cpu.reg(kRcx), 0u);
}

// ---- data ----

// An instruction on [RBX] of `size` bytes; RAX, RCX and XMM0 are free.
struct AccessKind {
  const char* name;
  uint64_t size;
  bool reads, writes;
  std::initializer_list<uint8_t> code;
};
const AccessKind kAccesses[] = {
    {"load2", 2, true, false, {0x66, 0x8b, 0x03}},
    {"load4", 4, true, false, {0x8b, 0x03}},
    {"load8", 8, true, false, {0x48, 0x8b, 0x03}},
    {"load_zero_extended", 2, true, false, {0x0f, 0xb7, 0x03}},
    {"load_load_compare", 8, true, false, {0x48, 0x39, 0x03}},
    {"store2", 2, false, true, {0x66, 0x89, 0x03}},
    {"store4", 4, false, true, {0x89, 0x03}},
    {"store8", 8, false, true, {0x48, 0x89, 0x03}},
    {"store_immediate", 8, false, true, {0x48, 0xc7, 0x03, 1, 2, 3, 4}},
    {"add", 8, true, true, {0x48, 0x01, 0x03}},
    {"lock_add", 8, true, true, {0xf0, 0x48, 0x01, 0x03}},
    {"lock_add4", 4, true, true, {0xf0, 0x01, 0x03}},
    {"exchange", 8, true, true, {0x48, 0x87, 0x03}},
    {"compare_exchange", 8, true, true, {0xf0, 0x48, 0x0f, 0xb1, 0x0b}},
    {"shift", 4, true, true, {0xc1, 0x23, 3}},
    {"load16", 16, true, false, {0x0f, 0x10, 0x03}},
    {"store16", 16, false, true, {0x0f, 0x11, 0x03}},
    {"load_double", 8, true, false, {0xf2, 0x0f, 0x10, 0x03}},
    {"add_double", 8, true, false, {0xf2, 0x0f, 0x58, 0x03}},
    {"x87_load", 10, true, false, {0xdb, 0x2b}},
    {"pop", 8, true, false, {0x48, 0x89, 0xdc, 0x58}},                 // mov rsp, rbx; pop rax
    {"push", 8, false, true, {0x48, 0x8d, 0x63, 0x08, 0x50}},          // lea rsp, [rbx+8]; push rax
    {"string_load", 8, true, false, {0x48, 0x89, 0xde, 0x48, 0xad}},   // mov rsi, rbx; lodsq
    {"string_store", 8, false, true, {0x48, 0x89, 0xdf, 0x48, 0xab}},  // mov rdi, rbx; stosq
};

class CrossingAccess : public PageEdges, public testing::WithParamInterface<AccessKind> {
 protected:
  const AccessKind& access = GetParam();
  Code code() {
    Code code;
    code.raw(access.code).hlt();
    return code;
  }
  void fill() {
    for (uint64_t i = 0; i < 32; ++i) {
      machine.poke<uint8_t>(kFirst + 4096 - 32 + i, static_cast<uint8_t>(0x40 + i));
      machine.poke<uint8_t>(kSecond + i, static_cast<uint8_t>(0x80 + i));
    }
  }
  // The bytes around the boundary as they are now.
  std::vector<uint8_t> bytes() {
    std::vector<uint8_t> out;
    for (uint64_t i = 0; i < 32; ++i) out.push_back(machine.peek<uint8_t>(kFirst + 4096 - 32 + i));
    for (uint64_t i = 0; i < 32; ++i) out.push_back(machine.peek<uint8_t>(kSecond + i));
    return out;
  }
  void prepare(uint64_t before) {
    fill();
    cpu.reg(kRbx) = kBoundary - before;
    cpu.reg(kRax) = 0x0102030405060708;
    cpu.reg(kRcx) = 0x1112131415161718;
  }
  // What the same access leaves where nothing is crossed.
  std::pair<uint64_t, std::vector<uint8_t>> uncrossed(uint64_t before) {
    prepare(before);
    const std::vector<uint8_t> start = bytes();
    for (uint64_t i = 0; i < 64; ++i) machine.poke<uint8_t>(kHeap + i, start[i]);
    cpu.reg(kRbx) = kHeap + 32 - before;
    cpu.finish(code());
    std::vector<uint8_t> out;
    for (uint64_t i = 0; i < 64; ++i) out.push_back(machine.peek<uint8_t>(kHeap + i));
    return {cpu.reg(kRax), out};
  }
};
void PrintTo(const AccessKind& access, std::ostream* out) {
  *out << access.name;
}

TEST_P(CrossingAccess, ReadsAndWritesBothPages) {
  for (uint64_t before = 0; before <= access.size; ++before) {
    const auto [rax, memory] = uncrossed(before);
    prepare(before);
    cpu.finish(code());
    EXPECT_EQ(bytes(), memory) << before;
    EXPECT_EQ(cpu.reg(kRax), rax) << before;
  }
}

TEST_P(CrossingAccess, FaultsOnTheSecondPageBeforeAnythingIsWritten) {
  const uint32_t write = access.writes ? pf::kW : 0;
  for (const bool missing : {true, false}) {
    if (!missing && !access.writes) continue;
    for (uint64_t before = 1; before < access.size; ++before) {
      map(kBoundary, kSecond, kFlags);
      prepare(before);
      const std::vector<uint8_t> start = bytes();
      cpu.finish(code());  // with the translation warm
      map(kBoundary, missing ? 0 : kSecond, missing ? 0 : pte::kP);
      prepare(before);
      EXPECT_EQ(cpu.run(code()), Exit::kException);
      expect_page_fault(cpu, kBoundary, write | (missing ? 0 : pf::kP));
      EXPECT_EQ(bytes(), start) << before;
      EXPECT_EQ(cpu.reg(kRax), 0x0102030405060708u);
    }
  }
}

TEST_P(CrossingAccess, FaultsOnTheFirstPageAtItsOwnAddress) {
  const uint32_t write = access.writes ? pf::kW : 0;
  map(kFree, 0, 0);
  for (uint64_t before = 1; before < access.size; ++before) {
    prepare(before);
    const std::vector<uint8_t> start = bytes();
    EXPECT_EQ(cpu.run(code()), Exit::kException);
    expect_page_fault(cpu, kBoundary - before, write);
    EXPECT_EQ(bytes(), start) << before;
  }
}

INSTANTIATE_TEST_SUITE_P(PageEdges, CrossingAccess, testing::ValuesIn(kAccesses),
                         [](const auto& param) { return param.param.name; });

// CALL and RET with their stack slot across pages.
TEST_F(PageEdges, CallsAndReturnsOverASplitStackSlot) {
  machine.put(kText + 0x100, Code().inc(kRbx).ret());
  for (uint64_t before = 1; before < 8; ++before) {
    Code code;
    code.mov(kRsp, kBoundary + 8 - before).mov(kR12, kText + 0x100).mov(kR13, 20).mov(kRbx, 0);
    const size_t top = code.size();
    code.call(kR12).loop(kR13, top).hlt();
    cpu.finish(code);
    EXPECT_EQ(cpu.reg(kRbx), 20u);
    map(kBoundary, 0, 0);
    EXPECT_EQ(cpu.run(code), Exit::kException);
    expect_page_fault(cpu, kBoundary, pf::kW);
    EXPECT_EQ(cpu.reg(kRsp), kBoundary + 8 - before);
    map(kBoundary, kSecond, kFlags);
  }
}

// Wherever the stack pointer points: the fault is the access's, with the flags as they were before it.
TEST_F(PageEdges, AStackThatIsNotThereFaultsWithTheFlagsAsTheyWere) {
  constexpr uint64_t kFlagsOfZero = x86::rflags::kZf | x86::rflags::kPf;
  map(0, 0, 0);
  for (const uint64_t rsp : {uint64_t{0}, uint64_t{8}, uint64_t{0xff8}, uint64_t{1} << 40, uint64_t{1} << 62,
                             uint64_t{1} << 63, ~uint64_t{0} - 7}) {
    const bool canonical = rsp >> 47 == 0 || rsp >> 47 == 0x1ffff;
    for (const auto& access :
         {Code().raw({0x58}), Code().raw({0x48, 0x8b, 0x04, 0x24})}) {  // pop; mov rax, [rsp]
      Code code;
      code.raw({0x31, 0xc0});  // xor eax, eax
      for (const uint8_t byte : access.bytes()) code.raw({byte});
      cpu.reg(kRsp) = rsp;
      EXPECT_EQ(cpu.run(code.hlt()), Exit::kException);
      EXPECT_EQ(cpu.exception().vector, canonical ? x86::Vector::kPf : x86::Vector::kSs);
      EXPECT_EQ(cpu.s.rip, kText + 2);
      EXPECT_EQ(cpu.reg(kRsp), rsp);
      EXPECT_EQ(cpu.s.rflags() & x86::rflags::kArithmetic, kFlagsOfZero) << std::hex << rsp;
    }
  }
}

// An address size of 32 bits cuts what base and bit offset give together.
TEST_F(PageEdges, BitStringsWrapAtTheSizeOfTheirAddress) {
  machine.poke<uint64_t>(kHeap + 8, ~uint64_t{0});
  cpu.reg(kR12) = (uint64_t{1} << 38) + 3;
  cpu.reg(kR13) = (uint64_t{5} << 32) + kHeap + 8;
  cpu.finish(Code().raw({0x67, 0x4d, 0x0f, 0xb3, 0x65, 0x00}).hlt());  // BTR [R13D], R12
  EXPECT_EQ(machine.peek<uint64_t>(kHeap + 8), ~uint64_t{8});
}

}  // namespace
}  // namespace ostler::test
