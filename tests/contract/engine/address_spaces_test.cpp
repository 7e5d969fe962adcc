// CR3, PCIDs and global pages: what each kind of change must forget (SDM Vol. 3A §4.10.4.1).
#include "fixture.h"

namespace ostler::test {
namespace {

using interp::Exit;
using x86::kR12;
using x86::kR13;
using x86::kR14;
using x86::kR15;
using x86::kRax;
using x86::kRbp;
using x86::kRbx;
using x86::kRcx;
using x86::kRdx;
using x86::kRsi;

constexpr uint64_t kFirst = 0x800000, kSecond = 0x801000, kThird = 0x802000;
constexpr uint64_t kRounds = 60, kKeep = uint64_t{1} << 63;
constexpr uint64_t kFlags = pte::kP | pte::kW | pte::kA | pte::kD;
constexpr int32_t kData = 0x100;  // on the page of the function

class AddressSpaces : public testing::Test {
 protected:
  AddressSpaces() {
    uint32_t value = 1;
    for (const uint64_t page : {kFirst, kSecond, kThird}) {
      machine.put(page, Code().mov32(kRax, value).ret());
      machine.poke<uint64_t>(page + kData, value);
      value *= 1000;
    }
    a.map(kFree, kFirst, kFlags);
    b.map(kFree, kSecond, kFlags);
  }
  void use_pcids() {
    cpu.s.cr4 |= x86::cr4::kPcide;
    cpu.interpreter.state_changed();
  }
  void make_kernel_global() {
    for (Space* space : {&a, &b})
      for (uint64_t at = 0; at < kIdentity; at += 4096) space->map(at, at, kFlags | pte::kG);
    cpu.interpreter.state_changed();
  }
  // R14 and R15 take turns as CR3; after each change `use`.
  void alternate(uint64_t first, uint64_t second, const Code& use) {
    Code code;
    code.mov(kR12, kFree).mov(kR14, first).mov(kR15, second).mov(kR13, kRounds).mov(kRbx, 0);
    const size_t top = code.size();
    for (const unsigned root : {kR14, kR15}) {
      code.to_cr(3, root);
      for (const uint8_t byte : use.bytes()) code.raw({byte});
    }
    cpu.finish(code.loop(kR13, top).hlt());
  }
  static Code call() { return std::move(Code().call(kR12).add(kRbx, kRax)); }
  static Code read() { return std::move(Code().load(kRax, kR12, kData).add(kRbx, kRax)); }
  static constexpr uint64_t kBoth = kRounds * 1001;

