// The table behind -cpu: the real processors that the models are named after.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "x86/cpu_model.h"

namespace ostler::x86 {

// What a later version of a processor has besides: "Haswell-v4", which is also called "Haswell-noTSX-IBRS".
struct ModelVersion {
  std::string_view alias = {};  // empty: only the number
  FeatureSet adds = {};
  std::string_view brand = {};  // empty: the row's
};

struct ModelRow {
  std::string_view name, description;
  Vendor vendor;
  unsigned family, model, stepping;
  std::string_view brand;
  uint32_t basic_max;  // highest basic leaf
  FeatureSet features;
  std::vector<ModelVersion> versions = {};  // v2 and later
  std::optional<uint32_t> extended_max =
      {};                             // highest extended leaf; 0: it has none; nothing: as far as we go
  std::string_view vendor_text = {};  // 12 characters; empty: the vendor's
  unsigned newest() const { return static_cast<unsigned>(versions.size()) + 1; }
};

// Without `max` and `host`, which depend on the host.
std::span<const ModelRow> model_rows();

}  // namespace ostler::x86
