// The architectural state of one x86-64 logical processor, shared by every engine (SDM Vol. 1 §3, 3A §2).
// Owned by the vCPU's thread while it runs; others touch it only while the vCPU is paused.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace ostler::state {
class Archive;
}

namespace ostler::x86 {

enum GprIndex : uint8_t {
  kRax,
  kRcx,
  kRdx,
  kRbx,
  kRsp,
  kRbp,
  kRsi,
  kRdi,
  kR8,
  kR9,
  kR10,
  kR11,
  kR12,
  kR13,
  kR14,
  kR15,
  kZeroGpr,  // always 0: the base or index of an address that has none
};

enum SegIndex : uint8_t { kEs, kCs, kSs, kDs, kFs, kGs };

namespace rflags {
inline constexpr uint64_t kCf = 1u << 0, kFixed1 = 1u << 1, kPf = 1u << 2, kAf = 1u << 4, kZf = 1u << 6,
                          kSf = 1u << 7, kTf = 1u << 8, kIf = 1u << 9, kDf = 1u << 10, kOf = 1u << 11,
                          kIopl = 3u << 12, kNt = 1u << 14, kRf = 1u << 16, kVm = 1u << 17, kAc = 1u << 18,
                          kVif = 1u << 19, kVip = 1u << 20, kId = 1u << 21;
inline constexpr uint64_t kArithmetic = kCf | kPf | kAf | kZf | kSf | kOf;
}  // namespace rflags

namespace cr0 {
inline constexpr uint64_t kPe = 1u << 0, kMp = 1u << 1, kEm = 1u << 2, kTs = 1u << 3, kEt = 1u << 4,
                          kNe = 1u << 5, kWp = 1u << 16, kAm = 1u << 18, kNw = 1u << 29, kCd = 1u << 30,
                          kPg = 1u << 31;
}
namespace cr4 {
inline constexpr uint64_t kVme = 1u << 0, kPvi = 1u << 1, kTsd = 1u << 2, kDe = 1u << 3, kPse = 1u << 4,
                          kPae = 1u << 5, kMce = 1u << 6, kPge = 1u << 7, kPce = 1u << 8, kOsfxsr = 1u << 9,
                          kOsxmmexcpt = 1u << 10, kUmip = 1u << 11, kLa57 = 1u << 12, kFsgsbase = 1u << 16,
                          kPcide = 1u << 17, kOsxsave = 1u << 18, kSmep = 1u << 20, kSmap = 1u << 21;
}
namespace efer {
inline constexpr uint64_t kSce = 1u << 0, kLme = 1u << 8, kLma = 1u << 10, kNxe = 1u << 11;
}

// A segment register with its hidden part. `attributes` has the layout of VMX access rights (SDM 3C §25.4.1):
// type 3:0, S 4, DPL 6:5, P 7, AVL 12, L 13, D/B 14, G 15, unusable 16. `limit` is in bytes, already scaled
// by G.
struct Segment {
  uint64_t base = 0;
  uint32_t limit = 0;
  uint32_t attributes = 0;
  uint16_t selector = 0;

