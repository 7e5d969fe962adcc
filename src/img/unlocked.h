// Encrypted images that were opened without their passphrase: they can be described, not read.
#pragma once

#include "img/tool.h"

namespace ostler::img {

// An error that tells how a passphrase is given, if one is missing in the chain of `image`.
Result<void> check_unlocked(Tool& tool, const Image& image);

}  // namespace ostler::img
