// Far JMP, CALL and RET; SYSCALL and its relatives.
#include "fixture.h"

namespace ostler::interp {
namespace {

using x86::Vector;
namespace rflags = x86::rflags;

std::initializer_list<uint8_t> jump32(std::vector<uint8_t>& bytes, uint8_t opcode, uint16_t selector,
                                      uint32_t offset) {
  bytes = {opcode,
           static_cast<uint8_t>(offset),
           static_cast<uint8_t>(offset >> 8),
           static_cast<uint8_t>(offset >> 16),
           static_cast<uint8_t>(offset >> 24),
           static_cast<uint8_t>(selector),
           static_cast<uint8_t>(selector >> 8)};
  return {};
}

std::optional<x86::Exception> far(Guest& g, uint8_t opcode, uint16_t selector, uint32_t offset = kHandler) {
  std::vector<uint8_t> b;
  jump32(b, opcode, selector, offset);
  return g.execute({b[0], b[1], b[2], b[3], b[4], b[5], b[6]});
}
std::optional<x86::Exception> jmp(Guest& g, uint16_t selector, uint32_t offset = kHandler) {
  return far(g, 0xea, selector, offset);
}
std::optional<x86::Exception> call(Guest& g, uint16_t selector, uint32_t offset = kHandler) {
  return far(g, 0x9a, selector, offset);
}
constexpr std::initializer_list<uint8_t> kRetf = {0xcb};

TEST(FarJump, real_mode_sets_base_and_keeps_limit) {
  Guest g;
  g.real_mode();
  g.cs().limit = 0xfffff;
  EXPECT_FALSE(g.execute({0xea, 0x34, 0x12, 0x00, 0x20}));
  EXPECT_EQ(g.cs().base, 0x20000u);
  EXPECT_EQ(g.cs().limit, 0xfffffu);
  EXPECT_EQ(g.s.rip, 0x1234u);
}

TEST(FarJump, to_the_same_ring_sets_the_accessed_bit) {
  Guest g;
  g.protected_mode(0);
  EXPECT_FALSE(jmp(g, kCode0));
  EXPECT_EQ(g.s.rip, kHandler);
  EXPECT_EQ(g.peek<uint8_t>(kGdt + kCode0 + 5), 0x9b);
}

TEST(FarJump, to_16_bit_code) {
  Guest g;
  g.protected_mode(0);
  EXPECT_FALSE(jmp(g, kCode16));
  EXPECT_EQ(g.cpu.code_size, x86::CodeSize::k16);
}

TEST(FarJump, conforming_code_keeps_cpl) {
  Guest g;
  g.protected_mode(3);
  EXPECT_FALSE(jmp(g, kConforming));
  EXPECT_EQ(g.s.cpl(), 3u);
  EXPECT_EQ(g.cs().selector, kConforming | 3);
}

TEST(FarJump, faults) {
  struct Case {
    const char* what;
    unsigned cpl;
    uint16_t selector;
    uint32_t offset;
    Vector vector;
    uint32_t error;
  };
  for (const Case& c :
       {Case{"null", 0, 0, 0, Vector::kGp, 0}, Case{"null with RPL", 0, 3, 0, Vector::kGp, 0},
        Case{"beyond the GDT", 0, kGdtEnd, 0, Vector::kGp, kGdtEnd}, Case{"no LDT", 0, 4, 0, Vector::kGp, 4},
        Case{"data", 0, kData0, 0, Vector::kGp, kData0},
        Case{"inner ring", 3, kCode0, 0, Vector::kGp, kCode0},
        Case{"outer ring", 0, kCode3 | 3, 0, Vector::kGp, kCode3},
        Case{"RPL above CPL", 0, kCode0 | 3, 0, Vector::kGp, kCode0},
        Case{"absent", 0, kAbsentCode, 0, Vector::kNp, kAbsentCode},
        Case{"beyond the limit", 0, kCode16, 0x10000, Vector::kGp, 0},
        Case{"busy TSS", 0, kTssSel, 0, Vector::kGp, kTssSel},
        Case{"LDT descriptor", 0, kLdtSel, 0, Vector::kGp, kLdtSel}}) {
    Guest g;
    g.protected_mode(c.cpl);
    expect_fault(jmp(g, c.selector, c.offset), c.vector, c.error, c.what);
    EXPECT_EQ(g.s.rip, kCode) << c.what;
  }
}

TEST(FarJump, through_the_ldt) {
  Guest g;
  g.protected_mode(0);
  g.poke<uint64_t>(kLdt + 8, descriptor(0, 0xfffff, kA_Code, 0xc));
  g.s.ldtr = {kLdt, 0x1f, kA_Ldt, kLdtSel};
  EXPECT_FALSE(jmp(g, 8 | 4));
  EXPECT_EQ(g.cs().selector, 8 | 4);
}

TEST(FarCall, pushes_cs_and_eip_and_retf_returns) {
  Guest g;
  g.protected_mode(0);
  EXPECT_FALSE(call(g, kCode0));
  EXPECT_EQ(g.stack32(0), kCode + 7);
  EXPECT_EQ(g.stack32(1), kCode0);
  EXPECT_FALSE(g.execute(kRetf));
  EXPECT_EQ(g.s.rip, kCode + 7);
  EXPECT_EQ(g.rsp(), kStack0);
}

TEST(FarCall, gate_to_an_inner_ring_copies_parameters) {
  Guest g;
  g.protected_mode(3);
  g.set_gdt(kCallGate, gate(kCode0, kHandler, 0xec, 2));
  g.rsp() -= 8;
  g.poke<uint32_t>(g.rsp(), 0x1111);
  g.poke<uint32_t>(g.rsp() + 4, 0x2222);
  EXPECT_FALSE(call(g, kCallGate, 0xbad));
  EXPECT_EQ(g.s.cpl(), 0u);
  EXPECT_EQ(g.s.rip, kHandler);
  EXPECT_EQ(g.rsp(), kStack0 - 24);
  EXPECT_EQ(g.stack32(0), kCode + 7);
  EXPECT_EQ(g.stack32(1), kCode3 | 3);
  EXPECT_EQ(g.stack32(2), 0x1111u);
  EXPECT_EQ(g.stack32(3), 0x2222u);
  EXPECT_EQ(g.stack32(4), kStack3 - 8);
  EXPECT_EQ(g.stack32(5), kData3 | 3);
}

TEST(FarCall, retf_n_releases_parameters_on_both_stacks) {
  Guest g;
  g.protected_mode(3);
  g.set_gdt(kCallGate, gate(kCode0, kHandler, 0xec, 2));
  g.rsp() -= 8;
  EXPECT_FALSE(call(g, kCallGate));
  EXPECT_FALSE(g.execute({0xca, 8, 0}));
  EXPECT_EQ(g.s.cpl(), 3u);
  EXPECT_EQ(g.rsp(), kStack3);
  EXPECT_EQ(g.s.rip, kCode + 7);
}

TEST(FarCall, gate_faults) {
  struct Case {
    const char* what;
    uint64_t gate;
    Vector vector;
    uint32_t error;
  };
  for (const Case& c : {Case{"DPL below CPL", gate(kCode0, kHandler, 0x8c), Vector::kGp, kCallGate},
                        Case{"absent", gate(kCode0, kHandler, 0x6c), Vector::kNp, kCallGate},
                        Case{"null target", gate(0, kHandler, 0xec), Vector::kGp, 0},
                        Case{"data target", gate(kData0, kHandler, 0xec), Vector::kGp, kData0},
                        Case{"absent target", gate(kAbsentCode, kHandler, 0xec), Vector::kNp, kAbsentCode}}) {
    Guest g;
    g.protected_mode(3);
    g.set_gdt(kCallGate, c.gate);
    expect_fault(call(g, kCallGate), c.vector, c.error, c.what);
    EXPECT_EQ(g.rsp(), kStack3) << c.what;
  }
}

TEST(FarJump, gate_may_not_change_the_ring) {
  Guest g;
  g.protected_mode(3);
  expect_fault(jmp(g, kCallGate), Vector::kGp, kCode0);
  g.set_gdt(kCallGate, gate(kCode3, kHandler, 0xec));
  EXPECT_FALSE(jmp(g, kCallGate));
  EXPECT_EQ(g.s.rip, kHandler);
}

TEST(FarReturn, faults) {
  struct Case {
    const char* what;
    unsigned cpl;
    uint32_t cs;
    Vector vector;
    uint32_t error;
  };
  for (const Case& c :
       {Case{"null", 0, 0, Vector::kGp, 0}, Case{"inner ring", 3, kCode0, Vector::kGp, kCode0},
        Case{"data", 0, kData0, Vector::kGp, kData0},
        Case{"DPL other than RPL", 0, kCode0 | 3, Vector::kGp, kCode0},
        Case{"absent", 0, kAbsentCode, Vector::kNp, kAbsentCode}}) {
    Guest g;
    g.protected_mode(c.cpl);
    g.rsp() -= 16;
    g.poke<uint32_t>(g.rsp(), kHandler);
    g.poke<uint32_t>(g.rsp() + 4, c.cs);
    expect_fault(g.execute(kRetf), c.vector, c.error, c.what);
  }
}

TEST(FarTransfer64, call_gate_of_16_bytes_enters_64_bit_code) {
  Guest g;
  g.long_mode(3);
  g.set_gdt(kCallGate, gate(kCode64, kHandler, 0xec));
  g.poke<uint64_t>(kGdt + kCallGate + 8, 0);
  g.poke<uint32_t>(0x7000, 0);
  g.poke<uint16_t>(0x7004, kCallGate);
  g.s.gpr[x86::kRax] = 0x7000;
  EXPECT_FALSE(g.execute({0xff, 0x18}));  // call far [rax]
  EXPECT_EQ(g.s.cpl(), 0u);
  EXPECT_EQ(g.ss().selector, 0);
  EXPECT_EQ(g.rsp(), kStack0 - 32);
  EXPECT_EQ(g.stack64(0), kCode + 2);
  EXPECT_EQ(g.stack64(1), kCode64User | 3);
  EXPECT_EQ(g.stack64(2), kStack3);
  EXPECT_EQ(g.stack64(3), kData3 | 3);
}

TEST(FarTransfer64, task_switches_are_gp) {
  Guest g;
  g.long_mode(0);
  g.poke<uint32_t>(0x7000, 0);
  g.poke<uint16_t>(0x7004, kTss2Sel);
  g.s.gpr[x86::kRax] = 0x7000;
  expect_fault(g.execute({0xff, 0x28}), Vector::kGp, kTss2Sel);
}

// ---- SYSCALL and relatives ----

class FastCall : public testing::Test {
 protected:
  static void prepare(Guest& g) {
    g.s.msr.efer |= x86::efer::kSce;
    g.s.msr.star = uint64_t{0x23} << 48 | uint64_t{kCode0} << 32;
    g.s.msr.lstar = 0xffffffff81000000;
    g.s.msr.cstar = 0xffffffff82000000;
    g.s.msr.sfmask = rflags::kIf | rflags::kTf;
  }
};
constexpr std::initializer_list<uint8_t> kSyscall = {0x0f, 0x05}, kSysretq = {0x48, 0x0f, 0x07},
                                         kSysretl = {0x0f, 0x07}, kSysenter = {0x0f, 0x34},
                                         kSysexitq = {0x48, 0x0f, 0x35}, kSysexitl = {0x0f, 0x35};

TEST_F(FastCall, syscall_saves_rip_and_flags_and_masks) {
  Guest g;
  g.long_mode(3);
  prepare(g);
  g.s.set_rflags(rflags::kIf | rflags::kCf | 2);
  EXPECT_FALSE(g.execute(kSyscall));
  EXPECT_EQ(g.s.rip, 0xffffffff81000000u);
  EXPECT_EQ(g.s.gpr[x86::kRcx], kCode + 2);
  EXPECT_EQ(g.s.gpr[x86::kR11], rflags::kIf | rflags::kCf | 2);
  EXPECT_EQ(g.s.rflags(), rflags::kCf | 2);
  EXPECT_EQ(g.cs().selector, kCode0);
  EXPECT_EQ(g.ss().selector, kCode0 + 8);
  EXPECT_EQ(g.s.cpl(), 0u);
  EXPECT_TRUE(g.cs().is_long());
}

TEST_F(FastCall, syscall_needs_sce) {
  Guest g;
  g.long_mode(3);
  expect_fault(g.execute(kSyscall), Vector::kUd, std::nullopt);
}

TEST_F(FastCall, syscall_from_compatibility_mode_is_ud_on_intel_and_cstar_on_amd) {
  for (const bool amd : {false, true}) {
    Guest g(amd ? "EPYC" : "Haswell");
    g.long_mode(3);
    prepare(g);
    g.cs() = {0, 0xffffffff, 0xc0fb, kCode3 | 3};
    g.cpu.mode_changed();
    const auto fault = g.execute(kSyscall);
    if (amd) {
      EXPECT_FALSE(fault);
      EXPECT_EQ(g.s.rip, 0xffffffff82000000u);
    } else {
      expect_fault(fault, Vector::kUd, std::nullopt);
    }
  }
}

TEST_F(FastCall, sysretq_returns_to_64_bit_user_code) {
  Guest g;
  g.long_mode(0);
  prepare(g);
  g.s.gpr[x86::kRcx] = 0x401000;
  g.s.gpr[x86::kR11] = rflags::kIf | rflags::kRf | rflags::kVm | rflags::kZf | 2;
  EXPECT_FALSE(g.execute(kSysretq));
  EXPECT_EQ(g.s.rip, 0x401000u);
  EXPECT_EQ(g.s.rflags(), rflags::kIf | rflags::kZf | 2);
  EXPECT_EQ(g.cs().selector, 0x33);
  EXPECT_EQ(g.ss().selector, 0x2b);
  EXPECT_EQ(g.s.cpl(), 3u);
}

TEST_F(FastCall, sysretl_returns_to_compatibility_mode) {
  Guest g;
  g.long_mode(0);
  prepare(g);
  g.s.gpr[x86::kRcx] = 0x7'00401000;
  EXPECT_FALSE(g.execute(kSysretl));
  EXPECT_EQ(g.s.rip, 0x401000u);
  EXPECT_EQ(g.cs().selector, 0x23);
  EXPECT_EQ(g.cpu.code_size, x86::CodeSize::k32);
}

TEST_F(FastCall, sysret_faults) {
  Guest g("Haswell");
  g.long_mode(0);
  prepare(g);
  g.s.gpr[x86::kRcx] = uint64_t{1} << 50;
  expect_fault(g.execute(kSysretq), Vector::kGp, 0);
  Guest user("Haswell");
  user.long_mode(3);
  prepare(user);
  expect_fault(user.execute(kSysretq), Vector::kGp, 0);
}

TEST_F(FastCall, sysenter_and_sysexit) {
  Guest g("Haswell");
  g.long_mode(3);
  g.s.msr.sysenter_cs = kCode0;
  g.s.msr.sysenter_eip = 0xffffffff81001000;
  g.s.msr.sysenter_esp = 0xffffffff81002000;
  g.s.flags_rest |= rflags::kIf;
  EXPECT_FALSE(g.execute(kSysenter));
  EXPECT_EQ(g.s.rip, 0xffffffff81001000u);
  EXPECT_EQ(g.rsp(), 0xffffffff81002000u);
  EXPECT_FALSE(g.s.flag(rflags::kIf));
  EXPECT_EQ(g.s.cpl(), 0u);
  g.s.gpr[x86::kRdx] = 0x401000;
  g.s.gpr[x86::kRcx] = 0x500000;
  g.cpu.block_rip = g.s.rip;
  EXPECT_FALSE(g.execute(kSysexitq));
  EXPECT_EQ(g.s.rip, 0x401000u);
  EXPECT_EQ(g.rsp(), 0x500000u);
  EXPECT_EQ(g.cs().selector, kCode0 + 32 + 3);
  EXPECT_EQ(g.s.cpl(), 3u);
}

TEST_F(FastCall, sysexitl_goes_to_32_bit_code) {
  Guest g("Haswell");
  g.long_mode(0);
  g.s.msr.sysenter_cs = kCode0;
  EXPECT_FALSE(g.execute(kSysexitl));
  EXPECT_EQ(g.cs().selector, kCode0 + 16 + 3);
  EXPECT_EQ(g.cpu.code_size, x86::CodeSize::k32);
}

TEST_F(FastCall, sysenter_without_cs_is_gp_and_on_amd_in_long_mode_ud) {
  Guest intel("Haswell");
  intel.long_mode(3);
  expect_fault(intel.execute(kSysenter), Vector::kGp, 0);
  Guest amd("EPYC");
  amd.long_mode(3);
  amd.s.msr.sysenter_cs = kCode0;
  expect_fault(amd.execute(kSysenter), Vector::kUd, std::nullopt);
}

}  // namespace
}  // namespace ostler::interp
