// What follows the model in -cpu: flags by name, and settings. Names are QEMU's; what has no meaning here is
// taken while it asks for nothing, and told where it asks for something.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

#include "base/suggest.h"
#include "x86/cpu_model.h"

namespace ostler::x86 {
namespace {

using F = Feature;

// Nothing changes either way.
constexpr std::string_view kWithoutEffect[] = {
    "check",         // warnings are always given
    "migratable",    // nothing that is offered keeps a machine here
    "legacy-cache",  // the caches that are told of are the same for all
    "full-cpuid-auto-level",
    "fill-mtrr-mask",
    "tcg-cpuid",
    "x-intel-pt-auto-level",
    "x-vendor-cpuid-only",
    "x-migrate-smi-count",
    "kvm-no-smi-migration"};

// Off is what there is; on gets a warning.
constexpr std::pair<std::string_view, std::string_view> kOnlyOff[] = {
    {"pmu", "there are no performance counters in this version"},
    {"host-cache-info", "the guest is told of caches of a usual size, not of this host's"},
    {"lmce", "machine checks of one processor alone are not available in this version"},
    {"kvm-pv-enforce-cpuid", "services of KVM answer as far as this version has them"},
    {"x-force-features", "features that nothing implements are not shown"},
};

// Flags of QEMU's that no guest of ours has: of nested virtualization, enclaves and other makers' processors.
constexpr std::string_view kFlagsElsewhere[] = {"ace2",
                                                "ace2-en",
                                                "amd-no-ssb",
                                                "avic",
                                                "avx512-4fmaps",
                                                "avx512-4vnniw",
                                                "decodeassists",
                                                "flushbyasid",
                                                "full-width-write",
                                                "ibrs-all",
                                                "intel-pt-lip",
                                                "lbrv",
                                                "mds-no",
                                                "npt",
                                                "nrip-save",
                                                "pause-filter",
                                                "pcommit",
                                                "pfthreshold",
                                                "phe",
                                                "phe-en",
                                                "pmm",
                                                "pmm-en",
                                                "pschange-mc-no",
                                                "rdctl-no",
                                                "rsba",
                                                "sgx-debug",
                                                "sgx-exinfo",
                                                "sgx-kss",
                                                "sgx-mode64",
                                                "sgx-provisionkey",
                                                "sgx-tokenkey",
                                                "sgx1",
                                                "sgx2",
                                                "skip-l1dfl-vmentry",
                                                "split-lock-detect",
                                                "ssb-no",
                                                "svm-lock",
                                                "svme-addr-chk",
                                                "taa-no",
                                                "tsc-scale",
                                                "tsx-ctrl",
                                                "v-vmsave-vmload",
                                                "vgif",
                                                "vmcb-clean",
                                                "xcrypt",
                                                "xcrypt-en",
                                                "xstore",
                                                "xstore-en"};

constexpr std::string_view kSettings[] = {
    "cpuid-0xb",  "enforce",       "family", "host-phys-bits",    "host-phys-bits-limit",
    "kvm",        "l3-cache",      "level",  "level-func7",       "min-level",
    "min-xlevel", "min-xlevel2",   "model",  "model-id",          "phys-bits",
    "stepping",   "tsc-frequency", "vendor", "vmware-cpuid-freq", "xlevel",
    "xlevel2"};

std::optional<bool> parse_switch(std::string_view value) {
  if (value == "on" || value == "yes" || value == "true" || value == "y") return true;
  if (value == "off" || value == "no" || value == "false" || value == "n") return false;
  return std::nullopt;
}

std::optional<uint64_t> parse_number(std::string_view value) {
  int base = 10;
  if (value.starts_with("0x")) {
    value.remove_prefix(2);
    base = 16;
  }
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number, base);
  if (error != std::errc() || end != value.data() + value.size()) return std::nullopt;
  return number;
}

}  // namespace

// One list, from left to right.
class CpuOptions {
 public:
  CpuOptions(CpuModel& model, const HostCpu& host) : m_(model), host_(host) {}
  Result<void> apply(std::string_view option);
  void finish();

 private:
  Result<void> set(std::string_view name, std::string_view value);
  Result<void> set_number(std::string_view name, std::string_view value);
  Result<void> set_vendor(std::string_view value);
  Result<void> set_tsc_frequency(std::string_view value);
  Error unknown(std::string_view name) const;

