// What to tell the user when KVM refuses a call: one sentence, with what to do about it. Any thread.
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"

namespace ostler::accel::kvm {

// `what`: the call's name, or that of what it enables; `error`: what call() returned, a negative errno.
Error refusal(std::string_view what, int error);
// The device at `path`, which open(2) refused with `error`, an errno.
Error cannot_open(const std::string& path, int error);

}  // namespace ostler::accel::kvm
