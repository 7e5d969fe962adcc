// A network from its type and its options, as -netdev tells them.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "config/key_value.h"
#include "event/loop.h"
#include "net/backend.h"

namespace ostler::net {

// The types that open() knows: "user", …
std::vector<std::string_view> backend_types();

// Before `loop` runs, or on its thread; so is destruction. Errors name the option; the caller names the
// network.
Result<std::unique_ptr<Backend>> open(event::Loop& loop, std::string_view type,
                                      std::span<const config::KeyValue> options);

}  // namespace ostler::net
