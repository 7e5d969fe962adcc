// What each named processor offers, as its vendor's manuals and its CPUID dumps say, less what no engine of
// ours implements (VMX, SVM, TSX, performance monitoring, SSE4A, 3DNow!).
#include "x86/cpu_model_list.h"

namespace ostler::x86 {
namespace {

using F = Feature;

FeatureSet base64() {
  return {F::kFpu,     F::kDe,  F::kPse,    F::kTsc,        F::kMsr,    F::kPae,  F::kMce,  F::kCx8,
          F::kApic,    F::kSep, F::kMtrr,   F::kPge,        F::kMca,    F::kCmov, F::kPat,  F::kPse36,
          F::kClflush, F::kMmx, F::kFxsr,   F::kSse,        F::kSse2,   F::kSse3, F::kCx16, F::kSyscall,
          F::kNx,      F::kLm,  F::kLahfLm, F::kHypervisor, F::kX2apic, F::kArat};
}

FeatureSet nehalem() {
  return base64() | FeatureSet{F::kSsse3, F::kSse41, F::kSse42, F::kPopcnt};
}

FeatureSet sandy_bridge() {
  return nehalem() |
         FeatureSet{F::kAes, F::kPclmulqdq, F::kXsave, F::kXsaveopt, F::kAvx, F::kTscDeadline, F::kRdtscp};
}

FeatureSet haswell() {
  return sandy_bridge() | FeatureSet{F::kFma,      F::kMovbe,   F::kF16c, F::kRdrand, F::kPcid,
                                     F::kFsgsbase, F::kBmi1,    F::kAvx2, F::kSmep,   F::kBmi2,
                                     F::kErms,     F::kInvpcid, F::kAbm};
}

FeatureSet epyc() {
  return base64() | FeatureSet{F::kSsse3,     F::kSse41,    F::kSse42,    F::kPopcnt, F::kAes,
                               F::kPclmulqdq, F::kXsave,    F::kXsaveopt, F::kXsavec, F::kXgetbv1,
                               F::kXsaves,    F::kAvx,      F::kFma,      F::kMovbe,  F::kF16c,
                               F::kRdrand,    F::kRdtscp,   F::kPdpe1gb,  F::kAbm,    F::kPrefetchw,
                               F::kTopoext,   F::kFsgsbase, F::kBmi1,     F::kAvx2,   F::kSmep,
                               F::kBmi2,      F::kRdseed,   F::kAdx,      F::kSmap,   F::kClflushopt,
                               F::kSha};
}

}  // namespace

std::span<const ModelRow> model_rows() {
  static const ModelRow rows[] = {
      {"qemu64", "a plain 64-bit processor", Vendor::kAmd, 15, 107, 1, "QEMU Virtual CPU version 2.5+", 0xd,
       base64()},
      {"Nehalem", "Intel Core i7 9xx, 2008", Vendor::kIntel, 6, 26, 3,
       "Intel Core i7 9xx (Nehalem Class Core i7)", 0xb, nehalem()},
      {"SandyBridge", "Intel Xeon E312xx, 2011", Vendor::kIntel, 6, 42, 1, "Intel Xeon E312xx (Sandy Bridge)",
       0xd, sandy_bridge()},
      {"Haswell", "Intel Core, 2013, without TSX", Vendor::kIntel, 6, 60, 1,
       "Intel Core Processor (Haswell, no TSX)", 0xd, haswell()},
      {"EPYC", "AMD EPYC, 2017", Vendor::kAmd, 23, 1, 2, "AMD EPYC Processor", 0xd, epyc()},
  };
  return rows;
}

}  // namespace ostler::x86
