// The table behind -cpu: the real processors that the models are named after.
#pragma once

#include <span>
#include <string_view>

#include "x86/cpu_model.h"

namespace ostler::x86 {

struct ModelRow {
  std::string_view name, description;
  Vendor vendor;
  unsigned family, model, stepping;
  std::string_view brand;
  uint32_t basic_max;  // highest basic leaf
  FeatureSet features;
};

// Without `max` and `host`, which depend on the host.
std::span<const ModelRow> model_rows();

}  // namespace ostler::x86