  static constexpr uint32_t kSystemBit = 1u << 4, kPresent = 1u << 7, kLong = 1u << 13,
                            kDefaultBig = 1u << 14, kGranularity = 1u << 15, kUnusable = 1u << 16;
  unsigned type() const { return attributes & 15; }
  unsigned dpl() const { return (attributes >> 5) & 3; }
  bool is_long() const { return (attributes & kLong) != 0; }
  bool is_big() const { return (attributes & kDefaultBig) != 0; }
  bool usable() const { return (attributes & kUnusable) == 0; }
};

struct TableRegister {  // GDTR, IDTR
  uint64_t base = 0;
  uint16_t limit = 0;
};

// The first 160 bytes of an FXSAVE image (SDM Vol. 1 Table 10-2): x87 registers in stack order, MXCSR.
struct FxState {
  uint16_t fcw = 0x37f;
  uint16_t fsw = 0;
  uint8_t ftw = 0;  // abridged: bit set = register valid
  uint8_t reserved = 0;
  uint16_t fop = 0;
  uint64_t fip = 0;
  uint64_t fdp = 0;
  uint32_t mxcsr = 0x1f80;
  uint32_t mxcsr_mask = 0;
  uint8_t st[8][16] = {};  // ST(i), MMi in the low 8 bytes
};
static_assert(sizeof(FxState) == 160);

enum class Activity : uint8_t { kRunning, kHalted, kWaitForSipi, kShutdown };

// Model-specific registers that are plain storage or act when written; the local APIC's live in the APIC.
struct Msrs {
  uint64_t efer = 0, star = 0, lstar = 0, cstar = 0, sfmask = 0, kernel_gs_base = 0;
  uint64_t sysenter_cs = 0, sysenter_esp = 0, sysenter_eip = 0;
  uint64_t pat = 0x0007040600070406;
  uint64_t tsc_offset = 0;  // guest TSC = host TSC + offset
  uint64_t tsc_adjust = 0, tsc_aux = 0;
  uint64_t misc_enable = 1;
  uint64_t mtrr_def_type = 0, mtrr_fixed[11] = {}, mtrr_var[16] = {};  // base, mask pairs
  uint64_t spec_ctrl = 0, xss = 0, debugctl = 0, smi_count = 0;
  uint64_t mcg_status = 0, mcg_ctl = 0, mc_ctl[4] = {}, mc_status[4] = {}, mc_addr[4] = {}, mc_misc[4] = {};
  uint64_t kvm_wall_clock = 0, kvm_system_time = 0, kvm_steal_time = 0, kvm_pv_eoi = 0, kvm_async_pf = 0;
};

struct alignas(64) CpuState {
  std::array<uint64_t, 17> gpr{};  // [kZeroGpr] stays 0
  uint64_t rip = 0;
  // CF PF AF ZF SF in the high byte and OF in bit 0 of the low byte: what LAHF and SETO AL leave in AX, so
  // that engines can produce and consume it with the host's own flags.
  uint16_t flags_ax = 0x0200;
  bool interrupt_shadow = false;  // the instruction after STI, MOV SS, POP SS
  bool nmi_blocked = false;       // from NMI delivery to IRET
  Activity activity = Activity::kRunning;
  uint64_t flags_rest = rflags::kFixed1;  // RFLAGS without the arithmetic flags

  std::array<Segment, 6> seg{};  // by SegIndex
  Segment ldtr, tr;
  TableRegister gdtr, idtr;
  uint64_t cr0 = 0, cr2 = 0, cr3 = 0, cr4 = 0, xcr0 = 1;
  uint64_t pdpte[4] = {};  // loaded with CR3 under PAE paging (SDM 3A §4.4.1)
  std::array<uint64_t, 8> dr{};
  Msrs msr;

  alignas(64) FxState fx;
  alignas(32) uint8_t vec[16][32] = {};  // YMM0..15; XMMi is the low half

  uint64_t rflags() const {
    return flags_rest | ((flags_ax >> 8) & 0xd5) | (static_cast<uint64_t>(flags_ax & 1) << 11);
  }
  void set_rflags(uint64_t value) {
    flags_ax = static_cast<uint16_t>(((value & 0xd5) | 2) << 8 | ((value >> 11) & 1));
    flags_rest = (value & ~rflags::kArithmetic) | rflags::kFixed1;
  }
  bool flag(uint64_t rest_mask) const { return (flags_rest & rest_mask) != 0; }  // not for arithmetic flags

  bool protected_mode() const { return (cr0 & cr0::kPe) != 0; }
  bool v8086() const { return (flags_rest & rflags::kVm) != 0; }
  bool long_mode() const { return (msr.efer & efer::kLma) != 0; }
  bool code64() const { return long_mode() && seg[kCs].is_long(); }
  unsigned cpl() const { return protected_mode() ? (v8086() ? 3u : seg[kSs].dpl()) : 0u; }

  // Power-up or INIT values, SDM 3A Table 10-1. INIT keeps x87, vector state, MTRRs and most MSRs.
  void reset(bool init);
  void state(state::Archive& archive);
};

}  // namespace ostler::x86
