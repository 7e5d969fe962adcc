// Nodes of the block graph as -blockdev describes them.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "config/machine.h"

namespace ostler::config {

// From a JSON object with "driver" and "node-name". Errors begin with `origin`.
Result<BlockNode> block_node(std::string_view text, std::string origin);

}  // namespace ostler::config
