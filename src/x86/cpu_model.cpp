#include "x86/cpu_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "x86/cpu_model_list.h"

namespace ostler::x86 {
namespace {

using F = Feature;

constexpr uint32_t kKvmFeatureLeaf = 0x40000001;

// "Haswell-noTSX-v2": the processor is Haswell. QEMU's versions differ in what none of our models has (TSX)
// or what was found out later about the same processor.
std::string_view without_variant(std::string_view name) {
  if (const size_t dash = name.rfind("-v"); dash != std::string_view::npos && dash + 2 < name.size() &&
                                            name.find_first_not_of("0123456789", dash + 2) == name.npos)
    name = name.substr(0, dash);
  constexpr std::string_view kNoTsx = "-noTSX";
  if (name.ends_with(kNoTsx)) name.remove_suffix(kNoTsx.size());
  return name;
}

// Features that make no sense, or cannot be executed, without another one.
struct Dependency {
  Feature feature, needs;
};
constexpr Dependency kDependencies[] = {
    {F::kSse, F::kFxsr},
    {F::kSse2, F::kSse},
    {F::kSse3, F::kSse2},
    {F::kSsse3, F::kSse3},
    {F::kSse41, F::kSsse3},
    {F::kSse42, F::kSse41},
    {F::kAes, F::kSse2},
    {F::kPclmulqdq, F::kSse2},
    {F::kSha, F::kSse2},
    {F::kAvx, F::kXsave},
    {F::kAvx, F::kSse42},
    {F::kAvx2, F::kAvx},
    {F::kFma, F::kAvx},
    {F::kF16c, F::kAvx},
    {F::kXsaveopt, F::kXsave},
    {F::kXsavec, F::kXsave},
    {F::kXgetbv1, F::kXsave},
    {F::kXsaves, F::kXsavec},
    {F::kLahfLm, F::kLm},
    {F::kSyscall, F::kLm},
    {F::kPcid, F::kLm},
    {F::kInvpcid, F::kLm},
    {F::kFsgsbase, F::kLm},
    {F::kLa57, F::kLm},
    {F::kPdpe1gb, F::kLm},
    {F::kCx16, F::kLm},
    {F::kX2apic, F::kApic},
    {F::kTscDeadline, F::kApic},
    {F::kNx, F::kPae},
    {F::kLm, F::kPae},
    {F::kKvmClockStable, F::kKvmClock2},
    {F::kBhiCtrl, F::kSpecCtrl},
};

size_t distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      const bool same = std::tolower(static_cast<unsigned char>(a[i - 1])) ==
                        std::tolower(static_cast<unsigned char>(b[j - 1]));
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (same ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

template <class Names>
std::string nearest(std::string_view wanted, const Names& names) {
  std::string_view best;
  size_t best_distance = ~size_t{0};
  for (std::string_view name : names) {
    const size_t d = distance(wanted, name);
    if (d < best_distance) {
      best_distance = d;
      best = name;
    }
  }
  return std::string(best);
}

std::vector<std::string_view> option_names() {
  std::vector<std::string_view> names = {"phys-bits",  "host-phys-bits", "enforce", "check",    "kvm",
                                         "migratable", "family",         "model",   "stepping", "model-id",
                                         "vendor",     "level",          "pmu",     "l3-cache"};
  for (size_t i = 0; i < kFeatureCount; ++i) names.push_back(feature_info(static_cast<F>(i)).spelling);
  return names;
}

std::optional<bool> parse_switch(std::string_view value) {
  if (value == "on" || value == "yes" || value == "true" || value == "y") return true;
  if (value == "off" || value == "no" || value == "false" || value == "n") return false;
  return std::nullopt;
}

std::optional<unsigned> parse_number(std::string_view value) {
  int base = 10;
  if (value.starts_with("0x")) {
    value.remove_prefix(2);
    base = 16;
  }
  unsigned number = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number, base);
  if (error != std::errc() || end != value.data() + value.size()) return std::nullopt;
  return number;
}

Error bad_value(std::string_view name, std::string_view value, std::string_view wants) {
  return Error(ErrorKind::kInvalidArgument,
               fmt::format("-cpu: '{}={}': {} takes {}", name, value, name, wants));
}

FeatureSet implemented(const HostCpu& host) {
  FeatureSet set;
  for (size_t i = 0; i < kFeatureCount; ++i) {
    const Feature feature = static_cast<F>(i);
    const Offer offer = feature_info(feature).offer;
    set.set(feature, offer == Offer::kOurs || (offer == Offer::kHost && host.features.has(feature)));
  }
  return set;
}

// What `max` and `host` offer without being asked: not the bits that only say how another vendor counts
// cores.
FeatureSet everything(const HostCpu& host, Vendor vendor) {
  FeatureSet set = implemented(host);
  set.set(F::kHt, false);  // follows the topology
  set.set(F::kCmpLegacy, false);
  if (vendor != Vendor::kAmd) set.set(F::kTopoext, false);
  return set;
}

FeatureSet paravirtual() {
  FeatureSet set;
  for (size_t i = 0; i < kFeatureCount; ++i)
    if (feature_info(static_cast<F>(i)).leaf == kKvmFeatureLeaf) set.set(static_cast<F>(i));
  return set & FeatureSet{F::kKvmClock,       F::kKvmNopIoDelay,   F::kKvmClock2,       F::kKvmStealTime,
                          F::kKvmPvEoi,       F::kKvmPvUnhalt,     F::kKvmPvTlbFlush,   F::kKvmPvIpi,
                          F::kKvmPollControl, F::kKvmPvSchedYield, F::kKvmMsiExtDestId, F::kKvmClockStable};
}

// `host` keeps of everything() only what the host's own CPUID shows, besides what a virtual machine adds.
FeatureSet host_mask(const HostCpu& host) {
  return host.features | paravirtual() | FeatureSet{F::kHypervisor,
                                                    F::kX2apic,
                                                    F::kTscDeadline,
                                                    F::kTscAdjust,
                                                    F::kArat,
                                                    F::kUmip,
                                                    F::kApic,
                                                    F::kMtrr,
                                                    F::kMce,
                                                    F::kMca,
                                                    F::kArchCapabilities,
                                                    F::kSpecCtrl,
                                                    F::kBhiCtrl};
}

constexpr ModelListing kHostModels[] = {
    {"max", "everything that the host can execute and Ostler implements"},
    {"host", "the host's processor, less what Ostler does not implement"},
};

}  // namespace

std::span<const ModelListing> CpuModel::list() {
  static const std::vector<ModelListing> listing = [] {
    std::vector<ModelListing> all;
    for (const ModelRow& row : model_rows()) all.push_back({row.name, row.description});
    all.insert(all.end(), std::begin(kHostModels), std::end(kHostModels));
    return all;
  }();
  return listing;
}

std::string CpuModel::help() {
  std::string text = "Available CPUs:\n";
  for (const ModelListing& model : list())
    text += fmt::format("  {:<18} {}\n", model.name, model.description);
  text += "\nRecognized CPUID flags:\n ";
  size_t column = 1;
  for (size_t i = 0; i < kFeatureCount; ++i) {
    const FeatureInfo& info = feature_info(static_cast<F>(i));
    if (info.offer == Offer::kNever) continue;
    if (column + info.spelling.size() + 1 > 78) {
      text += "\n ";
      column = 1;
    }
    text += fmt::format(" {}", info.spelling);
    column += info.spelling.size() + 1;
  }
  return text + "\n";
}

void CpuModel::request(Feature feature, bool on) {
  features_.set(feature, on);
  requested_.set(feature, on);
}

Result<void> CpuModel::apply_option(std::string_view option, const HostCpu& host) {
  if (option.empty()) return {};
  const bool plus = option.front() == '+', minus = option.front() == '-';
  std::string_view name = plus || minus ? option.substr(1) : option;
  std::string_view value = plus ? "on" : minus ? "off" : "on";
  if (const size_t equals = name.find('='); !plus && !minus && equals != std::string_view::npos) {
    value = name.substr(equals + 1);
    name = name.substr(0, equals);
  }

  const auto switched = [&](bool& target) -> Result<void> {
    const std::optional<bool> on = parse_switch(value);
    if (!on) return bad_value(name, value, "on or off");
    target = *on;
    return {};
  };
  const auto counted = [&](unsigned least, unsigned most, unsigned& target) -> Result<void> {
    const std::optional<unsigned> number = parse_number(value);
    if (!number || *number < least || *number > most)
      return bad_value(name, value, fmt::format("a number from {} to {}", least, most));
    target = *number;
    return {};
  };
  bool ignored = false;
  if (const std::optional<Feature> feature = find_feature(name)) {
    bool on = false;
    TRY(switched(on));
    request(*feature, on);
    return {};
  }
  if (name == "enforce") return switched(enforce_);
  if (name == "kvm") return switched(kvm_);
  // Accepted because tools pass them: warnings are always given, there is no PMU, caches are always
  // described.
  if (name == "check" || name == "migratable" || name == "pmu" || name == "l3-cache")
    return switched(ignored);
  if (name == "phys-bits") return counted(32, 52, physical_bits_);
  if (name == "host-phys-bits") {
    bool on = false;
    TRY(switched(on));
    if (on) physical_bits_ = std::clamp(host.physical_bits, 32u, 52u);
    return {};
  }
  if (name == "family") return counted(5, 270, family_);
  if (name == "model") return counted(0, 255, model_);
  if (name == "stepping") return counted(0, 15, stepping_);
  if (name == "level") return counted(1, 0x20, basic_max_);
  if (name == "model-id") {
    brand_ = std::string(value.substr(0, 47));
    return {};
  }
  if (name == "vendor") {
    if (value == "GenuineIntel")
      vendor_ = Vendor::kIntel;
    else if (value == "AuthenticAMD")
      vendor_ = Vendor::kAmd;
    else
      return bad_value(name, value, "GenuineIntel or AuthenticAMD");
    return {};
  }
  if (name.starts_with("hv-") || name.starts_with("hv_"))
    return Error(
        ErrorKind::kUnsupported,
        fmt::format("-cpu {}: {}: the services of Hyper-V are not available in this version; leave it "
                    "out: guests have those of KVM",
                    name_, name));
  return Error(
      ErrorKind::kInvalidArgument,
      fmt::format("-cpu {}: no CPU flag or option is called '{}'; did you mean '{}'? (-cpu help lists all)",
                  name_, name, nearest(name, option_names())));
}

// Drops what cannot be had, then whatever depends on it; says so for what the user asked for by name.
// `quiet`: features of the model itself that went missing are told in one sentence.
void CpuModel::settle(const HostCpu& host, const FeatureSet& quiet) {
  const FeatureSet available = implemented(host);
  std::vector<std::string_view> missing;
  for (size_t i = 0; i < kFeatureCount; ++i) {
    const Feature feature = static_cast<F>(i);
    if (!features_.has(feature) || available.has(feature)) continue;
    features_.set(feature, false);
    const FeatureInfo& info = feature_info(feature);
    if (requested_.has(feature))
      warnings_.push_back(
          info.offer == Offer::kNever
              ? fmt::format("-cpu {}: the flag '{}' is not implemented, the guest will not see it", name_,
                            info.spelling)
              : fmt::format("-cpu {}: this host's processor lacks '{}', the guest will not see it", name_,
                            info.spelling));
    else if (!quiet.has(feature))
      missing.push_back(info.spelling);
  }
  drop_dependent();
  if (!missing.empty())
    warnings_.push_back(fmt::format("-cpu {}: this host's processor lacks {}, the guest will not see {}",
                                    name_, fmt::join(missing, ", "), missing.size() == 1 ? "it" : "them"));
}

void CpuModel::drop_dependent() {
  for (bool changed = true; changed;) {
    changed = false;
    for (const Dependency& dependency : kDependencies) {
      if (!features_.has(dependency.feature) || features_.has(dependency.needs)) continue;
      features_.set(dependency.feature, false);
      changed = true;
      if (requested_.has(dependency.feature))
        warnings_.push_back(fmt::format("-cpu {}: the flag '{}' needs '{}', the guest will not see it", name_,
                                        feature_info(dependency.feature).spelling,
                                        feature_info(dependency.needs).spelling));
    }
  }
}

Result<void> CpuModel::restrict_to(const FeatureSet& available, std::string_view who) {
  const size_t told = warnings_.size();
  const bool of_host = name_ == "max" || name_ == "host";  // what there is, whatever that is
  std::vector<std::string_view> missing;
  for (size_t i = 0; i < kFeatureCount; ++i) {
    const Feature feature = static_cast<F>(i);
    if (!features_.has(feature) || available.has(feature)) continue;
    features_.set(feature, false);
    if (requested_.has(feature))
      warnings_.push_back(fmt::format("-cpu {}: {} lacks '{}', the guest will not see it", name_, who,
                                      feature_info(feature).spelling));
    else if (!of_host && feature_info(feature).leaf != kKvmFeatureLeaf)
      missing.push_back(feature_info(feature).spelling);
  }
  drop_dependent();
  if (!missing.empty())
    warnings_.push_back(fmt::format("-cpu {}: {} lacks {}, the guest will not see {}", name_, who,
                                    fmt::join(missing, ", "), missing.size() == 1 ? "it" : "them"));
  if (enforce_ && warnings_.size() > told)
    return Error(ErrorKind::kUnsupported, warnings_[told] + " (and -cpu …,enforce asks for all of it)");
  return {};
}

Result<CpuModel> CpuModel::parse(std::string_view text, const HostCpu& host) {
  const std::string_view name = text.substr(0, text.find(','));
  CpuModel model;
  model.name_ = std::string(name);

  const Vendor host_vendor =
      host.vendor == "AuthenticAMD" || host.vendor == "HygonGenuine" ? Vendor::kAmd : Vendor::kIntel;
  const ModelRow* found = nullptr;
  for (const ModelRow& row : model_rows())
    if (row.name == without_variant(name)) found = &row;
  FeatureSet quiet;
  if (found != nullptr) {
    model.vendor_ = found->vendor;
    model.family_ = found->family;
    model.model_ = found->model;
    model.stepping_ = found->stepping;
    model.brand_ = std::string(found->brand);
    model.basic_max_ = found->basic_max;
    model.features_ = found->features | paravirtual();
  } else if (name == "max" || name == "host") {
    model.vendor_ = host_vendor;
    model.features_ = everything(host, host_vendor);
    quiet = model.features_;
    model.physical_bits_ = std::clamp(host.physical_bits, 36u, 52u);
    model.basic_max_ = 0xd;
    if (name == "host") {
      model.features_ &= host_mask(host);
      model.family_ = host.family;
      model.model_ = host.model;
      model.stepping_ = host.stepping;
      model.brand_ = host.brand;
    } else {
      // The latest of the host vendor's processors without AVX-512: programs that GCC built for several
      // processors (target_clones with arch=) choose their code by this number alone, without a look at the
      // features.
      model.family_ = host_vendor == Vendor::kAmd ? 25 : 6;
      model.model_ = host_vendor == Vendor::kAmd ? 1 : 94;
      model.stepping_ = host_vendor == Vendor::kAmd ? 1 : 3;
      model.brand_ = "Ostler Virtual CPU (max)";
    }
  } else {
    std::vector<std::string_view> names;
    for (const ModelListing& listing : list()) names.push_back(listing.name);
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("-cpu: no CPU model is called '{}'; did you mean '{}'? Known: {}", name,
                             nearest(name, names), fmt::join(names, ", ")));
  }

