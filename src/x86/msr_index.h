// Model-specific registers by number (SDM Vol. 4; AMD PPR; Linux Documentation/virt/kvm/x86/msr.rst).
#pragma once

#include <cstdint>

namespace ostler::x86::msr_index {

inline constexpr uint32_t IA32_P5_MC_ADDR = 0x0, IA32_P5_MC_TYPE = 0x1, IA32_TIME_STAMP_COUNTER = 0x10,
                          IA32_PLATFORM_ID = 0x17, IA32_APIC_BASE = 0x1b, MSR_EBL_CR_POWERON = 0x2a,
                          MSR_SMI_COUNT = 0x34, IA32_FEATURE_CONTROL = 0x3a, IA32_TSC_ADJUST = 0x3b,
                          IA32_SPEC_CTRL = 0x48, IA32_PRED_CMD = 0x49, IA32_BIOS_UPDT_TRIG = 0x79,
                          IA32_BIOS_SIGN_ID = 0x8b, MSR_PLATFORM_INFO = 0xce, IA32_MTRRCAP = 0xfe,
                          IA32_ARCH_CAPABILITIES = 0x10a, IA32_SYSENTER_CS = 0x174, IA32_SYSENTER_ESP = 0x175,
                          IA32_SYSENTER_EIP = 0x176, IA32_MCG_CAP = 0x179, IA32_MCG_STATUS = 0x17a,
                          IA32_MCG_CTL = 0x17b, IA32_PERF_STATUS = 0x198, IA32_PERF_CTL = 0x199,
                          IA32_MISC_ENABLE = 0x1a0, IA32_DEBUGCTL = 0x1d9, MSR_LASTBRANCHFROMIP = 0x1db,
                          MSR_LASTINTTOIP = 0x1de, IA32_MTRR_PHYSBASE0 = 0x200, IA32_MTRR_PHYSMASK7 = 0x20f,
                          IA32_MTRR_FIX64K_00000 = 0x250, IA32_MTRR_FIX16K_80000 = 0x258,
                          IA32_MTRR_FIX16K_A0000 = 0x259, IA32_MTRR_FIX4K_C0000 = 0x268,
                          IA32_MTRR_FIX4K_F8000 = 0x26f, IA32_PAT = 0x277, IA32_MTRR_DEF_TYPE = 0x2ff,
                          IA32_MC0_CTL = 0x400, IA32_TSC_DEADLINE = 0x6e0, IA32_X2APIC_FIRST = 0x800,
                          IA32_X2APIC_LAST = 0x8ff, IA32_XSS = 0xda0;

inline constexpr uint32_t IA32_EFER = 0xc0000080, IA32_STAR = 0xc0000081, IA32_LSTAR = 0xc0000082,
                          IA32_CSTAR = 0xc0000083, IA32_FMASK = 0xc0000084, IA32_FS_BASE = 0xc0000100,
                          IA32_GS_BASE = 0xc0000101, IA32_KERNEL_GS_BASE = 0xc0000102,
                          IA32_TSC_AUX = 0xc0000103;

inline constexpr uint32_t AMD_PERFEVTSEL0 = 0xc0010000, AMD_PERFCTR3 = 0xc0010007, AMD_SYSCFG = 0xc0010010,
                          AMD_HWCR = 0xc0010015, AMD_TOP_MEM = 0xc001001a, AMD_TOP_MEM2 = 0xc001001d,
                          AMD_NB_CFG = 0xc001001f, AMD_PATCH_LOADER = 0xc0010020,
                          AMD_INT_PENDING = 0xc0010055, AMD_PSTATE_LIMIT = 0xc0010061,
                          AMD_PSTATE_STATUS = 0xc0010063, AMD_SMM_ADDR = 0xc0010112,
                          AMD_SMM_MASK = 0xc0010113, AMD_VM_CR = 0xc0010114, AMD_LS_CFG = 0xc0011020,
                          AMD_BU_CFG = 0xc0011023, AMD_DE_CFG = 0xc0011029, AMD_BU_CFG2 = 0xc001102a;

inline constexpr uint32_t KVM_WALL_CLOCK = 0x11, KVM_SYSTEM_TIME = 0x12, KVM_FIRST = 0x4b564d00,
                          KVM_LAST = 0x4b564dff;

}  // namespace ostler::x86::msr_index
