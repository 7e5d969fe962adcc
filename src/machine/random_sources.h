// -object rng-random and rng-builtin, which virtio-rng names as its source. Both mean the host kernel's
// generator here: it is asked by getrandom(2), with which reading its device files would be the same.
#pragma once

#include <set>
#include <string>

#include "base/result.h"
#include "config/machine.h"

namespace ostler::machine {

// The ids of those objects. Errors: a setting that names another source, or none of theirs.
Result<std::set<std::string>> random_sources(const config::Machine& config);

}  // namespace ostler::machine
