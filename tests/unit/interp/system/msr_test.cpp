// RDMSR and WRMSR.
#include "fixture.h"
#include "x86/msr_index.h"

namespace ostler::interp {
namespace {

using x86::Vector;
namespace efer = x86::efer;
namespace index = x86::msr_index;

std::optional<x86::Exception> wrmsr(Guest& g, uint32_t number, uint64_t value) {
  g.s.gpr[x86::kRcx] = number;
  g.s.gpr[x86::kRax] = static_cast<uint32_t>(value);
  g.s.gpr[x86::kRdx] = value >> 32;
  return g.execute({0x0f, 0x30});
}
std::optional<uint64_t> rdmsr(Guest& g, uint32_t number) {
  g.s.gpr[x86::kRcx] = number;
  if (g.execute({0x0f, 0x32})) return std::nullopt;
  return g.s.gpr[x86::kRax] | g.s.gpr[x86::kRdx] << 32;
}

class Msr : public testing::Test {
 protected:
  Msr() { g.long_mode(0); }
  Guest g;
};

TEST_F(Msr, unknown_is_gp) {
  expect_fault(wrmsr(g, 0x12345678, 0), Vector::kGp, 0);
  EXPECT_FALSE(rdmsr(g, 0x12345678));
}

TEST_F(Msr, needs_ring_0) {
  Guest user;
  user.long_mode(3);
  expect_fault(wrmsr(user, index::IA32_LSTAR, 0), Vector::kGp, 0);
  EXPECT_FALSE(rdmsr(user, index::IA32_LSTAR));
}

TEST_F(Msr, addresses_must_be_canonical) {
  for (const uint32_t number :
       {index::IA32_LSTAR, index::IA32_CSTAR, index::IA32_FS_BASE, index::IA32_GS_BASE,
        index::IA32_KERNEL_GS_BASE, index::IA32_SYSENTER_EIP, index::IA32_SYSENTER_ESP}) {
    expect_fault(wrmsr(g, number, uint64_t{1} << 50), Vector::kGp, 0);
    EXPECT_FALSE(wrmsr(g, number, 0xffff800000000000));
    EXPECT_EQ(rdmsr(g, number), 0xffff800000000000u);
  }
}

TEST_F(Msr, fs_base_is_the_segment_base) {
  EXPECT_FALSE(wrmsr(g, index::IA32_FS_BASE, 0x1234000));
  EXPECT_EQ(g.s.seg[x86::kFs].base, 0x1234000u);
}

TEST_F(Msr, efer_keeps_lma_and_lme_under_paging) {
  expect_fault(wrmsr(g, index::IA32_EFER, 0), Vector::kGp, 0, "LME cleared");
  EXPECT_FALSE(wrmsr(g, index::IA32_EFER, efer::kLme | efer::kSce | efer::kNxe));
  EXPECT_EQ(rdmsr(g, index::IA32_EFER), efer::kLme | efer::kLma | efer::kSce | efer::kNxe);
  expect_fault(wrmsr(g, index::IA32_EFER, efer::kLme | 1u << 12), Vector::kGp, 0, "SVME");
}

TEST_F(Msr, nxe_only_where_offered) {
  Guest without("Haswell,-nx");
  without.long_mode(0);
  expect_fault(wrmsr(without, index::IA32_EFER, efer::kLme | efer::kNxe), Vector::kGp, 0);
}

TEST_F(Msr, pat_takes_valid_types_only) {
  EXPECT_FALSE(wrmsr(g, index::IA32_PAT, 0x0007040600070106));
  expect_fault(wrmsr(g, index::IA32_PAT, 0x02), Vector::kGp, 0);
}

TEST_F(Msr, variable_mtrrs_check_type_and_address_width) {
  EXPECT_FALSE(wrmsr(g, index::IA32_MTRR_PHYSBASE0, 0xc0000000 | 6));
  EXPECT_FALSE(wrmsr(g, index::IA32_MTRR_PHYSBASE0 + 1, 0xff'c0000000 | 0x800));
  expect_fault(wrmsr(g, index::IA32_MTRR_PHYSBASE0, uint64_t{1} << 40), Vector::kGp, 0);
  expect_fault(wrmsr(g, index::IA32_MTRR_PHYSBASE0, 2), Vector::kGp, 0);
}

TEST_F(Msr, fixed_mtrrs_and_default_type) {
  EXPECT_FALSE(wrmsr(g, index::IA32_MTRR_FIX4K_F8000, 0x0606060606060606));
  EXPECT_EQ(rdmsr(g, index::IA32_MTRR_FIX4K_F8000), 0x0606060606060606u);
  EXPECT_FALSE(wrmsr(g, index::IA32_MTRR_DEF_TYPE, 0xc06));
  expect_fault(wrmsr(g, index::IA32_MTRR_DEF_TYPE, 0x1006), Vector::kGp, 0);
  expect_fault(wrmsr(g, index::IA32_MTRR_DEF_TYPE, 3), Vector::kGp, 0);
}

TEST_F(Msr, tsc_write_moves_offset_and_adjust) {
  EXPECT_FALSE(wrmsr(g, index::IA32_TIME_STAMP_COUNTER, 0));
  EXPECT_EQ(g.s.msr.tsc_offset, 0 - uint64_t{1000});
  EXPECT_EQ(rdmsr(g, index::IA32_TSC_ADJUST), 0 - uint64_t{1000});
  EXPECT_FALSE(wrmsr(g, index::IA32_TSC_ADJUST, 0));
  EXPECT_EQ(g.s.msr.tsc_offset, 0u);
  EXPECT_EQ(g.env.tsc_changes, 2);
}

TEST_F(Msr, tsc_aux_is_32_bits_and_read_by_rdtscp) {
  EXPECT_FALSE(wrmsr(g, index::IA32_TSC_AUX, 0x1003));
  expect_fault(wrmsr(g, index::IA32_TSC_AUX, uint64_t{1} << 32), Vector::kGp, 0);
  EXPECT_FALSE(g.execute({0x0f, 0x01, 0xf9}));
  EXPECT_EQ(g.s.gpr[x86::kRcx], 0x1003u);
  EXPECT_FALSE(g.execute({0xf3, 0x0f, 0xc7, 0xfb}));  // rdpid rbx
  EXPECT_EQ(g.s.gpr[x86::kRbx], 0x1003u);
}

TEST_F(Msr, local_apic_belongs_to_the_environment) {
  EXPECT_EQ(rdmsr(g, index::IA32_APIC_BASE), 0xfee00900u);
  expect_fault(wrmsr(g, 0x808, 0), Vector::kGp, 0);
}

TEST_F(Msr, machine_check_banks_take_zero) {
  EXPECT_EQ(rdmsr(g, index::IA32_MCG_CAP).value() & 0xff, 4u);
  EXPECT_FALSE(wrmsr(g, index::IA32_MC0_CTL, ~uint64_t{0}));
  EXPECT_FALSE(wrmsr(g, index::IA32_MC0_CTL + 1, 0));
  expect_fault(wrmsr(g, index::IA32_MC0_CTL + 1, 1), Vector::kGp, 0);
  expect_fault(wrmsr(g, index::IA32_MC0_CTL + 16, 0), Vector::kGp, 0, "bank 4");
}

TEST_F(Msr, amds_are_there_for_amd_only) {
  EXPECT_FALSE(rdmsr(g, index::AMD_HWCR));
  Guest amd("EPYC");
  amd.long_mode(0);
  EXPECT_EQ(rdmsr(amd, index::AMD_HWCR), 1u << 24);
  EXPECT_FALSE(wrmsr(amd, index::AMD_DE_CFG, 2));
}

TEST_F(Msr, arch_capabilities_follow_the_flag) {
  EXPECT_TRUE(rdmsr(g, index::IA32_ARCH_CAPABILITIES).value() & 1);
  Guest without("Haswell");
  without.long_mode(0);
  EXPECT_FALSE(rdmsr(without, index::IA32_ARCH_CAPABILITIES));
}

TEST_F(Msr, spec_ctrl_and_ibrs_all_go_together) {
  EXPECT_TRUE(rdmsr(g, index::IA32_ARCH_CAPABILITIES).value() & 2);
  EXPECT_FALSE(wrmsr(g, index::IA32_SPEC_CTRL, 1));
  EXPECT_EQ(rdmsr(g, index::IA32_SPEC_CTRL), 1u);
  expect_fault(wrmsr(g, index::IA32_SPEC_CTRL, 2), Vector::kGp, 0, "STIBP is not offered");
  EXPECT_FALSE(wrmsr(g, index::IA32_SPEC_CTRL, 1 | 1u << 10));  // BHI_DIS_S
  EXPECT_FALSE(wrmsr(g, index::IA32_PRED_CMD, 1));
  Guest without("max,-spec-ctrl");
  without.long_mode(0);
  EXPECT_FALSE(rdmsr(without, index::IA32_ARCH_CAPABILITIES).value() & 2);
  expect_fault(wrmsr(without, index::IA32_SPEC_CTRL, 1), Vector::kGp, 0);
}

TEST_F(Msr, the_command_of_ibpb_comes_with_either_flag) {
  Guest amd("EPYC-IBPB");
  amd.long_mode(0);
  EXPECT_FALSE(wrmsr(amd, index::IA32_PRED_CMD, 1));
  expect_fault(wrmsr(amd, index::IA32_SPEC_CTRL, 1), Vector::kGp, 0);
  Guest without("EPYC");
  without.long_mode(0);
  expect_fault(wrmsr(without, index::IA32_PRED_CMD, 1), Vector::kGp, 0);
}

TEST_F(Msr, efer_of_a_32_bit_processor_knows_no_long_mode) {
  Guest old("coreduo");
  old.protected_mode(0);
  expect_fault(wrmsr(old, index::IA32_EFER, efer::kLme), Vector::kGp, 0);
  expect_fault(wrmsr(old, index::IA32_EFER, efer::kSce), Vector::kGp, 0);
  EXPECT_FALSE(wrmsr(old, index::IA32_EFER, efer::kNxe));
}

}  // namespace
}  // namespace ostler::interp
