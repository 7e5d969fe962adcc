// Where our decoder and Zydis 4.0 may differ, each with its reason.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "x86/opcode_feature.h"
#include "zydis_subject.h"

namespace ostler::x86 {

bool not_offered(const Subject& s) {
  switch (s.theirs.encoding) {
    case ZYDIS_INSTRUCTION_ENCODING_3DNOW:
    case ZYDIS_INSTRUCTION_ENCODING_XOP:
    case ZYDIS_INSTRUCTION_ENCODING_EVEX:
    case ZYDIS_INSTRUCTION_ENCODING_MVEX:
      return true;
    default:
      break;
  }
  switch (s.theirs.meta.isa_ext) {
    case ZYDIS_ISA_EXT_AMD3DNOW:
    case ZYDIS_ISA_EXT_AMD_INVLPGB:
    case ZYDIS_ISA_EXT_AMX_BF16:
    case ZYDIS_ISA_EXT_AMX_INT8:
    case ZYDIS_ISA_EXT_AMX_TILE:
    case ZYDIS_ISA_EXT_AVX512VEX:
    case ZYDIS_ISA_EXT_CET:
    case ZYDIS_ISA_EXT_CLZERO:
    case ZYDIS_ISA_EXT_ENQCMD:
    case ZYDIS_ISA_EXT_FMA4:
    case ZYDIS_ISA_EXT_HRESET:
    case ZYDIS_ISA_EXT_KEYLOCKER:
    case ZYDIS_ISA_EXT_KEYLOCKER_WIDE:
    case ZYDIS_ISA_EXT_KNC:
    case ZYDIS_ISA_EXT_KNCE:
    case ZYDIS_ISA_EXT_KNCV:
    case ZYDIS_ISA_EXT_MCOMMIT:
    case ZYDIS_ISA_EXT_MONITORX:
    case ZYDIS_ISA_EXT_MOVDIR:
    case ZYDIS_ISA_EXT_PADLOCK:
    case ZYDIS_ISA_EXT_PCONFIG:
    case ZYDIS_ISA_EXT_PKU:
    case ZYDIS_ISA_EXT_PT:
    case ZYDIS_ISA_EXT_RDPRU:
    case ZYDIS_ISA_EXT_RTM:
    case ZYDIS_ISA_EXT_SGX:
    case ZYDIS_ISA_EXT_SGX_ENCLV:
    case ZYDIS_ISA_EXT_SMX:
    case ZYDIS_ISA_EXT_SNP:
    case ZYDIS_ISA_EXT_SSE4A:
    case ZYDIS_ISA_EXT_TDX:
    case ZYDIS_ISA_EXT_TSX_LDTRK:
    case ZYDIS_ISA_EXT_UINTR:
    case ZYDIS_ISA_EXT_VMFUNC:
    case ZYDIS_ISA_EXT_WAITPKG:
    case ZYDIS_ISA_EXT_XOP:
      return true;
    case ZYDIS_ISA_EXT_VTX:
      return s.theirs.mnemonic != ZYDIS_MNEMONIC_VMCALL;
    case ZYDIS_ISA_EXT_SVM:
      return s.theirs.mnemonic != ZYDIS_MNEMONIC_VMMCALL;
    default:
      return false;
  }
}

bool same_instruction(const Subject& s, std::string_view our_name) {
  using Pair = std::pair<std::string_view, std::string_view>;
  static constexpr auto kSame = std::to_array<Pair>({
      {"fndisi", "fdisi8087_nop"},
      {"fneni", "feni8087_nop"},
      {"fnsetpm", "fsetpm287_nop"},
      {"fstp", "fstpnce"},  // D9 D8: the undocumented alias
      {"wait", "fwait"},
      {"retf", "ret"},
      {"movsx", "movsxd"},
      // One name for every address size or hint
      {"jcxz", "jecxz"},
      {"jcxz", "jrcxz"},
      {"prefetch", "prefetchnta"},
      {"prefetch", "prefetcht0"},
      {"prefetch", "prefetcht1"},
      {"prefetch", "prefetcht2"},
      {"prefetch", "prefetchwt1"},
      // REX.W is in operand_size
      {"fxsave", "fxsave64"},
      {"fxrstor", "fxrstor64"},
      {"xsave", "xsave64"},
      {"xsavec", "xsavec64"},
      {"xsaveopt", "xsaveopt64"},
      {"xsaves", "xsaves64"},
      {"xrstor", "xrstor64"},
      {"xrstors", "xrstors64"},
  });
  return std::ranges::find(kSame, Pair{our_name, s.their_name()}) != kSame.end();
}

bool ignore_operands(const Subject& s) {
  switch (s.ours.opcode) {
    case Opcode::kNop:     // Zydis lists ModRM.reg as a second operand of some hints, nobody reads it
    case Opcode::kFucomp:  // ST0 implied or listed
      return true;
    default:
      return false;
  }
}

bool ignore_operand_width(const Subject& s) {
  switch (s.ours.opcode) {
    // Work on AL or AH alone: 1, where Zydis gives the default
    case Opcode::kAaa:
    case Opcode::kAad:
    case Opcode::kAam:
    case Opcode::kAas:
    case Opcode::kDaa:
    case Opcode::kDas:
    case Opcode::kLahf:
    case Opcode::kSahf:
    case Opcode::kSalc:
    case Opcode::kXlat:
    // Have no 16-bit form: 66 does not change what they do
    case Opcode::kAndn:
    case Opcode::kBextr:
    case Opcode::kBlsi:
    case Opcode::kBlsmsk:
    case Opcode::kBlsr:
    case Opcode::kBzhi:
    case Opcode::kMulx:
    case Opcode::kPdep:
    case Opcode::kPext:
    case Opcode::kRorx:
    case Opcode::kSarx:
    case Opcode::kShlx:
    case Opcode::kShrx:
    case Opcode::kMovnti:
    case Opcode::kRdpid:
    case Opcode::kRdfsbase:
    case Opcode::kRdgsbase:
    case Opcode::kWrfsbase:
    case Opcode::kWrgsbase:
    case Opcode::kSgdt:
    case Opcode::kSidt:
    // The operand size means nothing
    case Opcode::kClflush:
    case Opcode::kClflushopt:
    case Opcode::kClwb:
    case Opcode::kCmpxchg8b:
    case Opcode::kInvlpg:
    case Opcode::kNop:
    case Opcode::kSyscall:
      return true;
    // There is no 64-bit port access
    case Opcode::kIns:
    case Opcode::kOuts:
      return s.ours.operand_size == 4 && s.theirs.operand_width == 64;
    default:
      return false;
  }
}

bool ignore_size(const Subject& s) {
  switch (s.ours.opcode) {
    case Opcode::kClflush:  // a cache line; we say one byte
    case Opcode::kClflushopt:
    case Opcode::kClwb:
    case Opcode::kLar:  // read 16 bits of the source register whatever the operand size
    case Opcode::kLsl:
    case Opcode::kMovmskps:  // the upper half is zero either way
    case Opcode::kMovmskpd:
    case Opcode::kUd0:  // never executed
    case Opcode::kUd1:
      return true;
    case Opcode::kMovsx:  // MOVSXD with 66 reads 16 bits (SDM Vol. 2B, and processors do)
      return s.theirs.mnemonic == ZYDIS_MNEMONIC_MOVSXD && s.ours.operand_size == 2;
    default:
      return false;
  }
}

// SIB with base 101b and mod 0 has no base (SDM Vol. 2A Table 2-3). Zydis 4.0 reports R13D with REX.B and a
// 67 prefix.
bool wrong_base(const Subject& s, const ZydisDecodedOperand& operand) {
  return operand.mem.base == ZYDIS_REGISTER_R13D && s.theirs.raw.modrm.mod == 0 &&
         s.theirs.raw.modrm.rm == 4 && s.theirs.raw.sib.base == 5 && s.ours.base == kNoRegister;
}

bool alignment_exempt(const Subject& s) {
  switch (s.ours.opcode) {  // SDM Vol. 2A Table 2-21, note
    case Opcode::kLddqu:
    case Opcode::kMaskmovdqu:
    case Opcode::kMovdqu:
    case Opcode::kMovupd:
    case Opcode::kMovups:
    case Opcode::kPcmpestri:
    case Opcode::kPcmpestrm:
    case Opcode::kPcmpistri:
    case Opcode::kPcmpistrm:
      return true;
    default:
      return false;
  }
}

std::string compare_feature(const Subject& s) {
  static constexpr auto kSets = std::to_array<std::pair<ZydisISASet, Feature>>({
      {ZYDIS_ISA_SET_ADOX_ADCX, Feature::kAdx},
      {ZYDIS_ISA_SET_AES, Feature::kAes},
      {ZYDIS_ISA_SET_AVX, Feature::kAvx},
      {ZYDIS_ISA_SET_AVX2, Feature::kAvx2},
      {ZYDIS_ISA_SET_AVX2GATHER, Feature::kAvx2},
      {ZYDIS_ISA_SET_AVXAES, Feature::kAes},
      {ZYDIS_ISA_SET_AVX_GFNI, Feature::kGfni},
      {ZYDIS_ISA_SET_AVX_VNNI, Feature::kAvxVnni},
      {ZYDIS_ISA_SET_BMI1, Feature::kBmi1},
      {ZYDIS_ISA_SET_BMI2, Feature::kBmi2},
      {ZYDIS_ISA_SET_CLFLUSHOPT, Feature::kClflushopt},
      {ZYDIS_ISA_SET_CLFSH, Feature::kClflush},
      {ZYDIS_ISA_SET_CLWB, Feature::kClwb},
      {ZYDIS_ISA_SET_CMOV, Feature::kCmov},
      {ZYDIS_ISA_SET_CMPXCHG16B, Feature::kCx16},
      {ZYDIS_ISA_SET_F16C, Feature::kF16c},
      {ZYDIS_ISA_SET_FCMOV, Feature::kCmov},
      {ZYDIS_ISA_SET_FMA, Feature::kFma},
      {ZYDIS_ISA_SET_FXSAVE, Feature::kFxsr},
      {ZYDIS_ISA_SET_FXSAVE64, Feature::kFxsr},
      {ZYDIS_ISA_SET_GFNI, Feature::kGfni},
      {ZYDIS_ISA_SET_INVPCID, Feature::kInvpcid},
      {ZYDIS_ISA_SET_LZCNT, Feature::kAbm},
      {ZYDIS_ISA_SET_MONITOR, Feature::kMonitor},
      {ZYDIS_ISA_SET_MOVBE, Feature::kMovbe},
      {ZYDIS_ISA_SET_PCLMULQDQ, Feature::kPclmulqdq},
      {ZYDIS_ISA_SET_POPCNT, Feature::kPopcnt},
      {ZYDIS_ISA_SET_RDPID, Feature::kRdpid},
      {ZYDIS_ISA_SET_RDRAND, Feature::kRdrand},
      {ZYDIS_ISA_SET_RDSEED, Feature::kRdseed},
      {ZYDIS_ISA_SET_RDTSCP, Feature::kRdtscp},
      {ZYDIS_ISA_SET_RDWRFSGS, Feature::kFsgsbase},
      {ZYDIS_ISA_SET_SERIALIZE, Feature::kSerialize},
      {ZYDIS_ISA_SET_SHA, Feature::kSha},
      {ZYDIS_ISA_SET_SMAP, Feature::kSmap},
      {ZYDIS_ISA_SET_SSE, Feature::kSse},
      {ZYDIS_ISA_SET_SSE2, Feature::kSse2},
      {ZYDIS_ISA_SET_SSE2MMX, Feature::kSse2},
      {ZYDIS_ISA_SET_SSE3, Feature::kSse3},
      {ZYDIS_ISA_SET_SSE3X87, Feature::kSse3},
      {ZYDIS_ISA_SET_SSE4, Feature::kSse41},
      {ZYDIS_ISA_SET_SSE42, Feature::kSse42},
      {ZYDIS_ISA_SET_SSEMXCSR, Feature::kSse},
      {ZYDIS_ISA_SET_SSSE3, Feature::kSsse3},
      {ZYDIS_ISA_SET_SSSE3MMX, Feature::kSsse3},
      {ZYDIS_ISA_SET_VAES, Feature::kVaes},
      {ZYDIS_ISA_SET_VPCLMULQDQ, Feature::kVpclmulqdq},
      {ZYDIS_ISA_SET_XSAVE, Feature::kXsave},
      {ZYDIS_ISA_SET_XSAVEC, Feature::kXsavec},
      {ZYDIS_ISA_SET_XSAVEOPT, Feature::kXsaveopt},
      {ZYDIS_ISA_SET_XSAVES, Feature::kXsaves},
  });
  const Feature ours = opcode_feature(s.ours);
  // The 128-bit VEX form came with AVX, not with VPCLMULQDQ (SDM Vol. 2B, PCLMULQDQ).
  if (s.ours.opcode == Opcode::kPclmulqdq && !s.ours.vex_l && ours == Feature::kPclmulqdq) return {};
  for (const auto& [set, feature] : kSets) {
    if (set != s.theirs.meta.isa_set || feature == ours) continue;
    return fmt::format("feature {}", ours == kNoFeature ? "none" : feature_info(ours).spelling);
  }
  return {};
}

}  // namespace ostler::x86
