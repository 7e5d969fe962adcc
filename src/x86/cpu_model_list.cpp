// What each named processor offers, as its vendor's manuals and its CPUID dumps say, less what no engine of
// ours implements (VMX, SVM, TSX, performance monitoring, SSE4A, 3DNow!).
#include "x86/cpu_model_list.h"

namespace ostler::x86 {
namespace {

using F = Feature;

// 32-bit processors, by age. What they lack is not told of; no engine raises #UD for CMOV or SSE on them.
FeatureSet pentium() {
  return {F::kFpu, F::kDe, F::kPse, F::kTsc, F::kMsr, F::kMce, F::kCx8, F::kApic, F::kMmx, F::kHypervisor};
}

FeatureSet pentium2() {
  return pentium() |
         FeatureSet{F::kPae, F::kSep, F::kMtrr, F::kPge, F::kMca, F::kCmov, F::kPat, F::kPse36, F::kFxsr};
}

FeatureSet pentium3() {
  return pentium2() | FeatureSet{F::kSse};
}

FeatureSet kvm32() {
  return pentium3() | FeatureSet{F::kClflush, F::kSse2, F::kSse3, F::kX2apic, F::kArat};
}

FeatureSet core_duo() {
  return kvm32() | FeatureSet{F::kNx, F::kSs};
}

FeatureSet base64() {
  return kvm32() | FeatureSet{F::kCx16, F::kSyscall, F::kNx, F::kLm, F::kLahfLm};
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

FeatureSet goldmont() {
  return westmere() | FeatureSet{F::kXsave,
                                 F::kXsaveopt,
                                 F::kXsavec,
                                 F::kXgetbv1,
                                 F::kTscDeadline,
                                 F::kRdtscp,
                                 F::kMovbe,
                                 F::kRdrand,
                                 F::kRdseed,
                                 F::kFsgsbase,
                                 F::kSmep,
                                 F::kSmap,
                                 F::kErms,
                                 F::kSha,
                                 F::kClflushopt,
                                 F::kPrefetchw,
                                 F::kPdpe1gb,
                                 F::kSpecCtrl,
                                 F::kArchCapabilities};
}

FeatureSet knights_mill() {
  FeatureSet set = broadwell() | FeatureSet{F::kPdpe1gb, F::kSs};
  for (const Feature absent : {F::kPcid, F::kInvpcid, F::kSmap}) set.set(absent, false);
  return set;
}

FeatureSet ice_lake() {
  return skylake() | FeatureSet{F::kClwb, F::kSha, F::kUmip, F::kRdpid, F::kLa57, F::kFsrm, F::kSpecCtrl};
}

FeatureSet opteron_g3() {
  return base64() | FeatureSet{F::kAbm, F::kPopcnt, F::kRdtscp};
}

FeatureSet opteron_g4() {
  return opteron_g3() | FeatureSet{F::kSsse3, F::kSse41,     F::kSse42,   F::kAes, F::kPclmulqdq,
                                   F::kXsave, F::kPrefetchw, F::kPdpe1gb, F::kAvx};
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

FeatureSet without_crypto(FeatureSet set) {
  for (const Feature absent : {F::kAes, F::kPclmulqdq, F::kSha}) set.set(absent, false);
  return set;
}

// The three that updates of the microcode made of Haswell and Broadwell; TSX is nowhere.
std::vector<ModelVersion> with_and_without_tsx(std::string_view no_tsx, std::string_view ibrs,
                                               std::string_view no_tsx_ibrs, std::string_view ibrs_brand) {
  return {{.alias = no_tsx},
          {.alias = ibrs, .adds = {F::kSpecCtrl}, .brand = ibrs_brand},
          {.alias = no_tsx_ibrs, .adds = {F::kSpecCtrl}, .brand = ibrs_brand}};
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
      {"Nehalem",
       "Intel Core i7 9xx, 2008",
       Vendor::kIntel,
       6,
       26,
       3,
       "Intel Core i7 9xx (Nehalem Class Core i7)",
       0xb,
       nehalem(),
       {{.alias = "Nehalem-IBRS",
         .adds = {F::kSpecCtrl},
         .brand = "Intel Core i7 9xx (Nehalem Core i7, IBRS update)"}}},
      {"Westmere",
       "Intel Xeon E56xx, 2010",
       Vendor::kIntel,
       6,
       44,
       1,
       "Westmere E56xx/L56xx/X56xx (Nehalem-C)",
       0xb,
       westmere(),
       {{.alias = "Westmere-IBRS",
         .adds = {F::kSpecCtrl},
         .brand = "Westmere E56xx/L56xx/X56xx (IBRS update)"}}},
      {"SandyBridge",
       "Intel Xeon E312xx, 2011",
       Vendor::kIntel,
       6,
       42,
       1,
       "Intel Xeon E312xx (Sandy Bridge)",
       0xd,
       sandy_bridge(),
       {{.alias = "SandyBridge-IBRS",
         .adds = {F::kSpecCtrl},
         .brand = "Intel Xeon E312xx (Sandy Bridge, IBRS update)"}}},
      {"IvyBridge",
       "Intel Xeon E3-12xx v2, 2012",
       Vendor::kIntel,
       6,
       58,
       9,
       "Intel Xeon E3-12xx v2 (Ivy Bridge)",
       0xd,
       ivy_bridge(),
       {{.alias = "IvyBridge-IBRS",
         .adds = {F::kSpecCtrl},
         .brand = "Intel Xeon E3-12xx v2 (Ivy Bridge, IBRS)"}}},
      {"Haswell", "Intel Core, 2013, without TSX", Vendor::kIntel, 6, 60, 1,
       "Intel Core Processor (Haswell, no TSX)", 0xd, haswell(),
       with_and_without_tsx("Haswell-noTSX", "Haswell-IBRS", "Haswell-noTSX-IBRS",
                            "Intel Core Processor (Haswell, no TSX, IBRS)")},
      {"Broadwell", "Intel Core, 2014, without TSX", Vendor::kIntel, 6, 61, 2,
       "Intel Core Processor (Broadwell, no TSX)", 0xd, broadwell(),
       with_and_without_tsx("Broadwell-noTSX", "Broadwell-IBRS", "Broadwell-noTSX-IBRS",
                            "Intel Core Processor (Broadwell, no TSX, IBRS)")},
      {"Skylake-Client",
       "Intel Core, 2015, without TSX",
       Vendor::kIntel,
       6,
       94,
       3,
       "Intel Core Processor (Skylake, no TSX)",
       0xd,
       skylake(),
       {{.alias = "Skylake-Client-IBRS",
         .adds = {F::kSpecCtrl},
         .brand = "Intel Core Processor (Skylake, IBRS, no TSX)"},
        {.alias = "Skylake-Client-noTSX-IBRS",
         .adds = {F::kSpecCtrl},
         .brand = "Intel Core Processor (Skylake, IBRS, no TSX)"},
        {.adds = {F::kSpecCtrl}, .brand = "Intel Core Processor (Skylake, IBRS, no TSX)"}}},
      {"Skylake-Server",
       "Intel Xeon, 2017, without TSX and AVX-512",
       Vendor::kIntel,
       6,
       85,
       4,
       "Intel Xeon Processor (Skylake, no TSX)",
       0xd,
       skylake() | FeatureSet{F::kClwb},
       {{.alias = "Skylake-Server-IBRS",
         .adds = {F::kSpecCtrl},
         .brand = "Intel Xeon Processor (Skylake, IBRS, no TSX)"},
        {.alias = "Skylake-Server-noTSX-IBRS",
         .adds = {F::kSpecCtrl},
         .brand = "Intel Xeon Processor (Skylake, IBRS, no TSX)"},
        {.adds = {F::kSpecCtrl}, .brand = "Intel Xeon Processor (Skylake, IBRS, no TSX)"},
        {.adds = {F::kSpecCtrl}, .brand = "Intel Xeon Processor (Skylake, IBRS, no TSX)"}}},
      {"Cascadelake-Server",
       "Intel Xeon, 2019, without TSX and AVX-512",
       Vendor::kIntel,
       6,
       85,
       6,
       "Intel Xeon Processor (Cascadelake, no TSX)",
       0xd,
       skylake() | FeatureSet{F::kClwb, F::kSpecCtrl},
       {{.adds = {F::kArchCapabilities}},
        {.alias = "Cascadelake-Server-noTSX", .adds = {F::kArchCapabilities}},
        {.adds = {F::kArchCapabilities}},
        {.adds = {F::kArchCapabilities}}}},
      {"Icelake-Server",
       "Intel Xeon, 2021, without TSX and AVX-512",
       Vendor::kIntel,
       6,
       106,
       6,
       "Intel Xeon Processor (Icelake, no TSX)",
       0xd,
       ice_lake(),
       {{.alias = "Icelake-Server-noTSX"},
        {.adds = {F::kArchCapabilities}},
        {.adds = {F::kArchCapabilities}},
        {.adds = {F::kArchCapabilities}},
        {.adds = {F::kArchCapabilities}}}},
      {"EPYC",
       "AMD EPYC, 2017",
       Vendor::kAmd,
       23,
       1,
       2,
       "AMD EPYC Processor",
       0xd,
       epyc(),
       {{.alias = "EPYC-IBPB", .adds = {F::kIbpb}, .brand = "AMD EPYC Processor (with IBPB)"},
        {.adds = {F::kIbpb}}}},
      {"EPYC-Rome",
       "AMD EPYC, 2019",
       Vendor::kAmd,
       23,
       49,
       0,
       "AMD EPYC-Rome Processor",
       0xd,
       epyc_rome() | FeatureSet{F::kIbpb},
       {{}}},
      {"EPYC-Milan", "AMD EPYC, 2021", Vendor::kAmd, 25, 1, 1, "AMD EPYC-Milan Processor", 0xd,
       epyc_milan() | FeatureSet{F::kIbpb}},
      {"Cooperlake",
       "Intel Xeon, 2020, without TSX and AVX-512",
       Vendor::kIntel,
       6,
       85,
       10,
       "Intel Xeon Processor (Cooperlake)",
       0xd,
       skylake() | FeatureSet{F::kClwb, F::kSpecCtrl, F::kArchCapabilities},
       {{}}},
      {"Denverton",
       "Intel Atom C3000, 2017",
       Vendor::kIntel,
       6,
       95,
       1,
       "Intel Atom Processor (Denverton)",
       0x15,
       goldmont(),
       {{}, {.adds = {F::kXsaves}}}},
      {"Snowridge",
       "Intel Atom P5900, 2020",
       Vendor::kIntel,
       6,
       134,
       1,
       "Intel Atom Processor (Snowridge, no MPX)",
       0x1b,
       goldmont() | FeatureSet{F::kClwb, F::kUmip, F::kCldemote},
       {{}, {.adds = {F::kXsaves}}, {.adds = {F::kXsaves}}}},
      {"KnightsMill", "Intel Xeon Phi, 2017, without AVX-512", Vendor::kIntel, 6, 133, 0,
       "Intel Xeon Phi Processor (Knights Mill)", 0xd, knights_mill()},
      {"core2duo", "Intel Core 2 T7700, 2007", Vendor::kIntel, 6, 15, 11,
       "Intel(R) Core(TM)2 Duo CPU     T7700  @ 2.40GHz", 0xa, base64() | FeatureSet{F::kSsse3, F::kSs}},
      {"Opteron_G1", "AMD Opteron 240, 2003", Vendor::kAmd, 15, 6, 1, "AMD Opteron 240 (Gen 1 Class Opteron)",
       0x5, base64()},
      {"Opteron_G2", "AMD Opteron 22xx, 2006", Vendor::kAmd, 15, 6, 1,
       "AMD Opteron 22xx (Gen 2 Class Opteron)", 0x5, base64()},
      {"Opteron_G3", "AMD Opteron 23xx, 2007", Vendor::kAmd, 16, 2, 3,
       "AMD Opteron 23xx (Gen 3 Class Opteron)", 0x5, opteron_g3()},
      {"Opteron_G4", "AMD Opteron 62xx, 2011", Vendor::kAmd, 21, 1, 2, "AMD Opteron 62xx class CPU", 0xd,
       opteron_g4()},
      {"Opteron_G5", "AMD Opteron 63xx, 2012", Vendor::kAmd, 21, 2, 0, "AMD Opteron 63xx class CPU", 0xd,
       opteron_g4() | FeatureSet{F::kF16c, F::kFma}},
      {"phenom", "AMD Phenom 9550, 2008", Vendor::kAmd, 16, 2, 3, "AMD Phenom(tm) 9550 Quad-Core Processor",
       0x5, opteron_g3() | FeatureSet{F::kPdpe1gb}},
      {"Dhyana",
       "Hygon Dhyana, 2018",
       Vendor::kAmd,
       24,
       0,
       1,
       "Hygon Dhyana Processor",
       0xd,
       without_crypto(epyc()) | FeatureSet{F::kIbpb},
       {{.adds = {F::kXsaves}}},
       {},
       "HygonGenuine"},
      {"486",
       "Intel 486, 1989, 32-bit",
       Vendor::kIntel,
       4,
       8,
       0,
       "",
       0x1,
       {F::kFpu, F::kPse, F::kHypervisor},
       {},
       0},
      {"pentium", "Intel Pentium, 1993, 32-bit", Vendor::kIntel, 5, 4, 3, "", 0x1, pentium(), {}, 0},
      {"pentium2", "Intel Pentium II, 1997, 32-bit", Vendor::kIntel, 6, 5, 2, "", 0x2, pentium2(), {}, 0},
      {"pentium3", "Intel Pentium III, 1999, 32-bit", Vendor::kIntel, 6, 7, 3, "", 0x3, pentium3(), {}, 0},
      {"athlon", "AMD Athlon, 1999, 32-bit", Vendor::kAmd, 6, 2, 3, "QEMU Virtual CPU version 2.5+", 0x2,
       pentium3() | FeatureSet{F::kSse2}},
      {"coreduo", "Intel Core Duo T2600, 2006, 32-bit", Vendor::kIntel, 6, 14, 8,
       "Genuine Intel(R) CPU           T2600  @ 2.16GHz", 0xa, core_duo()},
      {"n270", "Intel Atom N270, 2008, 32-bit", Vendor::kIntel, 6, 28, 2,
       "Intel(R) Atom(TM) CPU N270   @ 1.60GHz", 0xa, core_duo() | FeatureSet{F::kSsse3, F::kMovbe}},
      {"kvm32", "a plain 32-bit processor of Intel's", Vendor::kIntel, 15, 6, 1,
       "Common 32-bit KVM processor", 0x5, kvm32()},
      {"qemu32",
       "a plain 32-bit processor",
       Vendor::kIntel,
       6,
       6,
       3,
       "QEMU Virtual CPU version 2.5+",
       0x4,
       pentium() | FeatureSet{F::kPae, F::kSep, F::kPge, F::kCmov, F::kPat, F::kFxsr, F::kSse, F::kSse2,
                              F::kSse3, F::kX2apic, F::kArat},
       {},
       0x80000004},
  };
  return rows;
}

}  // namespace ostler::x86
