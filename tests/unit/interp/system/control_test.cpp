// Control and debug registers, and the instructions that are only about the processor's state.
#include "fixture.h"

namespace ostler::interp {
namespace {

using x86::Vector;
namespace cr0 = x86::cr0;
namespace cr4 = x86::cr4;
namespace efer = x86::efer;
namespace rflags = x86::rflags;

// mov crN, rax or dword form in 32-bit code.
std::optional<x86::Exception> mov_cr(Guest& g, unsigned number, uint64_t value) {
  g.s.gpr[x86::kRax] = value;
  const uint8_t modrm = static_cast<uint8_t>(0xc0 | (number & 7) << 3);
  if (number == 8) return g.execute({0x44, 0x0f, 0x22, modrm});
  return g.execute({0x0f, 0x22, modrm});
}
std::optional<x86::Exception> mov_dr(Guest& g, unsigned number, uint64_t value) {
  g.s.gpr[x86::kRax] = value;
  return g.execute({0x0f, 0x23, static_cast<uint8_t>(0xc0 | number << 3)});
}

TEST(Cr0, invalid_combinations_are_gp) {
  for (const uint64_t value :
       {uint64_t{cr0::kPg}, uint64_t{cr0::kPe | cr0::kNw}, uint64_t{1} << 40 | cr0::kPe}) {
    Guest g;
    g.long_mode(0);
    const uint64_t before = g.s.cr0;
    expect_fault(mov_cr(g, 0, value), Vector::kGp, 0);
    EXPECT_EQ(g.s.cr0, before);
  }
}

TEST(Cr0, entering_protected_mode_from_real_mode) {
  Guest g;
  g.real_mode();
  EXPECT_FALSE(mov_cr(g, 0, cr0::kPe));
  EXPECT_TRUE(g.s.protected_mode());
  EXPECT_EQ(g.s.cpl(), 0u);
  EXPECT_EQ(g.s.cr0, cr0::kPe | cr0::kEt);
}

TEST(Cr0, paging_with_lme_enters_long_mode) {
  Guest g;
  g.protected_mode(0);
  g.s.cr4 = cr4::kPae;
  g.s.msr.efer = efer::kLme;
  EXPECT_FALSE(mov_cr(g, 0, cr0::kPe | cr0::kPg));
  EXPECT_TRUE(g.s.long_mode());
  EXPECT_EQ(g.cpu.code_size, x86::CodeSize::k32);  // until CS.L is loaded
  EXPECT_FALSE(mov_cr(g, 0, cr0::kPe));
  EXPECT_FALSE(g.s.long_mode());
}

TEST(Cr0, paging_with_lme_needs_pae) {
  Guest g;
  g.protected_mode(0);
  g.s.msr.efer = efer::kLme;
  expect_fault(mov_cr(g, 0, cr0::kPe | cr0::kPg), Vector::kGp, 0);
}

TEST(Cr0, paging_cannot_be_left_from_64_bit_code) {
  Guest g;
  g.long_mode(0);
  expect_fault(mov_cr(g, 0, cr0::kPe), Vector::kGp, 0);
}

TEST(Cr0, pae_paging_loads_pdptes_and_checks_them) {
  Guest g;
  g.protected_mode(0);
  g.s.cr4 = cr4::kPae;
  g.s.cr3 = 0x6000;
  g.poke<uint64_t>(0x6000, 0x7001);
  EXPECT_FALSE(mov_cr(g, 0, cr0::kPe | cr0::kPg));
  EXPECT_EQ(g.s.pdpte[0], 0x7001u);
  Guest bad;
  bad.protected_mode(0);
  bad.s.cr4 = cr4::kPae;
  bad.s.cr3 = 0x6000;
  bad.poke<uint64_t>(0x6000, 0x7003);  // bit 1 is reserved
  expect_fault(mov_cr(bad, 0, cr0::kPe | cr0::kPg), Vector::kGp, 0);
}

TEST(ControlRegisters, need_ring_0) {
  Guest g;
  g.protected_mode(3);
  for (unsigned number : {0, 2, 3, 4}) expect_fault(mov_cr(g, number, 0), Vector::kGp, 0);
  Guest v;
  v.v8086_mode(3);
  expect_fault(v.execute({0x0f, 0x20, 0xc0}), Vector::kGp, 0);
}

TEST(Cr3, reserved_bits_in_long_mode) {
  Guest g;
  g.long_mode(0);
  expect_fault(mov_cr(g, 3, uint64_t{1} << 40), Vector::kGp, 0);
  expect_fault(mov_cr(g, 3, uint64_t{1} << 63 | g.s.cr3), Vector::kGp, 0, "bit 63 without PCIDE");
  g.s.cr4 |= cr4::kPcide;
  const uint64_t cr3 = g.s.cr3;
  EXPECT_FALSE(mov_cr(g, 3, uint64_t{1} << 63 | cr3 | 5));
  EXPECT_EQ(g.s.cr3, cr3 | 5);
}

TEST(Cr4, reserved_and_unoffered_bits_are_gp) {
  Guest g("Nehalem");
  g.protected_mode(0);
  expect_fault(mov_cr(g, 4, cr4::kSmep), Vector::kGp, 0, "not offered by Nehalem");
  expect_fault(mov_cr(g, 4, 1u << 22), Vector::kGp, 0, "PKE");
  expect_fault(mov_cr(g, 4, cr4::kVme), Vector::kGp, 0, "VME");
  EXPECT_FALSE(mov_cr(g, 4, cr4::kPse | cr4::kPge));
}

TEST(Cr4, long_mode_holds_pae_and_la57) {
  Guest g;
  g.long_mode(0);
  expect_fault(mov_cr(g, 4, 0), Vector::kGp, 0);
  expect_fault(mov_cr(g, 4, cr4::kPae | cr4::kLa57), Vector::kGp, 0);
}

TEST(Cr4, pcide_needs_long_mode_and_pcid_0) {
  Guest g;
  g.protected_mode(0);
  expect_fault(mov_cr(g, 4, cr4::kPcide), Vector::kGp, 0);
  Guest l;
  l.long_mode(0);
  l.s.cr3 |= 1;
  expect_fault(mov_cr(l, 4, cr4::kPae | cr4::kPcide), Vector::kGp, 0);
  l.s.cr3 &= ~uint64_t{1};
  EXPECT_FALSE(mov_cr(l, 4, cr4::kPae | cr4::kPcide));
}

TEST(Cr8, is_the_task_priority) {
  Guest g;
  g.long_mode(0);
  EXPECT_FALSE(mov_cr(g, 8, 9));
  EXPECT_EQ(g.env.cr8_value, 9);
  expect_fault(mov_cr(g, 8, 16), Vector::kGp, 0);
}

TEST(MachineStatus, lmsw_sets_pe_but_does_not_clear_it) {
  Guest g;
  g.protected_mode(0);
  g.s.gpr[x86::kRax] = cr0::kTs;
  EXPECT_FALSE(g.execute({0x0f, 0x01, 0xf0}));
  EXPECT_EQ(g.s.cr0 & 15, cr0::kPe | cr0::kTs);
  EXPECT_FALSE(g.execute({0x0f, 0x06}));  // clts
  EXPECT_EQ(g.s.cr0 & cr0::kTs, 0u);
}

TEST(DebugRegisters, fixed_bits) {
  Guest g;
  g.long_mode(0);
  EXPECT_FALSE(mov_dr(g, 6, 0));
  EXPECT_EQ(g.s.dr[6], 0xffff0ff0u);
  EXPECT_FALSE(mov_dr(g, 7, 0xffffffff & ~(1u << 13)));
  EXPECT_EQ(g.s.dr[7], 0xffff07ffu);
  expect_fault(mov_dr(g, 7, uint64_t{1} << 32), Vector::kGp, 0);
}

TEST(DebugRegisters, dr4_is_dr6_unless_de) {
  Guest g;
  g.protected_mode(0);
  EXPECT_FALSE(mov_dr(g, 4, 1));
  EXPECT_EQ(g.s.dr[6], 0xffff0ff1u);
  g.s.cr4 |= cr4::kDe;
  expect_fault(mov_dr(g, 4, 1), Vector::kUd, std::nullopt);
}

TEST(DebugRegisters, general_detect) {
  Guest g;
  g.protected_mode(0);
  g.s.dr[7] |= 1u << 13;
  const auto fault = mov_dr(g, 0, 1);
  expect_fault(fault, Vector::kDb, std::nullopt);
  EXPECT_EQ(fault->dr6_bits, 1u << 13);
}

TEST(Xcr, xsetbv_checks_its_value) {
  Guest g;
  g.long_mode(0);
  g.s.gpr[x86::kRcx] = g.s.gpr[x86::kRdx] = 0;
  g.s.gpr[x86::kRax] = 7;
  expect_fault(g.execute({0x0f, 0x01, 0xd1}), Vector::kUd, std::nullopt);
  g.s.cr4 |= cr4::kOsxsave;
  EXPECT_FALSE(g.execute({0x0f, 0x01, 0xd1}));
  EXPECT_EQ(g.s.xcr0, 7u);
  for (const uint64_t bad : {0, 2, 5, 0xff}) {
    g.s.gpr[x86::kRax] = bad;
    expect_fault(g.execute({0x0f, 0x01, 0xd1}), Vector::kGp, 0);
  }
  EXPECT_FALSE(g.execute({0x0f, 0x01, 0xd0}));  // xgetbv
  EXPECT_EQ(g.s.gpr[x86::kRax], 7u);
}

TEST(InterruptFlag, cli_and_sti_follow_iopl) {
  Guest g;
  g.protected_mode(3);
  expect_fault(g.execute({0xfa}), Vector::kGp, 0);
  expect_fault(g.execute({0xfb}), Vector::kGp, 0);
  g.s.flags_rest |= rflags::kIopl;
  EXPECT_FALSE(g.execute({0xfb}));
  EXPECT_TRUE(g.s.flag(rflags::kIf));
  EXPECT_TRUE(g.s.interrupt_shadow);
  EXPECT_FALSE(g.execute({0xfa}));
  EXPECT_FALSE(g.s.flag(rflags::kIf));
}

TEST(InterruptFlag, sti_with_interrupts_on_casts_no_shadow) {
  Guest g;
  g.protected_mode(0);
  g.s.flags_rest |= rflags::kIf;
  EXPECT_FALSE(g.execute({0xfb}));
  EXPECT_FALSE(g.s.interrupt_shadow);
}

TEST(Halt, ring_0_only) {
  Guest g;
  g.protected_mode(0);
  EXPECT_FALSE(g.execute({0xf4}));
  EXPECT_EQ(g.s.activity, x86::Activity::kHalted);
  EXPECT_EQ(g.s.rip, kCode + 1);
  Guest user;
  user.protected_mode(3);
  expect_fault(user.execute({0xf4}), Vector::kGp, 0);
}

TEST(Timestamp, tsd_keeps_user_code_out) {
  Guest g;
  g.protected_mode(3);
  g.env.tsc_base = 0x1'23456789;
  EXPECT_FALSE(g.execute({0x0f, 0x31}));
  EXPECT_EQ(g.s.gpr[x86::kRax], 0x23456789u);
  EXPECT_EQ(g.s.gpr[x86::kRdx], 1u);
  g.s.cr4 |= cr4::kTsd;
  expect_fault(g.execute({0x0f, 0x31}), Vector::kGp, 0);
}

TEST(Smap, stac_and_clac_are_undefined_above_ring_0) {
  Guest g;
  g.long_mode(0);
  EXPECT_FALSE(g.execute({0x0f, 0x01, 0xcb}));
  EXPECT_TRUE(g.s.flag(rflags::kAc));
  EXPECT_FALSE(g.execute({0x0f, 0x01, 0xca}));
  EXPECT_FALSE(g.s.flag(rflags::kAc));
  Guest user;
  user.long_mode(3);
  expect_fault(user.execute({0x0f, 0x01, 0xcb}), Vector::kUd, std::nullopt);
}

TEST(Hypercall, only_where_kvm_is_offered) {
  Guest g;
  g.long_mode(0);
  expect_fault(g.execute({0x0f, 0x01, 0xc1}), Vector::kUd, std::nullopt);
  g.env.info.kvm_features = ~0u;
  g.s.gpr[x86::kRax] = 5;
  g.s.gpr[x86::kRbx] = 7;
  EXPECT_FALSE(g.execute({0x0f, 0x01, 0xc1}));
  EXPECT_EQ(g.s.gpr[x86::kRax], 507u);
}

TEST(Hypercall, user_code_is_refused) {
  Guest g;
  g.long_mode(3);
  g.env.info.kvm_features = ~0u;
  EXPECT_FALSE(g.execute({0x0f, 0x01, 0xd9}));
  EXPECT_EQ(g.s.gpr[x86::kRax], ~uint64_t{0});
}

TEST(Invpcid, rules) {
  Guest g;
  g.long_mode(0);
  g.s.gpr[x86::kRbx] = 0x7000;
  const auto run = [&](uint64_t type, uint64_t pcid, uint64_t address) {
    g.s.gpr[x86::kRax] = type;
    g.poke<uint64_t>(0x7000, pcid);
    g.poke<uint64_t>(0x7008, address);
    return g.execute({0x66, 0x0f, 0x38, 0x82, 0x03});
  };
  EXPECT_FALSE(run(2, 0, 0));
  expect_fault(run(4, 0, 0), Vector::kGp, 0, "type");
  expect_fault(run(0, 0x1000, 0), Vector::kGp, 0, "reserved bits");
  expect_fault(run(1, 1, 0), Vector::kGp, 0, "PCID without PCIDE");
  expect_fault(run(0, 0, uint64_t{1} << 50), Vector::kGp, 0, "address");
}

}  // namespace
}  // namespace ostler::interp
