// -set GROUP.ID.KEY=VALUE: one more setting for an option that was given before, as if it had been written
// there.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace ostler::config {

struct WrittenOption {
  std::string_view name;  // without dashes
  std::string* value;
};

// Adds the setting to the one among `before` that is of that group and has that id. Errors: not of that form,
// no such group, no such option.
Result<void> add_setting(std::span<const WrittenOption> before, std::string_view setting);

}  // namespace ostler::config
