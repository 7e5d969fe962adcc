// RDMSR and WRMSR. Registers that only remember are rows of a table; those that act or check are cases below
// it; the local APIC's and KVM's belong to the environment. Anything else is #GP(0), which is how kernels
// probe.
#include "base/log.h"
#include "interp/outside.h"
#include "interp/system/control.h"
#include "interp/system/handlers.h"
#include "x86/cpu_model.h"
#include "x86/msr_index.h"

#include <optional>

namespace ostler::interp {

using x86::Feature;
using x86::Msrs;
using x86::Vector;
namespace msr_index = x86::msr_index;

namespace {

enum class Rule : uint8_t { kAny, kCanonical };

struct PlainMsr {
  uint32_t index;
  uint64_t Msrs::*value;
  uint64_t writable;  // other bits: #GP(0)
  Rule rule;
};
constexpr uint64_t kAll = ~uint64_t{0};
constexpr PlainMsr kPlain[] = {
    {msr_index::IA32_SYSENTER_CS, &Msrs::sysenter_cs, 0xffffffff, Rule::kAny},
    {msr_index::IA32_SYSENTER_ESP, &Msrs::sysenter_esp, kAll, Rule::kCanonical},
    {msr_index::IA32_SYSENTER_EIP, &Msrs::sysenter_eip, kAll, Rule::kCanonical},
    {msr_index::IA32_STAR, &Msrs::star, kAll, Rule::kAny},
    {msr_index::IA32_LSTAR, &Msrs::lstar, kAll, Rule::kCanonical},
    {msr_index::IA32_CSTAR, &Msrs::cstar, kAll, Rule::kCanonical},
    {msr_index::IA32_FMASK, &Msrs::sfmask, 0xffffffff, Rule::kAny},
    {msr_index::IA32_KERNEL_GS_BASE, &Msrs::kernel_gs_base, kAll, Rule::kCanonical},
    {msr_index::IA32_MCG_STATUS, &Msrs::mcg_status, 0xf, Rule::kAny},
    {msr_index::IA32_MCG_CTL, &Msrs::mcg_ctl, kAll, Rule::kAny},
    {msr_index::IA32_DEBUGCTL, &Msrs::debugctl, 3, Rule::kAny},
    {msr_index::IA32_MTRR_DEF_TYPE, &Msrs::mtrr_def_type, 0xcff, Rule::kAny},
};

constexpr uint64_t kMachineCheckBanks = std::size(Msrs{}.mc_ctl);
constexpr uint64_t kMcgCap =
    kMachineCheckBanks | 1u << 8 /* MCG_CTL */ | 1u << 24 /* software error recovery */;
constexpr uint64_t kMtrrCap =
    8 /* variable ranges */ | 1u << 8 /* fixed ranges */ | 1u << 10 /* write combining */;
// No guest instruction is speculated on behalf of the guest across its own privilege boundaries: RDCL_NO,
// SKIP_L1DFL, SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO,
// GDS_NO, RFDS_NO, ITS_NO (SDM Vol. 4 Table 2-2). Guests then leave out page-table isolation, retpolines and
// return thunks, which would only cost.
constexpr uint64_t kArchCapabilities = 1u << 0 | 1u << 3 | 1u << 4 | 1u << 5 | 1u << 6 | 1u << 8 | 1u << 13 |
                                       1u << 14 | 1u << 15 | 1u << 20 | 1u << 24 | 1u << 26 | 1u << 27 |
                                       uint64_t{1} << 62;
constexpr uint64_t kIbrsAll = 1u << 1;  // with SPEC_CTRL: IBRS once set holds at every privilege level
constexpr uint64_t kIbrs = 1, kBhiDisS = 1u << 10;          // of SPEC_CTRL
constexpr uint64_t kMiscEnableFixed = 1u << 11 | 1u << 12;  // no BTS, no PEBS
constexpr uint64_t kMiscEnableWritable =
    1u << 0 | 1u << 3 | 1u << 16 | 1u << 18 | 1u << 22 | uint64_t{1} << 34;

bool valid_memory_type(uint64_t type) {
  return type == 0 || type == 1 || (type >= 4 && type <= 6);
}
bool valid_pat(uint64_t value) {
  for (unsigned i = 0; i < 8; ++i)
    if (const uint64_t type = value >> (8 * i) & 0xff; !valid_memory_type(type) && type != 7) return false;
  return true;
}
bool valid_fixed_mtrr(uint64_t value) {
  for (unsigned i = 0; i < 8; ++i)
    if (!valid_memory_type(value >> (8 * i) & 0xff)) return false;
  return true;
}

uint64_t* fixed_mtrr(Msrs& m, uint32_t index) {
  if (index == msr_index::IA32_MTRR_FIX64K_00000) return &m.mtrr_fixed[0];
  if (index == msr_index::IA32_MTRR_FIX16K_80000 || index == msr_index::IA32_MTRR_FIX16K_A0000)
    return &m.mtrr_fixed[1 + index - msr_index::IA32_MTRR_FIX16K_80000];
  if (index >= msr_index::IA32_MTRR_FIX4K_C0000 && index <= msr_index::IA32_MTRR_FIX4K_F8000)
    return &m.mtrr_fixed[3 + index - msr_index::IA32_MTRR_FIX4K_C0000];
  return nullptr;
}

bool is_variable_mtrr(uint32_t index) {
  return index >= msr_index::IA32_MTRR_PHYSBASE0 && index <= msr_index::IA32_MTRR_PHYSMASK7;
}

uint64_t* machine_check(Msrs& m, uint32_t index) {
  const uint32_t at = index - msr_index::IA32_MC0_CTL;
  if (index < msr_index::IA32_MC0_CTL || at >= kMachineCheckBanks * 4) return nullptr;
  uint64_t* const kinds[] = {m.mc_ctl, m.mc_status, m.mc_addr, m.mc_misc};
  return &kinds[at % 4][at / 4];
}

bool belongs_to_environment(uint32_t index) {
  return index == msr_index::IA32_APIC_BASE || index == msr_index::IA32_TSC_DEADLINE ||
         (index >= msr_index::IA32_X2APIC_FIRST && index <= msr_index::IA32_X2APIC_LAST) ||
         index == msr_index::KVM_WALL_CLOCK || index == msr_index::KVM_SYSTEM_TIME ||
         (index >= msr_index::KVM_FIRST && index <= msr_index::KVM_LAST);
}

bool has_tsc_aux(const Cpu& cpu) {
  return cpu.model.has(Feature::kRdtscp) || cpu.model.has(Feature::kRdpid);
}

// AMD's: answered with what a quiet processor shows; writes are taken and change nothing.
std::optional<uint64_t> read_amd(uint32_t index) {
  if (index >= msr_index::AMD_PERFEVTSEL0 && index <= msr_index::AMD_PERFCTR3) return 0;
  if (index >= msr_index::AMD_PSTATE_LIMIT && index <= msr_index::AMD_PSTATE_STATUS) return 0;
  if (index >= msr_index::AMD_LS_CFG && index <= msr_index::AMD_BU_CFG) return 0;
  switch (index) {
    case msr_index::AMD_HWCR:
      return 1u << 24;  // the TSC counts at the P0 frequency
    case msr_index::AMD_DE_CFG:
      return 1u << 1;  // LFENCE is serializing
    case msr_index::AMD_VM_CR:
      return 1u << 4;  // SVM disabled
    case msr_index::AMD_SYSCFG:
    case msr_index::AMD_TOP_MEM:
    case msr_index::AMD_TOP_MEM2:
    case msr_index::AMD_NB_CFG:
    case msr_index::AMD_PATCH_LOADER:
    case msr_index::AMD_INT_PENDING:
    case msr_index::AMD_SMM_ADDR:
    case msr_index::AMD_SMM_MASK:
    case msr_index::AMD_BU_CFG2:
      return 0;
    default:
      return std::nullopt;
  }
}

std::optional<uint64_t> read(Cpu& cpu, uint32_t index) {
  x86::CpuState& s = cpu.s;
  Msrs& m = s.msr;
  for (const PlainMsr& plain : kPlain)
    if (plain.index == index) return m.*plain.value;
  if (belongs_to_environment(index)) return outside_guest(cpu, [&] { return cpu.env.read_msr(index); });
  if (const uint64_t* fixed = fixed_mtrr(m, index)) return *fixed;
  if (is_variable_mtrr(index)) return m.mtrr_var[index - msr_index::IA32_MTRR_PHYSBASE0];
  if (const uint64_t* bank = machine_check(m, index)) return *bank;
  switch (index) {
    case msr_index::IA32_TIME_STAMP_COUNTER:
      return cpu.env.tsc();
    case msr_index::IA32_TSC_ADJUST:
      if (!cpu.model.has(Feature::kTscAdjust)) return std::nullopt;
      return m.tsc_adjust;
    case msr_index::IA32_EFER:
      return m.efer;
    case msr_index::IA32_FS_BASE:
      return s.seg[x86::kFs].base;
    case msr_index::IA32_GS_BASE:
      return s.seg[x86::kGs].base;
    case msr_index::IA32_TSC_AUX:
      if (!has_tsc_aux(cpu)) return std::nullopt;
      return m.tsc_aux;
    case msr_index::IA32_PAT:
      return m.pat;
    case msr_index::IA32_MISC_ENABLE:
      return m.misc_enable | kMiscEnableFixed;
    case msr_index::IA32_MTRRCAP:
      return kMtrrCap;
    case msr_index::IA32_MCG_CAP:
      return kMcgCap;
    case msr_index::IA32_BIOS_SIGN_ID:
      return cpu.model.amd() ? 0x01000065 : uint64_t{1} << 32;
    case msr_index::IA32_FEATURE_CONTROL:
      return 1;  // locked, nothing enabled
    case msr_index::MSR_PLATFORM_INFO:
      return (cpu.env.vcpu_info().tsc_hz / 100'000'000 & 0xff) << 8;
    case msr_index::MSR_SMI_COUNT:
      return m.smi_count;
    case msr_index::IA32_ARCH_CAPABILITIES:
      if (!cpu.model.has(Feature::kArchCapabilities)) return std::nullopt;
      return kArchCapabilities | (cpu.model.has(Feature::kSpecCtrl) ? kIbrsAll : 0);
    case msr_index::IA32_SPEC_CTRL:
      if (!cpu.model.has(Feature::kSpecCtrl)) return std::nullopt;
      return m.spec_ctrl;
    case msr_index::IA32_XSS:
      if (!cpu.model.has(Feature::kXsaves)) return std::nullopt;
      return m.xss;
    case msr_index::IA32_P5_MC_ADDR:
    case msr_index::IA32_P5_MC_TYPE:
    case msr_index::IA32_PLATFORM_ID:
    case msr_index::MSR_EBL_CR_POWERON:
    case msr_index::IA32_PERF_STATUS:
    case msr_index::IA32_PERF_CTL:
      return 0;
    default:
      break;
  }
  if (index >= msr_index::MSR_LASTBRANCHFROMIP && index <= msr_index::MSR_LASTINTTOIP) return 0;
  return cpu.model.amd() ? read_amd(index) : std::nullopt;
}

void move_tsc(Cpu& cpu, uint64_t delta) {
  cpu.s.msr.tsc_offset += delta;
  cpu.env.tsc_changed();
}

bool write_variable_mtrr(Cpu& cpu, uint32_t index, uint64_t value) {
  const uint32_t at = index - msr_index::IA32_MTRR_PHYSBASE0;
  const bool mask = (at & 1) != 0;
  const uint64_t address = ((uint64_t{1} << cpu.model.physical_bits()) - 1) & ~uint64_t{0xfff};
  const uint64_t allowed = address | (mask ? 0x800 : 0xff);
  if ((value & ~allowed) != 0 || (!mask && !valid_memory_type(value & 0xff))) return false;
  cpu.s.msr.mtrr_var[at] = value;
  return true;
}

// False: #GP(0).
bool write(Cpu& cpu, uint32_t index, uint64_t value) {
  x86::CpuState& s = cpu.s;
  Msrs& m = s.msr;
  if (index == msr_index::IA32_MTRR_DEF_TYPE && !valid_memory_type(value & 0xff)) return false;
  for (const PlainMsr& plain : kPlain) {
    if (plain.index != index) continue;
    if ((value & ~plain.writable) != 0) return false;
    if (plain.rule == Rule::kCanonical && !cpu.canonical(value)) return false;
    m.*plain.value = value;
    return true;
  }
  if (belongs_to_environment(index))
    return outside_guest(cpu, [&] { return cpu.env.write_msr(index, value); });
  if (uint64_t* fixed = fixed_mtrr(m, index)) {
    if (!valid_fixed_mtrr(value)) return false;
    *fixed = value;
    return true;
  }
  if (is_variable_mtrr(index)) return write_variable_mtrr(cpu, index, value);
  if (uint64_t* bank = machine_check(m, index)) {
    // Status, address and miscellaneous registers only take zero (SDM 3B §16.3.2.2); control takes all or
    // none.
    const bool control = (index & 3) == 0;
    if (!control && value != 0) return false;
    *bank = value;
    return true;
  }
  switch (index) {
    case msr_index::IA32_TIME_STAMP_COUNTER: {
      const uint64_t delta = value - cpu.env.tsc();
      m.tsc_adjust += delta;
      move_tsc(cpu, delta);
      return true;
    }
    case msr_index::IA32_TSC_ADJUST: {
      if (!cpu.model.has(Feature::kTscAdjust)) return false;
      const uint64_t delta = value - m.tsc_adjust;
      m.tsc_adjust = value;
      move_tsc(cpu, delta);
      return true;
    }
    case msr_index::IA32_EFER:
      write_efer(cpu, value);
      cpu.mode_changed();
      return true;
    case msr_index::IA32_FS_BASE:
    case msr_index::IA32_GS_BASE:
      if (!cpu.canonical(value)) return false;
      s.seg[index == msr_index::IA32_FS_BASE ? x86::kFs : x86::kGs].base = value;
      return true;
    case msr_index::IA32_TSC_AUX:
      if (!has_tsc_aux(cpu) || (value >> 32) != 0) return false;
      m.tsc_aux = value;
      return true;
    case msr_index::IA32_PAT:
      if (!valid_pat(value)) return false;
      m.pat = value;
      return true;
    case msr_index::IA32_MISC_ENABLE:
      m.misc_enable = value & kMiscEnableWritable;
      return true;
    case msr_index::IA32_XSS:
      return cpu.model.has(Feature::kXsaves) && value == 0;
    case msr_index::IA32_SPEC_CTRL: {
      const uint64_t writable = kIbrs | (cpu.model.has(Feature::kBhiCtrl) ? kBhiDisS : 0);
      if (!cpu.model.has(Feature::kSpecCtrl) || (value & ~writable) != 0) return false;
      m.spec_ctrl = value;
      return true;
    }
    case msr_index::IA32_PRED_CMD:  // IBPB: there are no predictions to drop
      return (cpu.model.has(Feature::kSpecCtrl) || cpu.model.has(Feature::kIbpb)) &&
             (value & ~uint64_t{1}) == 0;
    case msr_index::IA32_BIOS_SIGN_ID:    // software clears it before reading the revision
    case msr_index::IA32_BIOS_UPDT_TRIG:  // there is no microcode to update
    case msr_index::IA32_PERF_CTL:
    case msr_index::IA32_P5_MC_ADDR:
    case msr_index::IA32_P5_MC_TYPE:
    case msr_index::MSR_EBL_CR_POWERON:
      return true;
    default:
      return cpu.model.amd() && read_amd(index).has_value();
  }
}

}  // namespace

const Op* read_msr(Cpu& cpu, const Op* op) {
  require_ring0(cpu);
  const uint32_t index = cpu.reg<uint32_t>(x86::kRcx * 8);
  const std::optional<uint64_t> value = read(cpu, index);
  if (!value) {
    log::guest_error("RDMSR of unknown register {:#x} at {:#x}", index, cpu.current_rip(*op));
    x86::raise(Vector::kGp, 0);
  }
  cpu.s.gpr[x86::kRax] = static_cast<uint32_t>(*value);
  cpu.s.gpr[x86::kRdx] = *value >> 32;
  return next(cpu, op);
}

const Op* write_msr(Cpu& cpu, const Op* op) {
  require_ring0(cpu);
  const uint32_t index = cpu.reg<uint32_t>(x86::kRcx * 8);
  const uint64_t value = cpu.reg<uint32_t>(x86::kRax * 8) | uint64_t{cpu.reg<uint32_t>(x86::kRdx * 8)} << 32;
  if (!write(cpu, index, value)) {
    log::guest_error("WRMSR of {:#x} to register {:#x} refused at {:#x}", value, index, cpu.current_rip(*op));
    x86::raise(Vector::kGp, 0);
  }
  return leave(cpu, op);
}

}  // namespace ostler::interp
