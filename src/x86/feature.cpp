#include "x86/feature.h"

#include <algorithm>
#include <array>
#include <string>

namespace ostler::x86 {
namespace {

constexpr std::array<FeatureInfo, kFeatureCount> kFeatures = {{
#define FEATURE(name, spelling, leaf, subleaf, reg, bit, offer) \
  {spelling, leaf, subleaf, CpuidRegister::k##reg, bit, Offer::k##offer},
#include "x86/feature_list.inc"
#undef FEATURE
}};

struct Alias {
  std::string_view spelling, listed;
};
constexpr Alias kAliases[] = {
    {"sse3", "pni"},
    {"lzcnt", "abm"},
    {"sse4-1", "sse4.1"},
    {"sse4-2", "sse4.2"},
    {"cmpxchg8b", "cx8"},
    {"cmpxchg16b", "cx16"},
    {"sha", "sha-ni"},
    {"clfsh", "clflush"},
    {"prefetchw", "3dnowprefetch"},
    {"xd", "nx"},
    {"i64", "lm"},
    {"ffxsr", "fxsr-opt"},
    {"tsc-deadline-timer", "tsc-deadline"},
    {"pclmuldq", "pclmulqdq"},
    {"1gb-pages", "pdpe1gb"},
};

}  // namespace

const FeatureInfo& feature_info(Feature feature) {
  return kFeatures[static_cast<size_t>(feature)];
}

std::optional<Feature> find_feature(std::string_view spelling) {
  std::string wanted(spelling);
  std::replace(wanted.begin(), wanted.end(), '_', '-');
  for (const Alias& alias : kAliases)
    if (alias.spelling == wanted) wanted = alias.listed;
  for (size_t i = 0; i < kFeatureCount; ++i)
    if (kFeatures[i].spelling == wanted) return static_cast<Feature>(i);
  return std::nullopt;
}

}  // namespace ostler::x86
