#include "x86/cpu_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

#include "base/suggest.h"
#include "x86/cpu_model_list.h"

namespace ostler::x86 {
namespace {

using F = Feature;

constexpr uint32_t kKvmFeatureLeaf = 0x40000001;

// A row, and what a version of it adds; `beyond`: the version is later than those there are.
struct Named {
  const ModelRow* row = nullptr;
  const ModelVersion* version = nullptr;
  bool beyond = false;
};

// "Haswell", "Haswell-noTSX-IBRS", "Haswell-v4".
Named find_model(std::string_view name) {
  unsigned number = 1;
  std::string_view plain = name;
  if (const size_t dash = name.rfind("-v"); dash != std::string_view::npos) {
    const std::string_view digits = name.substr(dash + 2);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    if (error == std::errc() && end == digits.data() + digits.size() && number != 0)
      plain = name.substr(0, dash);
    else
      number = 1;
  }
  for (const ModelRow& row : model_rows()) {
    if (row.name == plain) {
      Named found{.row = &row, .beyond = number > row.newest()};
      number = std::min(number, row.newest());
      if (number > 1) found.version = &row.versions[number - 2];
      return found;
    }
    for (const ModelVersion& version : row.versions)
      if (!version.alias.empty() && version.alias == name) return {.row = &row, .version = &version};
  }
  return {};
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
  set.set(F::kKvmHintDedicated, false);  // says what nobody here can know
  if (vendor != Vendor::kAmd) {
    set.set(F::kTopoext, false);
    set.set(F::kIbpb, false);  // theirs is a part of spec-ctrl
  }
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

constexpr std::pair<std::string_view, std::string_view> kHostModels[] = {
    {"max", "everything that the host can execute and Ostler implements"},
    {"host", "the host's processor, less what Ostler does not implement"},
};

}  // namespace

std::span<const ModelListing> CpuModel::list() {
  static const std::vector<ModelListing> listing = [] {
    std::vector<ModelListing> all;
    for (const ModelRow& row : model_rows()) {
      const std::string name(row.name);
      all.push_back({name, std::string(row.description)});
      for (const ModelVersion& version : row.versions)
        if (!version.alias.empty())
          all.push_back(
              {std::string(version.alias), fmt::format("{}-v{}", name, &version - row.versions.data() + 2)});
      for (unsigned number = 1; number <= row.newest(); ++number) {
        const FeatureSet adds = number == 1 ? FeatureSet{} : row.versions[number - 2].adds;
        std::string what = name;
        for (size_t i = 0, count = 0; i < kFeatureCount; ++i)
          if (adds.has(static_cast<F>(i)))
            what = count++ == 0 ? fmt::format("{} with {}", name, feature_info(static_cast<F>(i)).spelling)
                                : fmt::format("{}, {}", what, feature_info(static_cast<F>(i)).spelling);
        all.push_back({fmt::format("{}-v{}", name, number), what});
      }
    }
    for (const auto& [name, description] : kHostModels)
      all.push_back({std::string(name), std::string(description)});
    return all;
  }();
  return listing;
}

std::string CpuModel::help() {
  std::string text = "Available CPUs:\n";
  for (const ModelListing& model : list())
    text += fmt::format("  {:<26} {}\n", model.name, model.description);
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
  const Named found = find_model(name);
  FeatureSet quiet;
  if (found.row != nullptr) {
    const ModelRow& row = *found.row;
    model.vendor_ = row.vendor;
    model.vendor_text_ = row.vendor_text;
    model.family_ = row.family;
    model.model_ = row.model;
    model.stepping_ = row.stepping;
    model.brand_ = row.brand;
    model.basic_max_ = row.basic_max;
    model.extended_max_ = row.extended_max;
    model.features_ = row.features | paravirtual();
    if (found.version != nullptr) {
      model.features_ |= found.version->adds;
      if (!found.version->brand.empty()) model.brand_ = found.version->brand;
    }
    if (!model.long_mode()) {  // none of them tells the frequency, and their addresses are those of PAE at
                               // most
      model.basic_max_given_ = true;
      model.physical_bits_ = model.has(F::kPae) ? 36 : 32;
    }
    if (found.beyond)
      model.warnings_.push_back(fmt::format("-cpu {}: {} has versions up to v{} here, which it is then", name,
                                            row.name, row.newest()));
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
                 fmt::format("-cpu: no CPU model is called '{}'{} (-cpu help lists all)", name,
                             suggestion(name, names)));
  }
  if (model.vendor_text_.empty()) model.vendor_text_ = model.amd() ? "AuthenticAMD" : "GenuineIntel";

  if (const size_t comma = text.find(','); comma != std::string_view::npos)
    TRY(model.apply_options(text.substr(comma + 1), host));
  if (!model.kvm_)
    for (size_t i = 0; i < kFeatureCount; ++i)
      if (feature_info(static_cast<F>(i)).leaf == kKvmFeatureLeaf)
        model.features_.set(static_cast<F>(i), false);
  model.settle(host, quiet);
  if (model.long_mode() && !model.has(F::kSse2))
    return Error(
        ErrorKind::kUnsupported,
        fmt::format("-cpu {}: a 64-bit processor without sse2 is not supported; remove the option that "
                    "drops it, or drop lm too",
                    name));
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
