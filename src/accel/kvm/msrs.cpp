// Which MSRs travel between x86::Msrs and KVM (SDM Vol. 4). EFER, FS and GS bases are KVM's special
// registers.
#include <iterator>

#include "accel/kvm/registers.h"
#include "x86/msr_index.h"

namespace ostler::accel::kvm {

namespace msr = x86::msr_index;

std::vector<MsrField> msr_fields(x86::CpuState& cpu) {
  x86::Msrs& m = cpu.msr;
  constexpr uint64_t kAll = ~uint64_t{0};
  constexpr uint64_t kNoBtsNoPebs = 3u << 11;  // of MISC_ENABLE: read-only ones
  std::vector<MsrField> out = {
      {msr::IA32_STAR, &m.star, kAll},
      {msr::IA32_LSTAR, &m.lstar, kAll},
      {msr::IA32_CSTAR, &m.cstar, kAll},
      {msr::IA32_FMASK, &m.sfmask, kAll},
      {msr::IA32_KERNEL_GS_BASE, &m.kernel_gs_base, kAll},
      {msr::IA32_SYSENTER_CS, &m.sysenter_cs, kAll},
      {msr::IA32_SYSENTER_ESP, &m.sysenter_esp, kAll},
      {msr::IA32_SYSENTER_EIP, &m.sysenter_eip, kAll},
      {msr::IA32_PAT, &m.pat, kAll},
      {msr::IA32_TSC_ADJUST, &m.tsc_adjust, kAll},
      {msr::IA32_TSC_AUX, &m.tsc_aux, kAll},
      {msr::IA32_MISC_ENABLE, &m.misc_enable, ~kNoBtsNoPebs},
      {msr::IA32_SPEC_CTRL, &m.spec_ctrl, kAll},
      {msr::IA32_XSS, &m.xss, kAll},
      {msr::IA32_DEBUGCTL, &m.debugctl, kAll},
      {msr::MSR_SMI_COUNT, &m.smi_count, kAll},
      {msr::IA32_MCG_STATUS, &m.mcg_status, kAll},
      {msr::IA32_MCG_CTL, &m.mcg_ctl, kAll},
      {msr::IA32_MTRR_DEF_TYPE, &m.mtrr_def_type, kAll},
      {msr::IA32_MTRR_FIX64K_00000, &m.mtrr_fixed[0], kAll},
      {msr::IA32_MTRR_FIX16K_80000, &m.mtrr_fixed[1], kAll},
      {msr::IA32_MTRR_FIX16K_A0000, &m.mtrr_fixed[2], kAll},
  };
  for (uint32_t i = 0; i < 8; ++i)
    out.push_back({msr::IA32_MTRR_FIX4K_C0000 + i, &m.mtrr_fixed[3 + i], kAll});
  for (uint32_t i = 0; i < std::size(m.mtrr_var); ++i)
    out.push_back({msr::IA32_MTRR_PHYSBASE0 + i, &m.mtrr_var[i], kAll});
  for (uint32_t i = 0; i < std::size(m.mc_ctl); ++i) {
    const uint32_t bank = msr::IA32_MC0_CTL + 4 * i;
    out.push_back({bank, &m.mc_ctl[i], kAll});
    out.push_back({bank + 1, &m.mc_status[i], kAll});
    out.push_back({bank + 2, &m.mc_addr[i], kAll});
    out.push_back({bank + 3, &m.mc_misc[i], kAll});
  }
  return out;
}

}  // namespace ostler::accel::kvm
