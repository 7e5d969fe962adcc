// One "name=value" as the command line or JSON gave it.
#pragma once

#include <string>
#include <vector>

namespace ostler::config {

struct KeyValue {
  std::string key;
  std::string value;
};

// In the order they were written; a device's property table gives them types.
using Properties = std::vector<KeyValue>;

}  // namespace ostler::config
