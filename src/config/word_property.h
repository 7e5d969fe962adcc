// A property that is one of several words.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "config/property.h"

namespace ostler::config {

// One of `words`, the last of them the default, which an empty member means too.
template <class Options>
Property<Options> one_of(std::string name, std::string Options::*member, std::vector<std::string_view> words,
                         std::string help) {
  std::string type;
  for (const auto& each : words) type += (type.empty() ? "" : "|") + std::string(each);
  return {{std::move(name), type, std::move(help)},
          [=](Options& options, std::string_view value) -> Result<void> {
            if (std::find(words.begin(), words.end(), value) == words.end())
              return Error(ErrorKind::kInvalidArgument, "'" + std::string(value) + "' is not one of " + type);
            options.*member = value;
            return {};
          },
          [=](const Options& options) {
            return options.*member == "" ? std::string(words.back()) : options.*member;
          }};
}

// What happens to requests that fail, of a disk's device.
template <class Options>
std::vector<Property<Options>> error_actions() {
  return {one_of<Options>("werror", &Options::werror, {"report", "ignore", "stop", "enospc", "auto"},
                          "what happens when a write fails"),
          one_of<Options>("rerror", &Options::rerror, {"report", "ignore", "stop", "auto"},
                          "what happens when a read fails")};
}

}  // namespace ostler::config
