// CPUID flags by name: the closed list in feature_list.inc as an enum and a table.
#pragma once

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string_view>

namespace ostler::x86 {

enum class Feature : uint8_t {
#define FEATURE(name, spelling, leaf, subleaf, reg, bit, offer) k##name,
#include "x86/feature_list.inc"
#undef FEATURE
  kCount,
};
inline constexpr size_t kFeatureCount = static_cast<size_t>(Feature::kCount);

enum class CpuidRegister : uint8_t { kEax, kEbx, kEcx, kEdx };
// Where an implementation of the feature comes from; see feature_list.inc.
enum class Offer : uint8_t { kNever, kOurs, kHost };

struct FeatureInfo {
  std::string_view spelling;  // as in -cpu model,+spelling
  uint32_t leaf, subleaf;
  CpuidRegister reg;
  uint8_t bit;
  Offer offer;
};

const FeatureInfo& feature_info(Feature feature);
// Accepts '_' for '-' and the other usual spellings (sse3, lzcnt, sse4_1…).
std::optional<Feature> find_feature(std::string_view spelling);

class FeatureSet {
 public:
  constexpr FeatureSet() = default;
  FeatureSet(std::initializer_list<Feature> features) {
    for (Feature feature : features) set(feature);
  }
  bool has(Feature feature) const { return bits_[static_cast<size_t>(feature)]; }
  void set(Feature feature, bool on = true) { bits_[static_cast<size_t>(feature)] = on; }
  FeatureSet& operator|=(const FeatureSet& other) {
    bits_ |= other.bits_;
    return *this;
  }
  FeatureSet& operator&=(const FeatureSet& other) {
    bits_ &= other.bits_;
    return *this;
  }
  friend FeatureSet operator|(FeatureSet a, const FeatureSet& b) { return a |= b; }
  friend FeatureSet operator&(FeatureSet a, const FeatureSet& b) { return a &= b; }
  friend bool operator==(const FeatureSet&, const FeatureSet&) = default;

 private:
  std::bitset<kFeatureCount> bits_;
};

}  // namespace ostler::x86
