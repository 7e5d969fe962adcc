// For tests: answers calls in the kernel's place. Nothing else includes this.
#pragma once

#include <functional>
#include <optional>

#include "accel/kvm/request.h"

namespace ostler::accel::kvm {

// The result of the call, as call() returns it; none: the kernel is asked.
using Intercept = std::function<std::optional<int>(int fd, const Request& request, unsigned long argument)>;
void set_intercept(Intercept intercept);  // while nobody calls; empty: the kernel is always asked

}  // namespace ostler::accel::kvm