  for (size_t at = text.find(','); at != std::string_view::npos;) {
    const size_t end = text.find(',', at + 1);
    TRY(model.apply_option(text.substr(at + 1, end == std::string_view::npos ? end : end - at - 1), host));
    at = end;
  }
  if (!model.kvm_)
    for (size_t i = 0; i < kFeatureCount; ++i)
      if (feature_info(static_cast<F>(i)).leaf == kKvmFeatureLeaf)
        model.features_.set(static_cast<F>(i), false);
  model.settle(host, quiet);
  if (!model.has(F::kLm) || !model.has(F::kSse2))
    return Error(
        ErrorKind::kUnsupported,
        fmt::format("-cpu {}: a processor without {} is not supported; remove the option that drops it", name,
                    model.has(F::kLm) ? "sse2" : "lm"));
  if (model.enforce_ && !model.warnings_.empty())
    return Error(ErrorKind::kUnsupported,
                 model.warnings_.front() + " (and -cpu …,enforce asks for all of it)");
  return model;
}

uint32_t CpuModel::feature_bits(uint32_t leaf, uint32_t subleaf, CpuidRegister reg) const {
  uint32_t value = 0;
  for (size_t i = 0; i < kFeatureCount; ++i) {
    const FeatureInfo& info = feature_info(static_cast<F>(i));
    if (info.leaf == leaf && info.subleaf == subleaf && info.reg == reg && has(static_cast<F>(i)))
      value |= 1u << info.bit;
  }
  return value;
}