  Error bad(std::string_view name, std::string_view value, std::string_view wants) const {
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("-cpu {}: '{}={}': {} takes {}", m_.name_, name, value, name, wants));
  }
  Result<bool> switched(std::string_view name, std::string_view value) const {
    const std::optional<bool> on = parse_switch(value);
    if (!on) return bad(name, value, "on or off");
    return *on;
  }
  Result<uint32_t> counted(std::string_view name, std::string_view value, uint32_t least,
                           uint32_t most) const {
    const std::optional<uint64_t> number = parse_number(value);
    if (!number || *number < least || *number > most)
      return bad(name, value, fmt::format("a number from {} to {}", least, most));
    return static_cast<uint32_t>(*number);
  }
  // Leaves from `base` on; 0: none.
  Result<uint32_t> leaf(std::string_view name, std::string_view value, uint32_t base) const {
    const std::optional<uint64_t> number = parse_number(value);
    if (!number || (*number != 0 && (*number < base || *number > base + 0xff)))
      return bad(name, value, fmt::format("0, or a number from {:#x} to {:#x}", base, base + 0xff));
    return static_cast<uint32_t>(*number);
  }
  void warn(std::string_view name, std::string_view why) {
    m_.warnings_.push_back(fmt::format("-cpu {}: {}: {}", m_.name_, name, why));
  }

  CpuModel& m_;
  const HostCpu& host_;
  bool host_bits_ = false;
  uint32_t most_host_bits_ = 52;
};

Result<void> CpuOptions::apply(std::string_view option) {
  if (option.empty()) return {};
  const bool plus = option.front() == '+', minus = option.front() == '-';
  std::string_view name = plus || minus ? option.substr(1) : option;
  std::string_view value = plus ? "on" : minus ? "off" : "on";
  if (const size_t equals = name.find('='); !plus && !minus && equals != std::string_view::npos) {
    value = name.substr(equals + 1);
    name = name.substr(0, equals);
  }
  if (const std::optional<F> feature = find_feature(name)) {
    TRY_ASSIGN(const bool on, switched(name, value));
    m_.features_.set(*feature, on);
    m_.requested_.set(*feature, on);
    return {};
  }
  std::string spelled(name);
  std::replace(spelled.begin(), spelled.end(), '_', '-');
  return set(spelled, value);
}

Result<void> CpuOptions::set(std::string_view name, std::string_view value) {
  const auto is_name = [name](std::string_view other) { return other == name; };
  const auto switch_to = [&](bool& target) -> Result<void> {
    TRY_ASSIGN(target, switched(name, value));
    return {};
  };
  if (std::ranges::any_of(kWithoutEffect, is_name)) {
    TRY(switched(name, value));
    return {};
  }
  for (const auto& [only_off, why] : kOnlyOff) {
    if (only_off != name) continue;
    TRY_ASSIGN(const bool on, switched(name, value));
    if (on) warn(name, why);
    return {};
  }
  if (std::ranges::any_of(kFlagsElsewhere, is_name) || name.starts_with("vmx-")) {
    TRY_ASSIGN(const bool on, switched(name, value));
    if (on) warn(name, "guests of this program never have this flag; leave it out, or say =off");
    return {};
  }
  if (name.starts_with("hv-") || name.starts_with("x-hv-")) {
    if (parse_switch(value) == false) return {};
    return Error(
        ErrorKind::kUnsupported,
        fmt::format("-cpu {}: {}: the services of Hyper-V are not available in this version; leave it "
                    "out: guests have those of KVM",
                    m_.name_, name));
  }
  if (name == "enforce") return switch_to(m_.enforce_);
  if (name == "kvm") return switch_to(m_.kvm_);
  if (name == "l3-cache") return switch_to(m_.l3_cache_);
  if (name == "cpuid-0xb") return switch_to(m_.topology_leaf_);
  if (name == "vmware-cpuid-freq") return switch_to(m_.frequency_leaf_);
  if (name == "host-phys-bits") return switch_to(host_bits_);
  if (name == "vendor") return set_vendor(value);
  if (name == "tsc-frequency") return set_tsc_frequency(value);
  if (name == "model-id") {
    m_.brand_ = std::string(value.substr(0, 47));
    return {};
  }
  return set_number(name, value);
}

