// CPU models and CPUID against an invented host, so that nothing depends on where the tests run.
#include "x86/cpu_model.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <utility>

namespace ostler::x86 {
namespace {

using F = Feature;
using testing::HasSubstr;

HostCpu host_with_everything() {
  HostCpu host;
  host.vendor = "GenuineIntel";
  host.brand = "Invented CPU";
  host.family = 6;
  host.model = 0x55;
  host.stepping = 7;
  host.physical_bits = 46;
  for (size_t i = 0; i < kFeatureCount; ++i) host.features.set(static_cast<F>(i));
  return host;
}

CpuModel model(std::string_view text, const HostCpu& host = host_with_everything()) {
  Result<CpuModel> result = CpuModel::parse(text, host);
  EXPECT_TRUE(result.has_value()) << result.error().message();
  return *result;
}

std::string parse_error(std::string_view text) {
  Result<CpuModel> result = CpuModel::parse(text, host_with_everything());
  return result ? "" : result.error().message();
}

TEST(CpuModel, wrong_name_suggests_the_nearest) {
  EXPECT_THAT(parse_error("Haswel"), HasSubstr("did you mean 'Haswell'"));
}

TEST(CpuModel, wrong_flag_suggests_the_nearest) {
  EXPECT_THAT(parse_error("max,+avx3"), HasSubstr("did you mean 'avx'"));
  EXPECT_THAT(parse_error("max,fsgsbse=off"), HasSubstr("did you mean 'fsgsbase'"));
}

TEST(CpuModel, switch_takes_on_or_off_only) {
  EXPECT_THAT(parse_error("max,avx=maybe"), HasSubstr("on or off"));
}

TEST(CpuModel, minus_removes_and_plus_adds) {
  EXPECT_FALSE(model("Haswell,-avx2").has(F::kAvx2));
  EXPECT_FALSE(model("Haswell,avx2=off").has(F::kAvx2));
  EXPECT_TRUE(model("Nehalem,+pcid").has(F::kPcid));
  EXPECT_TRUE(model("Nehalem,pcid").has(F::kPcid));
}

TEST(CpuModel, aliases_name_the_same_flag) {
  EXPECT_FALSE(model("Haswell,-lzcnt").has(F::kAbm));
  EXPECT_FALSE(model("Haswell,-sse4_2").has(F::kSse42));
}

TEST(CpuModel, what_the_host_lacks_is_not_offered) {
  HostCpu host = host_with_everything();
  host.features.set(F::kSha, false);
  const CpuModel max = model("max", host);
  EXPECT_FALSE(max.has(F::kSha));
  EXPECT_TRUE(max.warnings().empty());
}

TEST(CpuModel, requested_flag_the_host_lacks_warns) {
  HostCpu host = host_with_everything();
  host.features.set(F::kSha, false);
  const CpuModel haswell = model("Haswell,+sha-ni", host);
  EXPECT_FALSE(haswell.has(F::kSha));
  ASSERT_EQ(haswell.warnings().size(), 1u);
  EXPECT_THAT(haswell.warnings()[0], HasSubstr("sha-ni"));
}

TEST(CpuModel, enforce_turns_the_warning_into_an_error) {
  EXPECT_THAT(parse_error("Haswell,+avx512f,enforce"), HasSubstr("avx512f"));
}

TEST(CpuModel, unimplemented_flags_are_never_offered_even_if_the_host_has_them) {
  for (F feature :
       {F::kAvx512f, F::kAmxTile, F::kPku, F::kCetSs, F::kRtm, F::kMpx, F::kVmx, F::kMonitor, F::kVme}) {
    EXPECT_FALSE(model("max").has(feature)) << feature_info(feature).spelling;
    EXPECT_FALSE(model("host").has(feature)) << feature_info(feature).spelling;
  }
}

TEST(CpuModel, engine_features_need_nothing_of_the_host) {
  HostCpu host = host_with_everything();
  for (F feature : {F::kSmep, F::kSmap, F::kPcid, F::kUmip, F::kLa57, F::kX2apic, F::kTscDeadline})
    host.features.set(feature, false);
  const CpuModel max = model("max", host);
  for (F feature : {F::kSmep, F::kSmap, F::kPcid, F::kUmip, F::kLa57, F::kX2apic, F::kTscDeadline})
    EXPECT_TRUE(max.has(feature)) << feature_info(feature).spelling;
}

// GCC's target_clones choose code for arch=skylake-avx512 and later by family and model, not by features.
TEST(CpuModel, max_is_not_a_processor_known_for_avx512) {
  const CpuModel max = model("max", host_with_everything());
  ASSERT_FALSE(max.has(F::kAvx512f));
  EXPECT_EQ(max.family(), 6u);
  EXPECT_EQ(max.model(), 94u);
}

TEST(CpuModel, dropping_avx_drops_what_is_built_on_it) {
  const CpuModel haswell = model("Haswell,-avx");
  EXPECT_FALSE(haswell.has(F::kAvx2));
  EXPECT_FALSE(haswell.has(F::kFma));
  EXPECT_FALSE(haswell.has(F::kF16c));
  EXPECT_EQ(haswell.xcr0_supported(), 3u);
}

TEST(CpuModel, a_64_bit_processor_has_sse2) {
  EXPECT_THAT(parse_error("max,-sse2"), HasSubstr("sse2"));
  EXPECT_FALSE(model("max,-sse2,-lm").has(F::kSse2));
}

TEST(CpuModel, host_keeps_vendor_model_and_brand) {
  const CpuModel host = model("host");
  EXPECT_EQ(host.family(), 6u);
  EXPECT_EQ(host.model(), 0x55u);
  EXPECT_EQ(host.physical_bits(), 46u);
  CpuState state;
  char brand[49] = {};
  for (uint32_t i = 0; i < 3; ++i) {
    const CpuidResult r = host.cpuid(0x80000002 + i, 0, state, {});
    std::memcpy(brand + 16 * i, &r, 16);
  }
  EXPECT_STREQ(brand, "Invented CPU");
}

TEST(CpuModel, every_listed_model_parses) {
  for (const ModelListing& listing : CpuModel::list()) EXPECT_EQ(model(listing.name).name(), listing.name);
}

TEST(CpuModel, versions_are_the_processor_they_are_of) {
  EXPECT_EQ(model("Haswell-noTSX").signature(), model("Haswell").signature());
  EXPECT_EQ(model("EPYC-v3").signature(), model("EPYC").signature());
  EXPECT_EQ(model("EPYC-Rome-v1").signature(), model("EPYC-Rome").signature());
  EXPECT_FALSE(CpuModel::parse("EPYC-v"));
  EXPECT_FALSE(CpuModel::parse("EPYC-vx"));
  EXPECT_FALSE(CpuModel::parse("EPYC-v0"));
  EXPECT_FALSE(CpuModel::parse("max-v1"));
  EXPECT_FALSE(CpuModel::parse("Broadwell-noTSX-v2")) << "that name has no versions";
}

// What -cpu help of QEMU 7.2 names in pairs is one thing.
TEST(CpuModel, names_of_versions_are_versions) {
  constexpr std::pair<const char*, const char*> kPairs[] = {
      {"Broadwell-IBRS", "Broadwell-v3"},
      {"Broadwell-noTSX", "Broadwell-v2"},
      {"Broadwell-noTSX-IBRS", "Broadwell-v4"},
      {"Cascadelake-Server-noTSX", "Cascadelake-Server-v3"},
      {"EPYC-IBPB", "EPYC-v2"},
      {"Haswell-IBRS", "Haswell-v3"},
      {"Haswell-noTSX", "Haswell-v2"},
      {"Haswell-noTSX-IBRS", "Haswell-v4"},
      {"Icelake-Server-noTSX", "Icelake-Server-v2"},
      {"IvyBridge-IBRS", "IvyBridge-v2"},
      {"Nehalem-IBRS", "Nehalem-v2"},
      {"SandyBridge-IBRS", "SandyBridge-v2"},
      {"Skylake-Client-IBRS", "Skylake-Client-v2"},
      {"Skylake-Client-noTSX-IBRS", "Skylake-Client-v3"},
      {"Skylake-Server-IBRS", "Skylake-Server-v2"},
      {"Skylake-Server-noTSX-IBRS", "Skylake-Server-v3"},
      {"Westmere-IBRS", "Westmere-v2"}};
  for (const auto& [alias, version] : kPairs) {
    EXPECT_EQ(model(alias).features(), model(version).features()) << alias;
    EXPECT_TRUE(model(alias).warnings().empty()) << alias;
  }
  EXPECT_TRUE(model("Haswell-noTSX-IBRS").has(F::kSpecCtrl));
  EXPECT_FALSE(model("Haswell-noTSX").has(F::kSpecCtrl));
  EXPECT_TRUE(model("EPYC-IBPB").has(F::kIbpb));
  EXPECT_FALSE(model("EPYC-v1").has(F::kIbpb));
  for (const char* newest :
       {"Cooperlake-v2", "Denverton-v3", "Dhyana-v2", "EPYC-Rome-v2", "Icelake-Server-v6",
        "Skylake-Server-v5", "Snowridge-v4", "Cascadelake-Server-v5"})
    EXPECT_TRUE(model(newest).warnings().empty()) << newest;
}

TEST(CpuModel, a_version_that_is_newer_than_ours_is_told) {
  const CpuModel later = model("EPYC-v9");
  EXPECT_EQ(later.features(), model("EPYC-v3").features());
  ASSERT_EQ(later.warnings().size(), 1u);
  EXPECT_THAT(later.warnings()[0], HasSubstr("up to v3"));
  EXPECT_THAT(parse_error("EPYC-v9,enforce"), HasSubstr("up to v3"));
}

TEST(CpuModel, older_processors_have_32_bits) {
  for (const char* name :
       {"486", "pentium", "pentium2", "pentium3", "athlon", "coreduo", "n270", "kvm32", "qemu32"}) {
    EXPECT_FALSE(model(name).long_mode()) << name;
    EXPECT_EQ(model(name).linear_bits(), 32u) << name;
    EXPECT_TRUE(model(name).warnings().empty()) << name << model(name).warnings()[0];
  }
  EXPECT_FALSE(model("pentium2").has(F::kSse));
  EXPECT_TRUE(model("n270").has(F::kSsse3));
}

TEST(CpuModel, what_the_processor_is_called_can_be_set) {
  const CpuModel set = model("Haswell,family=15,model=0x21,stepping=3,model-id=Fast one,vendor=CentaurHauls");
  EXPECT_EQ(set.family(), 15u);
  EXPECT_EQ(set.model(), 0x21u);
  EXPECT_EQ(set.stepping(), 3u);
  CpuState state;
  EXPECT_EQ(set.cpuid(0, 0, state, {}).ebx, 0x746e6543u);           // "Cent"
  EXPECT_EQ(set.cpuid(0x80000002, 0, state, {}).eax, 0x74736146u);  // "Fast"
  EXPECT_TRUE(model("Haswell,vendor=HygonGenuine").amd());
  EXPECT_THAT(parse_error("Haswell,vendor=Intel"), HasSubstr("12 characters"));
  EXPECT_THAT(parse_error("Haswell,family=300"), HasSubstr("0 to 270"));
}

TEST(CpuModel, bits_of_addresses_can_be_the_hosts_up_to_a_limit) {
  EXPECT_EQ(model("Haswell,host-phys-bits").physical_bits(), 46u);
  EXPECT_EQ(model("Haswell,host-phys-bits-limit=42,host-phys-bits=on").physical_bits(), 42u);
  EXPECT_EQ(model("Haswell,host-phys-bits=on,host-phys-bits-limit=0").physical_bits(), 46u);
  EXPECT_EQ(model("Haswell,host-phys-bits-limit=42").physical_bits(), 40u);
  EXPECT_EQ(model("Haswell,phys-bits=0").physical_bits(), 40u);
}

TEST(CpuModel, settings_that_ask_for_nothing_are_taken) {
  for (const char* setting :
       {"legacy-cache=off", "migratable=on", "pmu=off", "host-cache-info=off", "lmce=off", "hv-relaxed=off",
        "check", "xlevel2=0", "tsc-frequency=0", "vmx-ept=off", "npt=off", "kvm_no_smi_migration=off"})
    EXPECT_TRUE(model(std::string("Haswell,") + setting).warnings().empty()) << setting;
}

TEST(CpuModel, settings_that_are_not_there_are_told) {
  for (const char* setting :
       {"pmu", "host-cache-info=on", "lmce", "vmx-ept", "nrip_save", "xlevel2=0xc0000004"}) {
    EXPECT_EQ(model(std::string("Haswell,") + setting).warnings().size(), 1u) << setting;
    EXPECT_THAT(parse_error(std::string("Haswell,enforce,") + setting), HasSubstr("enforce")) << setting;
  }
  EXPECT_THAT(parse_error("Haswell,tsc-frequency=1000"), HasSubstr("Hz; leave it out"));
  EXPECT_EQ(parse_error(fmt::format("Haswell,tsc-frequency={}", host_tsc_hz())), "");
}

TEST(CpuModel, no_name_is_suggested_that_is_not_near) {
  EXPECT_THAT(parse_error("Haswell,frobnicate=on"), testing::Not(HasSubstr("did you mean")));
  EXPECT_THAT(parse_error("Z80"), testing::Not(HasSubstr("did you mean")));
}

TEST(CpuModel, what_an_accelerator_lacks_of_a_named_processor_is_told) {
  FeatureSet available = model("Nehalem").features();
  available.set(Feature::kSse42, false);
  available.set(Feature::kPopcnt, false);
  CpuModel named = model("Nehalem");
  ASSERT_TRUE(named.restrict_to(available, "this KVM"));
  ASSERT_EQ(named.warnings().size(), 1u);
  EXPECT_EQ(named.warnings().front(),
            "-cpu Nehalem: this KVM lacks sse4.2, popcnt, the guest will not see them");
  CpuModel enforced = model("Nehalem,enforce");
  EXPECT_FALSE(enforced.restrict_to(available, "this KVM"));
  CpuModel any = model("max");
  const size_t told = any.warnings().size();
  EXPECT_TRUE(any.restrict_to(available, "this KVM"));
  EXPECT_EQ(any.warnings().size(), told) << "max is what there is";
}

TEST(CpuModel, services_of_hyper_v_are_refused_with_a_reason) {
  for (const char* flag : {"hv-relaxed", "hv_spinlocks=0x1fff"}) {
    const auto parsed = CpuModel::parse(std::string("qemu64,") + flag);
    ASSERT_FALSE(parsed);
    EXPECT_NE(parsed.error().message().find("Hyper-V"), std::string::npos) << parsed.error().message();
  }
}

TEST(CpuModel, signatures_are_those_of_the_real_processors) {
  EXPECT_EQ(model("Nehalem").signature(), 0x000106a3u);
  EXPECT_EQ(model("Haswell").signature(), 0x000306c1u);
  EXPECT_EQ(model("EPYC").signature(), 0x00800f12u);
  EXPECT_EQ(model("kvm64").signature(), 0x00000f61u);
  EXPECT_EQ(model("Westmere").signature(), 0x000206c1u);
  EXPECT_EQ(model("IvyBridge").signature(), 0x000306a9u);
  EXPECT_EQ(model("Skylake-Server").signature(), 0x00050654u);
  EXPECT_EQ(model("Icelake-Server").signature(), 0x000606a6u);
  EXPECT_EQ(model("EPYC-Rome").signature(), 0x00830f10u);
  EXPECT_EQ(model("EPYC-Milan").signature(), 0x00a00f11u);
}

class Cpuid : public testing::Test {
 protected:
  Cpuid() {
    vcpu_.topology.cores = 2;
    vcpu_.topology.threads = 2;
    vcpu_.apic_id = 3;
    vcpu_.kvm_features = ~0u;
    vcpu_.tsc_hz = 2'600'000'000;
    vcpu_.apic_timer_hz = 1'000'000'000;
  }
  CpuidResult of(const CpuModel& m, uint32_t leaf, uint32_t subleaf = 0) {
    return m.cpuid(leaf, subleaf, state_, vcpu_);
  }
  CpuState state_;
  VcpuInfo vcpu_;
};

TEST_F(Cpuid, vendor_strings) {
  const CpuidResult intel = of(model("Haswell"), 0), amd = of(model("EPYC"), 0);
  EXPECT_EQ(intel.ebx, 0x756e6547u);
  EXPECT_EQ(amd.ebx, 0x68747541u);
  EXPECT_EQ(of(model("EPYC"), 0x80000000).ebx, 0x68747541u);
}

TEST_F(Cpuid, osxsave_follows_cr4) {
  const CpuModel m = model("Haswell");
  EXPECT_FALSE(of(m, 1).ecx >> 27 & 1);
  state_.cr4 = cr4::kOsxsave;
  EXPECT_TRUE(of(m, 1).ecx >> 27 & 1);
}

TEST_F(Cpuid, xsave_size_follows_xcr0) {
  const CpuModel m = model("Haswell");
  EXPECT_EQ(of(m, 0xd).ebx, 576u);
  EXPECT_EQ(of(m, 0xd).ecx, 832u);
  EXPECT_EQ(of(m, 0xd).eax, 7u);
  state_.xcr0 = 7;
  EXPECT_EQ(of(m, 0xd).ebx, 832u);
  EXPECT_EQ(of(m, 0xd, 2), (CpuidResult{256, 576, 0, 0}));
}

TEST_F(Cpuid, topology_counts_and_ids_agree) {
  const CpuModel m = model("Haswell");
  EXPECT_EQ(of(m, 1).ebx >> 24, 3u);
  EXPECT_EQ(of(m, 1).ebx >> 16 & 0xff, 4u);
  EXPECT_TRUE(of(m, 1).edx >> 28 & 1);
  EXPECT_EQ(of(m, 0xb, 0), (CpuidResult{1, 2, 0x100, 3}));
  EXPECT_EQ(of(m, 0xb, 1), (CpuidResult{2, 4, 0x201, 3}));
  EXPECT_EQ(of(m, 0xb, 2), (CpuidResult{0, 0, 2, 3}));
}

TEST_F(Cpuid, dies_have_a_leaf_of_their_own) {
  const CpuModel m = model("Haswell");
  EXPECT_LT(of(m, 0).eax, 0x1fu) << "guests without dies are not told of them";
  vcpu_.topology = {.sockets = 2, .dies = 2, .cores = 3, .threads = 2};
  vcpu_.apic_id = vcpu_.topology.apic_id(23);
  EXPECT_EQ(vcpu_.apic_id, 1u << 4 | 1u << 3 | 2u << 1 | 1u);
  EXPECT_EQ(of(m, 0).eax, 0x1fu);
  EXPECT_EQ(of(m, 0x1f, 0), (CpuidResult{1, 2, 0x100, 29}));
  EXPECT_EQ(of(m, 0x1f, 1), (CpuidResult{3, 6, 0x201, 29}));
  EXPECT_EQ(of(m, 0x1f, 2), (CpuidResult{4, 12, 0x502, 29}));
  EXPECT_EQ(of(m, 0x1f, 3), (CpuidResult{0, 0, 3, 29}));
  EXPECT_EQ(of(m, 0xb, 1), (CpuidResult{4, 12, 0x201, 29})) << "who does not know dies sees sockets";
  EXPECT_EQ(of(m, 4, 3).eax >> 14 & 0xfff, 7u) << "the last cache is a die's";
  EXPECT_EQ(of(m, 4, 3).eax >> 26, 7u);
  const CpuModel amd = model("EPYC");
  EXPECT_EQ(of(amd, 0x8000001e).ecx, 0x103u) << "node 3, two to a socket";
}

TEST_F(Cpuid, apic_ids_leave_gaps_for_odd_counts) {
  EXPECT_EQ((Topology{.sockets = 2, .cores = 3}).apic_id(3),
            4u);  // second socket starts at the next power of two
  EXPECT_EQ((Topology{.sockets = 2, .cores = 2, .threads = 2}).apic_id(2), 2u);
  EXPECT_EQ((Topology{.sockets = 2, .cores = 2, .threads = 2}).apic_id(4), 4u);
}

TEST_F(Cpuid, tsc_leaf_gives_the_frequency_and_fits_32_bit_arithmetic) {
  vcpu_.tsc_hz = 2'593'906'000;
  const CpuidResult r = of(model("Haswell"), 0x15);
  ASSERT_NE(r.eax, 0u);
  EXPECT_EQ(r.ecx, 1'000'000'000u);
  const double hz = 1e9 * r.ebx / r.eax;
  EXPECT_NEAR(hz, 2'593'906'000.0, 13000.0);  // five parts in a million
  EXPECT_LE(uint64_t{r.ecx / 1000} * r.ebx, 0xffffffffu);
}

TEST_F(Cpuid, kvm_leaves_only_as_far_as_the_machine_provides) {
  const CpuModel m = model("Haswell");
  EXPECT_EQ(of(m, 0x40000000).ebx, 0x4b4d564bu);
  vcpu_.kvm_features = 1u << 3;
  EXPECT_EQ(of(m, 0x40000001).eax, 1u << 3);
  EXPECT_EQ(of(m, 0x40000010).eax, 2'600'000u);
  vcpu_.kvm_features = 0;
  EXPECT_EQ(of(m, 0x40000000), CpuidResult{});
}

TEST_F(Cpuid, kvm_off_hides_the_leaves) {
  EXPECT_EQ(of(model("Haswell,kvm=off"), 0x40000000), CpuidResult{});
}

TEST_F(Cpuid, intel_answers_too_high_leaves_with_the_highest_amd_with_zero) {
  const CpuModel intel = model("Haswell");
  EXPECT_EQ(of(intel, 0x00ffffff), of(intel, 0x16));
  EXPECT_EQ(of(model("EPYC"), 0x00ffffff), CpuidResult{});
}

TEST_F(Cpuid, the_highest_leaves_can_be_set) {
  EXPECT_EQ(of(model("Haswell,level=7"), 0).eax, 7u);
  EXPECT_EQ(of(model("Haswell,level=7"), 0xd), of(model("Haswell"), 7)) << "beyond the highest is its data";
  EXPECT_EQ(of(model("EPYC,min-level=0x10"), 0).eax, 0x10u);
  EXPECT_EQ(of(model("EPYC,min-level=5"), 0).eax, 0xdu);
  EXPECT_EQ(of(model("EPYC,xlevel=0x80000008"), 0x80000000).eax, 0x80000008u);
  EXPECT_EQ(of(model("EPYC,xlevel=0x80000008"), 0x8000001d), CpuidResult{});
  EXPECT_EQ(of(model("EPYC,min-xlevel=0x8000000a"), 0x80000000).eax, 0x8000001eu);
  EXPECT_EQ(of(model("Haswell,min-xlevel=0x8000000a"), 0x80000000).eax, 0x8000000au);
}

TEST_F(Cpuid, old_processors_have_few_leaves) {
  const CpuModel pentium = model("pentium");
  EXPECT_EQ(of(pentium, 0).eax, 1u);
  EXPECT_NE(of(pentium, 0x80000000).eax & 0xffff0000, 0x80000000u) << "there are no extended ones";
  EXPECT_EQ(of(model("qemu32"), 0x80000000).eax, 0x80000004u);
}

TEST_F(Cpuid, leaves_can_be_left_out) {
  EXPECT_NE(of(model("Haswell"), 4, 3).eax, 0u);
  EXPECT_EQ(of(model("Haswell,l3-cache=off"), 4, 3), CpuidResult{});
  EXPECT_EQ(of(model("EPYC,l3-cache=off"), 0x80000006).edx, 0u);
  EXPECT_EQ(of(model("Haswell,cpuid-0xb=off"), 0xb), CpuidResult{});
  EXPECT_EQ(of(model("Haswell,vmware-cpuid-freq=off"), 0x40000000).eax, 0x40000001u);
  EXPECT_EQ(of(model("Haswell,vmware-cpuid-freq=off"), 0x40000010), CpuidResult{});
}

TEST_F(Cpuid, a_vcpu_that_is_never_preempted_is_hinted_at) {
  EXPECT_EQ(of(model("max"), 0x40000001).edx, 0u);
  EXPECT_EQ(of(model("max,kvm-hint-dedicated=on"), 0x40000001).edx, 1u);
}

TEST_F(Cpuid, address_widths) {
  EXPECT_EQ(of(model("Haswell"), 0x80000008).eax, 48u << 8 | 40);
  EXPECT_EQ(of(model("Haswell,phys-bits=46,+la57"), 0x80000008).eax, 57u << 8 | 46);
}

TEST_F(Cpuid, amd_repeats_the_classic_flags) {
  EXPECT_EQ(of(model("EPYC"), 0x80000001).edx & 0x0183f3ff, of(model("EPYC"), 1).edx & 0x0183f3ff);
  EXPECT_EQ(of(model("Haswell"), 0x80000001).edx & 0x0183f3ff, 0u);
}

TEST_F(Cpuid, intel_shows_syscall_to_64_bit_code_only) {
  constexpr uint32_t kSyscall = 1u << 11;
  EXPECT_EQ(of(model("Haswell"), 0x80000001).edx & kSyscall, 0u);
  EXPECT_EQ(of(model("EPYC"), 0x80000001).edx & kSyscall, kSyscall);
  state_.msr.efer = efer::kLma;
  state_.seg[kCs].attributes = Segment::kLong;
  EXPECT_EQ(of(model("Haswell"), 0x80000001).edx & kSyscall, kSyscall);
}

TEST_F(Cpuid, no_leaf_of_any_model_crashes) {
  for (const ModelListing& listing : CpuModel::list()) {
    const CpuModel m = model(listing.name);
    for (uint32_t base : {0u, 0x40000000u, 0x80000000u, 0xc0000000u})
      for (uint32_t leaf = 0; leaf < 0x40; ++leaf)
        for (uint32_t subleaf = 0; subleaf < 8; ++subleaf) of(m, base + leaf, subleaf);
  }
}

}  // namespace
}  // namespace ostler::x86