uint64_t CpuModel::xcr0_supported() const {
  if (!has(F::kXsave)) return 0;
  return has(F::kAvx) ? 7 : 3;
}

uint64_t CpuModel::cr4_supported() const {
  uint64_t mask = 0;
  const auto allow = [&](bool offered, uint64_t bits) { mask |= offered ? bits : 0; };
  allow(has(F::kTsc), cr4::kTsd);
  allow(has(F::kDe), cr4::kDe);
  allow(has(F::kPse), cr4::kPse);
  allow(has(F::kPae), cr4::kPae);
  allow(has(F::kMce), cr4::kMce);
  allow(has(F::kPge), cr4::kPge);
  allow(true, cr4::kPce);
  allow(has(F::kFxsr), cr4::kOsfxsr);
  allow(has(F::kSse), cr4::kOsxmmexcpt);
  allow(has(F::kUmip), cr4::kUmip);
  allow(has(F::kLa57), cr4::kLa57);
  allow(has(F::kFsgsbase), cr4::kFsgsbase);
  allow(has(F::kPcid), cr4::kPcide);
  allow(has(F::kXsave), cr4::kOsxsave);
  allow(has(F::kSmep), cr4::kSmep);
  allow(has(F::kSmap), cr4::kSmap);
  return mask;
}

}  // namespace ostler::x86