Result<void> CpuOptions::set_number(std::string_view name, std::string_view value) {
  if (name == "family") {
    TRY_ASSIGN(m_.family_, counted(name, value, 0, 270));
  } else if (name == "model") {
    TRY_ASSIGN(m_.model_, counted(name, value, 0, 255));
  } else if (name == "stepping") {
    TRY_ASSIGN(m_.stepping_, counted(name, value, 0, 15));
  } else if (name == "phys-bits") {
    if (value == "0") return {};  // the model's
    TRY_ASSIGN(m_.physical_bits_, counted(name, value, 32, 52));
  } else if (name == "host-phys-bits-limit") {
    TRY_ASSIGN(const uint32_t limit, counted(name, value, 0, 52));
    most_host_bits_ = limit == 0 ? 52 : limit;
  } else if (name == "level") {
    TRY_ASSIGN(m_.basic_max_, counted(name, value, 1, 0xff));
    m_.basic_max_given_ = true;
  } else if (name == "min-level") {
    TRY_ASSIGN(const uint32_t least, counted(name, value, 0, 0xff));
    m_.basic_max_ = std::max(m_.basic_max_, least);
  } else if (name == "xlevel") {
    TRY_ASSIGN(m_.extended_max_, leaf(name, value, 0x80000000));
  } else if (name == "min-xlevel") {
    TRY_ASSIGN(m_.extended_least_, leaf(name, value, 0x80000000));
  } else if (name == "xlevel2" || name == "min-xlevel2") {
    TRY_ASSIGN(const uint32_t highest, leaf(name, value, 0xc0000000));
    if (highest != 0) warn(name, "the leaves of Centaur's processors say nothing in this version");
  } else if (name == "level-func7") {
    TRY(counted(name, value, 0, 2));  // the highest subleaf, which is 2
  } else {
    return unknown(name);
  }
  return {};
}

Result<void> CpuOptions::set_vendor(std::string_view value) {
  if (value.size() != 12) return bad("vendor", value, "12 characters, such as GenuineIntel or AuthenticAMD");
  m_.vendor_text_ = value;
  m_.vendor_ = value == "AuthenticAMD" || value == "HygonGenuine" ? Vendor::kAmd : Vendor::kIntel;
  return {};
}

// KVM takes 250 parts in a million for the same.
Result<void> CpuOptions::set_tsc_frequency(std::string_view value) {
  const std::optional<uint64_t> wanted = parse_number(value);
  if (!wanted) return bad("tsc-frequency", value, "a number of Hz");
  const uint64_t hz = host_tsc_hz();
  const uint64_t apart = *wanted > hz ? *wanted - hz : hz - *wanted;
  if (*wanted == 0 || apart <= hz / 4000) return {};
  return Error(
      ErrorKind::kUnsupported,
      fmt::format("-cpu {}: tsc-frequency: the guest's TSC counts as this host's does, {} Hz; leave it out",
                  m_.name_, hz));
}

Error CpuOptions::unknown(std::string_view name) const {
  std::vector<std::string_view> names(std::begin(kSettings), std::end(kSettings));
  names.insert(names.end(), std::begin(kWithoutEffect), std::end(kWithoutEffect));
  for (const auto& [only_off, why] : kOnlyOff) names.push_back(only_off);
  for (size_t i = 0; i < kFeatureCount; ++i) names.push_back(feature_info(static_cast<F>(i)).spelling);
  return Error(ErrorKind::kInvalidArgument,
               fmt::format("-cpu {}: no CPU flag or option is called '{}'{} (-cpu help lists the flags)",
                           m_.name_, name, suggestion(name, names)));
}

void CpuOptions::finish() {
  if (host_bits_) m_.physical_bits_ = std::clamp(std::min(host_.physical_bits, most_host_bits_), 32u, 52u);
}

Result<void> CpuModel::apply_options(std::string_view list, const HostCpu& host) {
  CpuOptions options(*this, host);
  for (;;) {
    const size_t comma = list.find(',');
    TRY(options.apply(list.substr(0, comma)));
    if (comma == std::string_view::npos) break;
    list.remove_prefix(comma + 1);
  }
  options.finish();
  return {};
}

}  // namespace ostler::x86
