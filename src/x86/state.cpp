// Reset values (SDM 3A Table 10-1 "IA-32 and Intel 64 Processor States Following Power-up, Reset, or INIT")
// and the saved form.
#include "x86/state.h"

#include <cstring>

#include "state/archive.h"

namespace ostler::x86 {
namespace {

constexpr uint32_t kDataAttributes = 0x93;  // present, read/write, accessed
constexpr uint32_t kCodeAttributes = 0x9b;  // present, execute/read, accessed
constexpr uint32_t kLdtAttributes = 0x82;
constexpr uint32_t kTssAttributes = 0x8b;  // busy 32-bit

void segment_state(state::Archive& a, std::string_view name, Segment& segment) {
  a.field(name, segment.selector);
  a.field("base", segment.base);
  a.field("limit", segment.limit);
  a.field("attributes", segment.attributes);
  a.check((segment.attributes & ~0x1f0ffu) == 0, "segment attributes");
}

void msr_state(state::Archive& a, Msrs& m) {
  a.field("efer", m.efer);
  a.field("star", m.star);
  a.field("lstar", m.lstar);
  a.field("cstar", m.cstar);
  a.field("sfmask", m.sfmask);
  a.field("kernel_gs_base", m.kernel_gs_base);
  a.field("sysenter_cs", m.sysenter_cs);
  a.field("sysenter_esp", m.sysenter_esp);
  a.field("sysenter_eip", m.sysenter_eip);
  a.field("pat", m.pat);
  a.field("tsc_offset", m.tsc_offset);
  a.field("tsc_adjust", m.tsc_adjust);
  a.field("tsc_aux", m.tsc_aux);
  a.field("misc_enable", m.misc_enable);
  a.field("mtrr_def_type", m.mtrr_def_type);
  a.field("mtrr_fixed", m.mtrr_fixed);
  a.field("mtrr_var", m.mtrr_var);
  a.field("spec_ctrl", m.spec_ctrl);
  a.field("xss", m.xss);
  a.field("debugctl", m.debugctl);
  a.field("smi_count", m.smi_count);
  a.field("mcg_status", m.mcg_status);
  a.field("mcg_ctl", m.mcg_ctl);
  a.field("mc_ctl", m.mc_ctl);
  a.field("mc_status", m.mc_status);
  a.field("mc_addr", m.mc_addr);
  a.field("mc_misc", m.mc_misc);
  a.field("kvm_wall_clock", m.kvm_wall_clock);
  a.field("kvm_system_time", m.kvm_system_time);
  a.field("kvm_steal_time", m.kvm_steal_time);
  a.field("kvm_pv_eoi", m.kvm_pv_eoi);
  a.field("kvm_async_pf", m.kvm_async_pf);
}

void fx_state(state::Archive& a, FxState& fx) {
  a.field("fcw", fx.fcw);
  a.field("fsw", fx.fsw);
  a.field("ftw", fx.ftw);
  a.field("fop", fx.fop);
  a.field("fip", fx.fip);
  a.field("fdp", fx.fdp);
  a.field("mxcsr", fx.mxcsr);
  for (auto& st : fx.st) a.field("st", st);
  a.check((fx.mxcsr & 0xffff0000) == 0, "mxcsr");
}

}  // namespace

void CpuState::reset(bool init) {
  const CpuState old = *this;
  *this = CpuState{};

  rip = 0xfff0;
  gpr[kRdx] = 0x600;  // the engine puts the model's signature here, see CpuModel::signature()
  set_rflags(rflags::kFixed1);
  for (Segment& segment : seg) segment = {0, 0xffff, kDataAttributes, 0};
  seg[kCs] = {0xffff0000, 0xffff, kCodeAttributes, 0xf000};
  ldtr = {0, 0xffff, kLdtAttributes, 0};
  tr = {0, 0xffff, kTssAttributes, 0};
  gdtr = {0, 0xffff};
  idtr = {0, 0xffff};
  cr0 = cr0::kEt | cr0::kNw | cr0::kCd;
  dr[6] = 0xffff0ff0;
  dr[7] = 0x400;
  // RESET leaves the x87 control word at 0040H, as if before FNINIT; MXCSR is 1F80H either way.
  fx.fcw = 0x40;
  fx.ftw = 0xff;  // tags say "zero": not empty

  if (!init) return;
  // INIT: caches, x87, vector registers, and the model-specific registers keep their values.
  cr0 = (old.cr0 & (cr0::kCd | cr0::kNw)) | cr0::kEt;
  gpr[kRdx] = old.gpr[kRdx];
  fx = old.fx;
  std::memcpy(vec, old.vec, sizeof vec);
  xcr0 = old.xcr0;
  msr = old.msr;
  msr.efer = 0;  // long mode cannot survive CR0.PE = 0
}

void CpuState::state(state::Archive& a) {
  a.section("cpu", 1);
  for (unsigned i = 0; i < kZeroGpr; ++i) a.field("gpr", gpr[i]);
  a.field("rip", rip);
  uint64_t flags = rflags();
  a.field("rflags", flags);
  if (a.loading()) set_rflags(flags);
  a.field("interrupt_shadow", interrupt_shadow);
  a.field("nmi_blocked", nmi_blocked);
  a.field("activity", activity);
  a.check(activity <= Activity::kShutdown, "activity");
  for (Segment& segment : seg) segment_state(a, "seg", segment);
  segment_state(a, "ldtr", ldtr);
  segment_state(a, "tr", tr);
  a.field("gdtr.base", gdtr.base);
  a.field("gdtr.limit", gdtr.limit);
  a.field("idtr.base", idtr.base);
  a.field("idtr.limit", idtr.limit);
  a.field("cr0", cr0);
  a.field("cr2", cr2);
  a.field("cr3", cr3);
  a.field("cr4", cr4);
  a.field("xcr0", xcr0);
  a.check((xcr0 & 1) != 0 && (xcr0 & ~uint64_t{7}) == 0, "xcr0");
  a.field("pdpte", pdpte);
  a.field("dr", dr);
  msr_state(a, msr);
  fx_state(a, fx);
  for (auto& v : vec) a.field("vec", v);
  // What the modes are derived from must agree (SDM 3A §4.1): paging needs protection, LMA is LME with
  // paging.
  a.check((cr0 & (cr0::kPg | cr0::kPe)) != cr0::kPg, "cr0: paging without protection");
  const bool lma = (msr.efer & efer::kLma) != 0;
  const bool lme = (msr.efer & efer::kLme) != 0;
  a.check(lma == (lme && (cr0 & cr0::kPg) != 0), "efer.lma");
  a.check(!lma || (cr4 & cr4::kPae) != 0, "long mode without PAE");
}

}  // namespace ostler::x86
