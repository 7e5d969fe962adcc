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

FeatureSet westmere() {
  return nehalem() | FeatureSet{F::kAes, F::kPclmulqdq};
}

FeatureSet sandy_bridge() {
  return nehalem() |
         FeatureSet{F::kAes, F::kPclmulqdq, F::kXsave, F::kXsaveopt, F::kAvx, F::kTscDeadline, F::kRdtscp};
}

FeatureSet ivy_bridge() {
  return sandy_bridge() | FeatureSet{F::kF16c, F::kRdrand, F::kFsgsbase, F::kSmep, F::kErms};
}

FeatureSet haswell() {
  return sandy_bridge() | FeatureSet{F::kFma,      F::kMovbe,   F::kF16c, F::kRdrand, F::kPcid,
                                     F::kFsgsbase, F::kBmi1,    F::kAvx2, F::kSmep,   F::kBmi2,
                                     F::kErms,     F::kInvpcid, F::kAbm};
}

FeatureSet broadwell() {
  return haswell() | FeatureSet{F::kRdseed, F::kAdx, F::kSmap, F::kPrefetchw};
}

FeatureSet skylake() {
  return broadwell() | FeatureSet{F::kXsavec, F::kXgetbv1, F::kXsaves, F::kClflushopt, F::kPdpe1gb};
}

FeatureSet ice_lake() {
  return skylake() | FeatureSet{F::kClwb, F::kSha, F::kUmip, F::kRdpid, F::kLa57, F::kFsrm};
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

FeatureSet epyc_rome() {
  return epyc() | FeatureSet{F::kClwb, F::kUmip, F::kRdpid};
}

FeatureSet epyc_milan() {
  return epyc_rome() | FeatureSet{F::kPcid, F::kInvpcid, F::kErms, F::kFsrm};
}

}  // namespace

std::span<const ModelRow> model_rows() {
  static const ModelRow rows[] = {
      {"qemu64", "a plain 64-bit processor", Vendor::kAmd, 15, 107, 1, "QEMU Virtual CPU version 2.5+", 0xd,
       base64()},
      {"kvm64", "a plain 64-bit processor of Intel's", Vendor::kIntel, 15, 6, 1, "Common KVM processor", 0xd,
       base64()},
      {"Conroe", "Intel Core 2, 2006", Vendor::kIntel, 6, 15, 3,
       "Intel Celeron_4x0 (Conroe/Merom Class Core 2)", 0xa, base64() | FeatureSet{F::kSsse3}},
      {"Penryn", "Intel Core 2, 2007", Vendor::kIntel, 6, 23, 3,
       "Intel Core 2 Duo P9xxx (Penryn Class Core 2)", 0xa, base64() | FeatureSet{F::kSsse3, F::kSse41}},
      {"Nehalem", "Intel Core i7 9xx, 2008", Vendor::kIntel, 6, 26, 3,
       "Intel Core i7 9xx (Nehalem Class Core i7)", 0xb, nehalem()},
      {"Westmere", "Intel Xeon E56xx, 2010", Vendor::kIntel, 6, 44, 1,
       "Westmere E56xx/L56xx/X56xx (Nehalem-C)", 0xb, westmere()},
      {"SandyBridge", "Intel Xeon E312xx, 2011", Vendor::kIntel, 6, 42, 1, "Intel Xeon E312xx (Sandy Bridge)",
       0xd, sandy_bridge()},
      {"IvyBridge", "Intel Xeon E3-12xx v2, 2012", Vendor::kIntel, 6, 58, 9,
       "Intel Xeon E3-12xx v2 (Ivy Bridge)", 0xd, ivy_bridge()},
      {"Haswell", "Intel Core, 2013, without TSX", Vendor::kIntel, 6, 60, 1,
       "Intel Core Processor (Haswell, no TSX)", 0xd, haswell()},
      {"Broadwell", "Intel Core, 2014, without TSX", Vendor::kIntel, 6, 61, 2,
       "Intel Core Processor (Broadwell, no TSX)", 0xd, broadwell()},
      {"Skylake-Client", "Intel Core, 2015, without TSX", Vendor::kIntel, 6, 94, 3,
       "Intel Core Processor (Skylake, no TSX)", 0xd, skylake()},
      {"Skylake-Server", "Intel Xeon, 2017, without TSX and AVX-512", Vendor::kIntel, 6, 85, 4,
       "Intel Xeon Processor (Skylake, no TSX)", 0xd, skylake() | FeatureSet{F::kClwb}},
      {"Cascadelake-Server", "Intel Xeon, 2019, without TSX and AVX-512", Vendor::kIntel, 6, 85, 6,
       "Intel Xeon Processor (Cascadelake, no TSX)", 0xd, skylake() | FeatureSet{F::kClwb}},
      {"Icelake-Server", "Intel Xeon, 2021, without TSX and AVX-512", Vendor::kIntel, 6, 106, 6,
       "Intel Xeon Processor (Icelake, no TSX)", 0xd, ice_lake()},
      {"EPYC", "AMD EPYC, 2017", Vendor::kAmd, 23, 1, 2, "AMD EPYC Processor", 0xd, epyc()},
      {"EPYC-Rome", "AMD EPYC, 2019", Vendor::kAmd, 23, 49, 0, "AMD EPYC-Rome Processor", 0xd, epyc_rome()},
      {"EPYC-Milan", "AMD EPYC, 2021", Vendor::kAmd, 25, 1, 1, "AMD EPYC-Milan Processor", 0xd, epyc_milan()},
  };
  return rows;
}

}  // namespace ostler::x86
