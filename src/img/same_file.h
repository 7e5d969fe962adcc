// A command that would write the file it reads.
#pragma once

#include <string>

#include "img/tool.h"

namespace ostler::img {

// kInvalidArgument if the host's file `target`, under this name or another, belongs to the open chain of
// `source`.
Result<void> check_not_read_from(const std::string& target, const Image& source);

}  // namespace ostler::img