  Machine machine;
  Space a{machine}, b{machine};
  Vcpu cpu{machine, a};
};

TEST_F(AddressSpaces, EachRunsItsOwnCode) {
  alternate(a.root(), b.root(), call());
  EXPECT_EQ(cpu.reg(kRbx), kBoth);
}
TEST_F(AddressSpaces, EachReadsItsOwnData) {
  alternate(a.root(), b.root(), read());
  EXPECT_EQ(cpu.reg(kRbx), kBoth);
}
TEST_F(AddressSpaces, EachWritesItsOwnData) {
  alternate(a.root(), b.root(), Code().memory({0xff}, 0, kR12, kData));
  EXPECT_EQ(machine.peek<uint64_t>(kFirst + kData), 1 + kRounds);
  EXPECT_EQ(machine.peek<uint64_t>(kSecond + kData), 1000 + kRounds);
}
TEST_F(AddressSpaces, UnderAGlobalKernel) {
  make_kernel_global();
  alternate(a.root(), b.root(), call());
  EXPECT_EQ(cpu.reg(kRbx), kBoth);
  alternate(a.root(), b.root(), read());
  EXPECT_EQ(cpu.reg(kRbx), kBoth);
}
TEST_F(AddressSpaces, WithProcessContextIdentifiers) {
  use_pcids();
  for (const uint64_t keep : {uint64_t{0}, kKeep}) {
    alternate(a.root() | 1 | keep, b.root() | 2 | keep, call());
    EXPECT_EQ(cpu.reg(kRbx), kBoth);
    alternate(a.root() | 1 | keep, b.root() | 2 | keep, read());
    EXPECT_EQ(cpu.reg(kRbx), kBoth);
  }
}
// More of them than any engine keeps apart.
TEST_F(AddressSpaces, WithManyIdentifiers) {
  use_pcids();
  constexpr uint64_t kMany = 40;
  std::vector<std::unique_ptr<Space>> spaces;
  Code code;
  code.mov(kR12, kFree).mov(kR13, 5).mov(kRbx, 0);
  const size_t top = code.size();
  for (uint64_t i = 0; i < kMany; ++i) {
    spaces.push_back(std::make_unique<Space>(machine));
    const uint64_t page = machine.new_page();
    machine.put(page, Code().mov32(kRax, static_cast<uint32_t>(i * i)).ret());
    spaces.back()->map(kFree, page, kFlags);
    code.mov(kRcx, spaces.back()->root() | (i + 1) | kKeep).to_cr(3, kRcx).call(kR12).add(kRbx, kRax);
  }
  cpu.finish(code.loop(kR13, top).hlt());
  EXPECT_EQ(cpu.reg(kRbx), 5 * ((kMany - 1) * kMany * (2 * kMany - 1) / 6));
}

TEST_F(AddressSpaces, CodeThatIsNotThereInTheOther) {
  b.map(kFree, 0, 0);
  Code code;
  code.mov(kR12, kFree).mov(kR13, 20);
  const size_t top = code.size();
  code.call(kR12).loop(kR13, top).mov(kRcx, b.root()).to_cr(3, kRcx).call(kR12).hlt();
  EXPECT_EQ(cpu.run(code), Exit::kException);
  expect_page_fault(cpu, kFree, pf::kI);
  EXPECT_EQ(cpu.s.rip, kFree);
}

// The instruction after MOV CR3 is fetched from the new space: it lies on a page that both map, elsewhere.
TEST_F(AddressSpaces, TheInstructionAfterTheChangeIsTheNewSpaces) {
  for (const uint64_t page : {kFirst, kSecond}) {
    Code code;
    code.to_cr(3, kR14).mov32(kRax, page == kFirst ? 1 : 2).ret();
    machine.put(page + 0x200, code);
  }
  Code code;
  code.mov(kR12, kFree + 0x200).mov(kR14, b.root()).mov(kR15, a.root()).mov(kR13, kRounds).mov(kRbx, 0);
  const size_t top = code.size();
  code.to_cr(3, kR15).call(kR12).add(kRbx, kRax).loop(kR13, top).hlt();
  cpu.finish(code);
  EXPECT_EQ(cpu.reg(kRbx), 2 * kRounds);
}

// ---- what is changed while another space runs ----

enum class How { kPlainWrite, kInvpcidAddress, kInvpcidContext, kInvpcidAll, kInvpcidNotGlobal };

class Stale : public AddressSpaces, public testing::WithParamInterface<How> {};

// Touches the page in space a (PCID 1), goes to b (PCID 2), changes a's mapping there, announces it, and goes
// back.
TEST_P(Stale, TranslationsOfAnotherContextAreForgotten) {
  use_pcids();
  const How how = GetParam();
  const uint64_t entry = a.entry(kFree);
  b.map(kFree + 0x10000, entry & ~uint64_t{4095}, kFlags);
  const uint64_t window = kFree + 0x10000 + (entry & 4095);
  machine.poke<uint64_t>(kHeap, 1);  // INVPCID's descriptor
  machine.poke<uint64_t>(kHeap + 8, kFree);
  const uint64_t keep = how == How::kPlainWrite ? 0 : kKeep;
  Code code;
  code.mov(kR12, kFree).mov(kR13, 20).mov(kRbx, 0).mov(kRbp, window).mov(kRdx, kHeap);
  code.mov(kR14, a.root() | 1 | keep).mov(kR15, b.root() | 2 | kKeep).mov(kRsi, kThird | kFlags);
  code.mov(kRcx, kFirst | kFlags);
  const size_t top = code.size();
  code.to_cr(3, kR14).call(kR12).add(kRbx, kRax).load(kRax, kR12, kData).add(kRbx, kRax);
  code.to_cr(3, kR15).store(kRbp, kRsi).exchange(kRsi, kRcx);
  if (how != How::kPlainWrite) code.invpcid(static_cast<uint64_t>(how) - 1, kRdx);
  code.loop(kR13, top).hlt();
  cpu.finish(code);
  EXPECT_EQ(cpu.reg(kRbx), 20u * 1'000'001);
}
INSTANTIATE_TEST_SUITE_P(AddressSpaces, Stale,
                         testing::Values(How::kPlainWrite, How::kInvpcidAddress, How::kInvpcidContext,
                                         How::kInvpcidAll, How::kInvpcidNotGlobal));

// ---- global pages ----

enum class Forget { kInvlpg, kPge, kInvpcidAll };

class GlobalPages : public AddressSpaces, public testing::WithParamInterface<Forget> {};

TEST_P(GlobalPages, AreForgottenWhenTold) {
  a.map(kFree, kFirst, kFlags | pte::kG);
  const uint64_t window = a.window(kFree);
  machine.poke<uint64_t>(kHeap, 0);
  Code code;
  code.mov(kR12, kFree).mov(kR13, 20).mov(kRbx, 0).mov(kRbp, window).mov(kRdx, kHeap);
  code.mov(kRsi, kThird | kFlags | pte::kG).mov(kRcx, kFirst | kFlags | pte::kG);
  const size_t top = code.size();
  code.call(kR12).add(kRbx, kRax).load(kRax, kR12, kData).add(kRbx, kRax);
  code.store(kRbp, kRsi).exchange(kRsi, kRcx);
  switch (GetParam()) {
    case Forget::kInvlpg:
      code.invlpg(kR12);
      break;
    case Forget::kPge:
      code.from_cr(kRax, 4).raw({0x48, 0x0f, 0xba, 0xf0, 7}).to_cr(4, kRax);  // btr rax, 7
      code.raw({0x48, 0x0f, 0xba, 0xe8, 7}).to_cr(4, kRax);                   // bts
      break;
    case Forget::kInvpcidAll:
      code.invpcid(2, kRdx);
      break;
  }
  code.loop(kR13, top).hlt();
  cpu.finish(code);
  EXPECT_EQ(cpu.reg(kRbx), 20u * 1'000'001);
}
INSTANTIATE_TEST_SUITE_P(AddressSpaces, GlobalPages,
                         testing::Values(Forget::kInvlpg, Forget::kPge, Forget::kInvpcidAll));

}  // namespace
}  // namespace ostler::test
